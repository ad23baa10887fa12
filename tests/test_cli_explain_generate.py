"""`sightline generate` from end to end, with models of runs of seconds; and the judge with real ones."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from generate_world import write_pipeline
from model_folders import own_cache
from page_checks import read_page
from test_cli_train import call_main

WORDS = ("a", "red", "circle", "above", "a", "blue", "square")
QUICK = ("--steps", "3", "--set", "views=1", "--set", "bank=20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models of smoke runs, of different seeds."""
    base = tmp_path_factory.mktemp("runs")
    with own_cache(base / "cache"):
        for seed in range(2):
            call_main("train", "scenes-scratch", "--smoke", "--output", base / f"{seed}", "--set", f"seed={seed}")
        yield [f"dir:{base / str(seed)}" for seed in range(2)]


def test_words_become_images_gifs_a_sheet_and_settings(runs, tmp_path):
    output = tmp_path / "out"
    code, out, err = call_main(
        "generate", *WORDS, "--model", runs[0], "--output", output, *QUICK, "--seeds", "2", "--frames", "3", "--json"
    )
    assert code == 0, err
    (line,) = out
    values = json.loads(line)
    assert values["stopped"] is None
    assert {p["seed"] for p in values["pictures"]} == {0, 1}
    assert values["pictures"][0]["similarity"] >= values["pictures"][1]["similarity"]
    for entry in values["pictures"]:
        with Image.open(output / entry["file"]) as image:
            assert image.size == (32, 32)
    settings = json.loads((output / "generate.json").read_text())
    assert settings["models"] == [runs[0]]
    assert settings["settings"]["steps"] == 3
    assert "scenes:0" in settings["told_from"]
    assert [step for step, _ in settings["pictures"][0]["curve"]] == [0, 1, 2, 3]
    assert len(settings["pictures"][0]["frames"]) == 3
    assert len(list(output.glob("*.gif"))) == 2
    images, text = read_page((output / "sheet.html").read_text("utf-8"))
    assert len(images) == 2 + 3
    assert " ".join(WORDS) in text


def test_a_judge_is_told_of_all_prompts(runs, tmp_path):
    code, out, err = call_main(
        "generate",
        "--prompts",
        "scenes:4",
        "--model",
        runs[0],
        "--judge",
        runs[1],
        "--output",
        tmp_path / "out",
        *QUICK,
    )
    assert code == 0, err
    assert "names the right prompt of 4 for" in out[-1]
    settings = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert len(settings["judgement"]["verdicts"]) == 4
    assert settings["judgement"]["chance"] == 0.25
    assert not list((tmp_path / "out").glob("*.gif"))


def test_the_network_and_several_models_and_words_to_avoid(runs, tmp_path):
    code, _, err = call_main(
        "generate", *WORDS, "--model", runs[0], "--model", runs[1], "--parameterisation", "network",
        "--avoid", "a heart", "--size-px", "32", "--seeds", "1", "--output", tmp_path / "out", *QUICK,
    )  # fmt: skip
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert settings["avoid"] == ["a heart"]
    assert settings["settings"]["parameterisation"] == "network"


def test_the_first_interrupt_keeps_what_there_is(runs, tmp_path, monkeypatch):
    def interrupt(self, done, total=None, note=""):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("sightline.faces.cli.printing.ProgressBar.show", interrupt)
    code, out, err = call_main(
        "generate",
        *WORDS,
        "--model",
        runs[0],
        "--output",
        tmp_path / "out",
        "--steps",
        "50",
        "--seeds",
        "1",
        "--json",
        "--set",
        "bank=20",
    )
    assert code == 1, err
    assert json.loads(out[0])["stopped"] == "interrupted; 1 of 1 pictures were not finished"
    assert "what there was is kept" in err
    settings = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert settings["pictures"][0]["steps"] == 2
    assert (tmp_path / "out" / settings["pictures"][0]["file"]).is_file()


def test_a_pipelines_samples_are_ranked_by_the_starter(tmp_path):
    pytest.importorskip("diffusers")
    pipeline = write_pipeline(tmp_path)
    code, out, err = call_main(
        "generate", "a", "dog", "in", "snow", "--engine", f"diffusers:{pipeline}", "--steps", "2", "--seeds", "2",
        "--variant", "snow and a dog", "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "no safety checker is run" in err
    text = "\n".join(out)
    assert "a dog in snow:" in text
    assert "too few seeds to tell" in text
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_a_flow_is_trained_goes_on_and_makes_images(runs, tmp_path):
    flow = tmp_path / "flow"
    assert any("patch_px = 4" in line for line in call_main("train", "--list", "scenes-flow")[1])
    code, out, err = call_main("train", "scenes-flow", "--smoke", "--init", runs[0], "--output", flow, "--json")
    assert code == 0, err
    assert json.loads(out[0])["steps"] == 4
    code, out, err = call_main("train", "--resume", "--output", flow, "--set", "steps=5")
    assert code == 0, err
    assert f"--engine flow:{flow}" in err
    code, out, err = call_main(
        "generate", *WORDS, "--engine", f"flow:{flow}", "--steps", "2", "--seeds", "2", "--output", tmp_path / "out",
        "--variant", "a blue square below a red circle", "--avoid", "a ring", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert len(json.loads(out[0])["pictures"]) == 4
    settings = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert (settings["engine"], settings["models"]) == (f"flow:{flow}", [runs[0]])
    assert settings["settings"]["guidance"] == 3.0
    with Image.open(tmp_path / "out" / settings["pictures"][0]["file"]) as image:
        assert image.size == (48, 48)
    code, _, err = call_main(
        "generate", "--prompts", "scenes:2", "--engine", f"flow:{flow}", "--judge", runs[0], "--output", tmp_path / "x"
    )
    assert code != 0
    assert "would mean nothing" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Give the words, or --prompts"),
        (("a", "dog", "--prompts", "scenes:2"), "Give the words, or --prompts"),
        (("a", "dog"), "--model names what makes the pictures"),
        (("a", "dog", "--model", "starter"), "has ONNX graphs only"),
        (("a", "dog", "--engine", "magic"), "--engine is clip, diffusers:MODEL or flow:DIR"),
        (("a", "dog", "--engine", "flow:./none"), "holds no flow"),
        (("a", "dog", "--model", "RUN", "--variant", "a cat"), "it needs --engine diffusers"),
        (("a", "dog", "--model", "RUN", "--set", "step=3"), "Did you mean steps"),
        (("a", "dog", "--model", "RUN", "--judge", "RUN"), "would mean nothing"),
        (("a", "dog", "--model", "RUN", "--judge", "starter"), "give at least two"),
        (("a", "dog", "--model", "RUN", "--seeds", "9999"), "at most 4,096"),
        (("--prompts", "/not/there", "--model", "RUN"), "can't be read"),
        (("a", "dog", "--model", "RUN", "--against", "nothing:here"), "nothing"),
        (("a", "dog", "--engine", "diffusers:x", "--frames", "3"), "--frames is of --engine clip"),
        (("a", "dog", "--engine", "diffusers:x", "--model", "a", "--model", "b"), "one --model ranks"),
        (("a", "dog", "--engine", "diffusers:./none"), "isn't there"),
        (("a", "dog", "--engine", "diffusers:x/y", "--size-px", "20"), "multiple of 8"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_folder(runs, tmp_path, options, said):
    options = [runs[0] if option == "RUN" else option for option in options]
    code, out, err = call_main("generate", *options, "--output", tmp_path / "out")
    assert code in (1, 2)
    assert said in " ".join(err.split())
    assert out == []
    assert not (tmp_path / "out").exists()


def test_a_folder_with_images_is_not_overwritten(runs, tmp_path):
    (tmp_path / "generate.json").write_text("{}")
    code, _, err = call_main("generate", *WORDS, "--model", runs[0], "--output", tmp_path, *QUICK)
    assert code == 2
    assert "pictures of another run" in err


@pytest.mark.slow
def test_a_second_model_recognises_half_of_the_images(tmp_path):
    study = os.environ.get("SIGHTLINE_STUDY")
    if not study or not all((Path(study) / f"scenes-{seed}" / "model.safetensors").is_file() for seed in range(2)):
        pytest.skip("needs two trained models: SIGHTLINE_STUDY names a folder with scenes-0 and scenes-1")
    code, out, err = call_main(
        "generate", "--prompts", "scenes:50", "--model", f"dir:{study}/scenes-0", "--judge", f"dir:{study}/scenes-1",
        "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    judgement = json.loads(out[0])["judgement"]
    assert judgement["right"] >= 25, judgement["right"]
    assert np.mean([verdict["rank"] for verdict in judgement["verdicts"]]) < 5

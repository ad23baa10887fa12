"""`sightline train` from end to end, in this process: a run of seconds, and what can be done with it."""

import contextlib
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from model_folders import own_cache
from sightline.faces.cli.main import main
from sightline.lab.generate.config import FLOW_RECIPE
from sightline.lab.training.log import read_log
from sightline.lab.training.recipes import known_recipes
from sightline.lab.training.recorder import Recorder


def call_main(*words):
    """Exit code, lines of stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr("sys.argv", ["sightline", *map(str, words)])
        out, err = (stack.enter_context(redirect(io.StringIO())) for redirect in (redirect_stdout, redirect_stderr))
        ended = stack.enter_context(pytest.raises(SystemExit))
        main()
    return ended.value.code or 0, out.getvalue().splitlines(), err.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished smoke run, what it printed, and a cache of its own; don't change the folder."""
    base = tmp_path_factory.mktemp("trained")
    with own_cache(base / "cache"):
        yield base / "run", call_main("train", "scenes-scratch", "--smoke", "--output", base / "run", "--json")


def test_a_smoke_run_trains_a_model_and_prints_one_object(trained):
    run, (code, out, err) = trained
    assert code == 0, err
    (line,) = out
    values = json.loads(line)
    assert values["output"] == str(run)
    assert (values["steps"], values["total_steps"], values["stopped"]) == (8, 8, None)
    assert values["best_step"] in (4, 8)
    assert 0 < values["metrics"]["mean_recall"] <= 1
    assert values["images_per_s"] > 0
    assert "steps: 8 = round(2 epochs x 4)" in err
    assert {path.name for path in run.iterdir()} >= {
        "run.json",
        "model.safetensors",
        "sightline.json",
        "tokenizer.json",
    }
    assert [row["step"] for row in read_log(run) if row["kind"] == "train"] == list(range(1, 9))


def test_a_finished_run_resumes_to_the_same_end(trained, tmp_path):
    run, (_, out, _) = trained
    copy = shutil.copytree(run, tmp_path / "run")
    run_log = read_log(run)
    code, again, err = call_main("train", "--resume", "--output", copy, "--json")
    assert code == 0, err
    assert "going on after step 8 of 8" in err
    first, second = json.loads(out[0]), json.loads(again[0])
    for name in ("steps", "total_steps", "best_step", "metrics", "stopped"):
        assert second[name] == first[name], name
    for name in ("model.safetensors", "sightline.json", "run.json"):
        assert (copy / name).read_bytes() == (run / name).read_bytes()
    assert read_log(copy) == run_log


def test_a_run_of_which_the_end_was_lost_is_finished_by_resume(trained, tmp_path):
    run, _ = trained
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "step-8")
    code, again, err = call_main("train", "scenes-scratch", "--resume", "--output", copy)
    assert (code, again) == (0, [str(copy)]), err
    assert "going on after step 4 of 8" in err
    assert f"--model dir:{copy}" in err
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert read_log(copy) == read_log(run)


def test_what_was_trained_is_at_once_a_model_to_index_and_search_with(trained, tmp_path, monkeypatch):
    run, _ = trained
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "library"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 60, 220))):
        Image.fromarray(np.full((60, 80, 3), colour, np.uint8)).save(photos / f"{name}.png")
    code, out, err = call_main("index", photos, "--model", f"dir:{run}", "--json")
    assert code == 0, err
    assert json.loads(out[0])["embedded"] == 2
    code, out, err = call_main("search", "a red circle", "--json")
    assert code == 0, err
    hits = [json.loads(line) for line in out]
    assert {Path(hit["path"]).name for hit in hits} == {"red.png", "blue.png"}
    assert all(-1 <= hit["similarity"] <= 1 for hit in hits)
    assert call_main("search", photos / "red.png", "-f")[1] == [str(photos / "blue.png")]


def test_recipes_are_listed_and_described():
    code, out, _ = call_main("train", "--list")
    assert code == 0
    assert [line.split()[0] for line in out[1:]] == [*known_recipes(), FLOW_RECIPE]
    code, out, _ = call_main("train", "scenes-scratch", "--list")
    assert code == 0
    assert out[0].startswith("A small CLIP learns")
    assert "  batch_size = 64" in out
    assert any(line.startswith("  towers.size_px = ") for line in out)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["scenes-scratch"], 2, "Give a RECIPE and --output DIR"),
        (["--output", "new"], 2, "`sightline train --list` lists the recipes"),
        (["scene-scratch", "--output", "new"], 2, "Did you mean scenes-scratch"),
        (["scene-scratch", "--list"], 2, "There is no recipe 'scene-scratch'"),
        (["scenes-scratch", "--output", "new", "--set", "batchsize=3"], 2, "Did you mean batch_size"),
        (["scenes-scratch", "--output", "new", "--set", "lr"], 2, "key=value"),
        (["flickr8k-scratch", "--output", "new"], 2, "needs pairs to train on: --data KIND:PATH"),
        (["scenes-scratch", "--output", "new", "--resume"], 2, "new holds no run"),
        (["scenes-scratch", "--output", "new", "--resume", "--smoke"], 2, "Leave --smoke or --resume out"),
        (["scenes-scratch", "--smoke", "--output", "new", "--init", "startr"], 1, "starter"),
        (["scenes-scratch", "--smoke", "--output", "new", "--data", "folder:nowhere"], 2, "nowhere"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_leaves_nothing_behind(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    got, out, err = call_main("train", *words)
    assert (got, out) == (code, [])
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "new" / "run.json").exists()


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(trained):
    run, _ = trained
    before = (run / "run.json").read_bytes()
    code, _, err = call_main("train", "scenes-scratch", "--smoke", "--output", run)
    assert code == 2
    assert "holds a run already. Go on with it: --resume" in err
    code, _, err = call_main("train", "scenes-scratch", "--resume", "--smoke", "--output", run)
    assert code == 2
    assert "a run that is resumed keeps its own settings" in err
    code, _, err = call_main("train", "scenes-scratch", "--resume", "--output", run, "--set", "lr=0.5")
    assert code == 1
    assert "lr was 0.002, is now 0.5" in err
    code, _, err = call_main("train", "cc3m-scratch", "--resume", "--output", run)
    assert code == 2
    assert "holds a run of scenes-scratch, not of cc3m-scratch" in err
    assert (run / "run.json").read_bytes() == before


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call_main("train", "scenes-scratch", "--smoke", "--output", tmp_path / "run")
    assert code == 1
    assert "Training needs torch and transformers: pip install 'sightline-images[train]'" in err
    assert not (tmp_path / "run").exists()


def test_a_run_that_ended_before_its_first_measurement_says_that_it_is_no_model_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "_why_stop", lambda self: "interrupted; go on with --resume")
    code, _, err = call_main("train", "scenes-scratch", "--smoke", "--output", tmp_path / "run")
    assert code == 0, err
    assert "is no model yet. Go on with --resume." in err
    assert "best weights" not in err

import json

import numpy as np
import pytest
from click.testing import CliRunner

from captioning_fakes import FakeCaptioner, FakeEncoder, paint
from conftest import SHARED_DATA
from evaluation_fakes import dataset, pair
from page_checks import read_page
from sightline.errors import InputError
from sightline.faces.cli.main import sightline


@pytest.fixture
def run():
    """`run(*words)` -> the finished run; errors other than click's are raised as they are."""

    def call(*words):
        result = CliRunner().invoke(sightline, ["eval", *(str(word) for word in words)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def colours(monkeypatch):
    """`fake:N` is a small data set, and every model the fake one; what was asked for is kept."""
    asked = {}
    pairs = [
        pair("a.jpg", "red", "red", "a red wall", label=0, negatives=[("red", "blue", "attribute")]),
        pair("b.jpg", "blue", "blue", label=1, negatives=[("blue", "green", "count")]),
        pair("c.jpg", "green", "green", label=2),
    ]

    def load(address, *, split="train", limit=None, seed=0):
        asked.update(address=address, split=split, limit=limit, seed=seed)
        several = [*pairs, pair("x.jpg", "broken", "red", label=0)] if address == "fake:broken" else pairs
        several = several * 3 if split == "train" else several
        return dataset(*several, name=address, split=split, class_names=(("red",), ("blue",), ("green",)))

    def load_encoder(name, *, runtime="auto"):
        asked.update(model=name, runtime=runtime)
        return FakeEncoder(name=name)

    monkeypatch.setattr("sightline.lab.data.addressing.load_dataset", load)
    monkeypatch.setattr("sightline.lab.data.addressing.available_splits", lambda address: ("train", "val", "test"))
    monkeypatch.setattr("sightline.core.models.loading.load_encoder", load_encoder)
    monkeypatch.setattr("sightline.core.models.loading.load_captioner", lambda name, runtime: FakeCaptioner())
    return asked


def only_json(result):
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_retrieval_prints_one_object(run, colours):
    result = run(
        "retrieval", "--model", "tiny", "--data", "fake:1", "--split", "test", "--limit", 3, "--seed", 5, "--json"
    )
    values = only_json(result)
    assert result.exit_code == 0
    assert colours == {"address": "fake:1", "split": "test", "limit": 3, "seed": 5, "model": "tiny", "runtime": "auto"}
    assert list(values)[:6] == ["model", "data", "split", "n_images", "n_texts", "metrics"]
    assert (values["model"], values["data"], values["split"]) == ("tiny", "fake:1", "test")
    assert (values["n_images"], values["n_texts"]) == (3, 4)
    assert values["metrics"]["image_retrieval_recall@1"] == 1
    assert set(values["intervals"]) == set(values["metrics"])
    assert values["took_s"] >= 0


def test_the_split_is_val_and_the_seed_0_unless_told(run, colours):
    run("retrieval", "--model", "m", "--data", "fake:1")
    assert (colours["split"], colours["seed"], colours["limit"]) == ("val", 0, None)


def test_a_person_gets_a_table(run, colours):
    lines = run("retrieval", "--model", "tiny", "--data", "fake:1").stdout.splitlines()
    assert lines[0] == "tiny on fake:1, val: 3 images, 4 texts"
    assert lines[1].split() == ["metric", "value", "95%", "interval"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["image_retrieval_recall@10"] == ["100.0%", "100.0%", "to", "100.0%"]
    assert rows["text_retrieval_median_rank"] == ["1.0", "1.0", "to", "1.0"]
    assert rows["text_retrieval_mAP"][0] == "1.000"


def test_without_resamples_there_are_no_intervals(run, colours):
    result = run("retrieval", "--model", "m", "--data", "fake:1", "--resamples", 0, "--json")
    assert "intervals" not in only_json(result)
    assert "interval" not in run("retrieval", "--model", "m", "--data", "fake:1", "--resamples", 0).stdout


def test_images_that_are_left_out_are_named_and_cost_the_exit_code(run, colours):
    result = run("retrieval", "--model", "m", "--data", "fake:broken", "--json")
    assert result.exit_code == 1
    assert only_json(result)["n_images"] == 3
    assert "left out x.jpg: truncated JPEG" in result.stderr
    assert "1 pictures could not be read" in result.stderr


def test_many_of_them_are_counted(run, colours, monkeypatch):
    broken = dataset(pair("a", "red", "red"), *(pair(str(n), "broken", "x") for n in range(8)))
    monkeypatch.setattr("sightline.lab.data.addressing.load_dataset", lambda *_, **__: broken)
    result = run("retrieval", "--model", "m", "--data", "fake:1")
    assert result.stderr.count("left out") == 5
    assert "... and 3 more" in result.stderr


def test_the_json_can_be_kept(run, colours, tmp_path):
    result = run("retrieval", "--model", "m", "--data", "fake:1", "--output", tmp_path / "r.json", "--json")
    assert json.loads((tmp_path / "r.json").read_text()) == only_json(result)
    refused = run("retrieval", "--model", "m", "--data", "fake:1", "--output", tmp_path / "none" / "r.json")
    assert refused.exit_code == 2
    assert "doesn't exist" in refused.stderr


def test_a_file_that_cannot_be_written_does_not_cost_the_figures(run, colours, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"No space left on device. The figures: .*image_retrieval_recall@1"):
        run("retrieval", "--model", "m", "--data", "fake:1", "--output", tmp_path / "r.json")


def test_zeroshot_takes_prompts_and_class_names(run, colours, tmp_path):
    (tmp_path / "prompts.txt").write_text("a {} wall\nsome {}\n")
    (tmp_path / "names.txt").write_text("red\nblue\ngreen, grass\n")
    words = ("zeroshot", "--model", "m", "--data", "fake:1", "--json")
    values = only_json(run(*words, "--prompts", tmp_path / "prompts.txt", "--classes", tmp_path / "names.txt"))
    assert values["metrics"] == {"acc1": 1, "mean_per_class_recall": 1}
    assert values["details"]["prompts"] == ["a {} wall", "some {}"]
    assert values["n_texts"] == 6
    synonyms = run(*words, "--prompts", "names", "--classes", tmp_path / "names.txt", "--synonyms")
    assert only_json(synonyms)["n_texts"] == 4
    with pytest.raises(InputError, match="neither a file nor a set of prompts"):
        run(*words, "--prompts", "phootos")


def test_linear_probe_learns_on_train(run, colours):
    pytest.importorskip("sklearn")
    words = ("linear-probe", "--model", "m", "--data", "fake:1", "--json")
    values = only_json(run(*words, "--limit-train", 50, "--seed", 3))
    assert values["metrics"]["acc1"] == 1
    assert values["details"]["n_train"] == 9
    assert (colours["split"], colours["limit"], colours["seed"]) == ("train", 50, 3)
    refused = run(*words, "--split", "train")
    assert refused.exit_code == 2
    assert "measure it on val or test" in refused.stderr


def test_compose_counts_each_kind(run, colours):
    values = only_json(run("compose", "--model", "m", "--data", "fake:1", "--json"))
    assert values["metrics"] == {"compose_attribute": 1, "compose_count": 1, "compose_mean": 1}


def test_captions_are_written_or_read(run, colours, tmp_path):
    words = ("captions", "--data", "fake:1", "--json")
    written = only_json(run(*words, "--model", "c", "--encoder", "m", "--save", tmp_path / "said.json"))
    assert {"Bleu_4", "ROUGE_L", "CIDEr", "CLIPScore"} <= set(written["metrics"])
    read = only_json(run(*words, "--results", tmp_path / "said.json", "--metric", "CIDEr"))
    assert read["metrics"] == {"CIDEr": written["metrics"]["CIDEr"]}


@pytest.mark.parametrize(
    "words",
    [(), ("--model", "c", "--results", "r.json"), ("--results", "r.json", "--save", "s.json")],
)
def test_captions_come_from_one_place(run, colours, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text("[]")
    result = run("captions", "--data", "fake:1", *words)
    assert result.exit_code == 2
    assert "--model" in result.stderr


@pytest.mark.parametrize("command", ["retrieval", "zeroshot", "linear-probe", "compose"])
def test_model_and_data_must_be_given(run, command):
    for words in (("--data", "scenes"), ("--model", "starter")):
        result = run(command, *words)
        assert result.exit_code == 2
        assert "Missing option" in result.stderr


def test_the_starter_knows_colours_in_class_folders(run, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        for n in range(rng.integers(2, 4)):
            paint(tmp_path / "colours" / "val" / name / f"{n}.png", name)
    result = run(
        "zeroshot",
        "--model",
        "starter",
        "--data",
        tmp_path / "colours",
        "--prompts",
        "names",
        "--json",
        "--resamples",
        0,
    )
    values = only_json(result)
    assert values["data"] == f"classes:{tmp_path / 'colours'}"
    assert 0 <= values["metrics"]["acc1"] <= 1
    assert values["details"]["n_classes"] == 3


@pytest.mark.shared
def test_the_starter_finds_flickr_images(run):
    words = ("--model", "starter", "--data", f"flickr8k:{SHARED_DATA / 'flickr8k'}", "--limit", 100, "--json")
    values = only_json(run("retrieval", *words))
    assert (values["split"], values["n_images"], values["n_texts"]) == ("val", 100, 500)
    # all 1,000: 26.7% among the first 10; chance here is 10%
    assert values["metrics"]["image_retrieval_recall@10"] > 0.5
    assert values["metrics"]["text_retrieval_recall@10"] > 0.5
    low, high = values["intervals"]["image_retrieval_recall@10"]
    assert 0.05 < high - low < 0.2


@pytest.mark.shared
def test_the_starter_names_tiny_imagenet_better_than_chance(run):
    pytest.importorskip("pyarrow")
    words = ("--model", "starter", "--data", f"tiny-imagenet:{SHARED_DATA / 'tiny-imagenet'}", "--limit", 200, "--json")
    values = only_json(run("zeroshot", *words, "--prompts", "names"))
    assert values["details"]["n_classes"] == 200
    assert values["metrics"]["acc1"] > 0.05  # chance is 0.005
    assert values["metrics"]["acc5"] > 0.15


def test_retrieval_writes_a_page(run, colours, tmp_path):
    words = ("retrieval", "--model", "tiny", "--data", "fake:broken", "--json")
    plain, paged = run(*words), run(*words, "--page", tmp_path / "r.html")
    assert only_json(paged)["metrics"] == only_json(plain)["metrics"]
    images, text = read_page((tmp_path / "r.html").read_text())
    assert images
    assert "tiny on fake:broken, val: 3 images, 4 texts" in text
    refused = run(*words, "--page", tmp_path / "none" / "r.html")
    assert refused.exit_code == 2
    assert "doesn't exist" in refused.stderr

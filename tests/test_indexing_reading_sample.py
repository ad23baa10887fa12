"""Pictures for the gate: the same ones each time, unreadable and excluded ones left out; indexing asks once."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sightline.core.images.preprocess import Preprocessing
from sightline.core.indexing.reading import draw_files, sample_images
from sightline.core.indexing.report import IndexConfig
from sightline.core.library import Library
from sightline.core.models.precision import EncoderGate, Verdict
from sightline.faces.cli.main import sightline

SQUARE = Preprocessing(size_px=8, resize_mode="squash")


def write_images(folder, count, *, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        colour = (index * 7 % 256, index * 3 % 256, index % 256)
        Image.new("RGB", (12, 10), colour).save(folder / f"{index}.png")
    return folder


def test_the_same_files_give_the_same_images(tmp_path):
    folder = write_images(tmp_path / "photos", 30)
    first = sample_images([folder], SQUARE, 10)
    assert first.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(sample_images([folder], SQUARE, 10), first)
    assert len({image.tobytes() for image in first}) == 10
    chosen = sorted(int(path.stem) for path in draw_files([folder])[:10])
    assert chosen != list(range(10))  # not simply the first


def test_what_can_not_be_read_is_replaced_and_what_is_excluded_left_alone(tmp_path):
    folder = write_images(tmp_path / "photos", 20)
    for index in range(5):
        (folder / f"{index}.png").write_bytes(b"no picture")
    write_images(folder / "raw", 10, start=100)
    assert len(sample_images([folder], SQUARE, 15, config=IndexConfig(exclude=("raw",)))) == 15
    assert len(sample_images([folder], SQUARE, 20, config=IndexConfig(exclude=("raw",)))) == 15
    assert len(sample_images([folder], SQUARE, 21, config=IndexConfig(exclude=("raw",)))) == 0
    assert len(draw_files([folder, tmp_path / "gone"])) == 30


class Gated:
    """Stands in for the models room: what indexing asks of it."""

    def __init__(self, monkeypatch, *, needed=True):
        self.asked = []
        self.needed = needed
        monkeypatch.setattr("sightline.core.models.quantise.gate.needs_gate", lambda encoder: self.needed)
        monkeypatch.setattr("sightline.core.models.quantise.gate.quantise_encoder", self.quantise)

    def quantise(self, card, pixels, *, sample):
        self.asked.append((card.name, pixels.shape, sample))
        self.needed = False


def test_indexing_asks_the_gate_once_there_are_enough_images(tmp_path, monkeypatch):
    monkeypatch.setattr(EncoderGate, "min_images", 12)
    monkeypatch.setattr(EncoderGate, "__init__", lambda self: None)
    gated = Gated(monkeypatch)
    folder = write_images(tmp_path / "photos", 11)
    with Library.open(tmp_path / "library", model="starter") as library:
        library.index(folder)
        assert gated.asked == []
        before = library.encoder
        write_images(folder, 1, start=11)
        library.index()
        side = before.card.preprocessing.size_px
        assert gated.asked == [("starter", (12, side, side, 3), "pictures of a library")]
        assert library.encoder is not before  # loaded again, as the verdict now says
        library.index()
        assert len(gated.asked) == 1


def test_models_quantise_needs_images_and_fp32_graphs(tmp_path):
    folder = write_images(tmp_path / "photos", 3)
    runner = CliRunner()
    few = runner.invoke(sightline, ["models", "quantise", "starter", "--images", str(folder)])
    assert isinstance(few.exception, Exception)
    assert "256 pictures that can be read; these are 0" in str(few.exception)
    missing = runner.invoke(sightline, ["models", "quantise", "starter", "--images", str(tmp_path / "gone")])
    assert missing.exit_code == 2


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_models_quantise_tells_the_verdict(tmp_path, monkeypatch, passed, code):
    verdict = Verdict(passed=passed, measured={"cosine_mean": 0.9}, required={"cosine_mean": 0.99}, n_samples=256)

    def quantise(card, pixels, *, sample, tell):
        tell("the image tower ...")
        return {"image": verdict, "text": verdict}

    monkeypatch.setattr("sightline.core.models.quantise.gate.quantise_encoder", quantise)
    folder = write_images(tmp_path / "photos", 1)
    result = CliRunner().invoke(sightline, ["models", "quantise", "starter", "--images", str(folder), "--json"])
    assert result.exit_code == code
    assert "the image tower" in result.stderr
    assert json.loads(result.stdout)["image"]["measured"] == {"cosine_mean": 0.9}


def test_models_info_tells_how_a_model_runs(monkeypatch):
    result = CliRunner().invoke(sightline, ["models", "info", "starter", "--json"])
    here = json.loads(result.stdout)["here"]
    assert here["provider"].endswith("ExecutionProvider")
    assert here["threads"] >= 1
    assert here["images_per_run"] >= 1
    assert here["precision"] == {"image": "int8", "text": "int8"}
    captioner = json.loads(CliRunner().invoke(sightline, ["models", "info", "starter-captioner", "--json"]).stdout)
    assert captioner["here"]["precision"] == "int8"
    shown = CliRunner().invoke(sightline, ["models", "info", "starter"]).stdout
    assert "    gate: comes in int8" in shown
    absent = json.loads(CliRunner().invoke(sightline, ["models", "info", "ViT-L-14/openai", "--json"]).stdout)
    assert absent["here"] == {}


def test_the_option_reaches_the_models_and_is_forgotten_after(tmp_path, monkeypatch):
    import os

    seen = []
    monkeypatch.setattr(
        "sightline.core.library.Library.open",
        lambda *_args, **_options: seen.append(os.environ.get("SIGHTLINE_PRECISION")),
    )
    CliRunner().invoke(sightline, ["search", "--precision", "fp32", "a dog"])
    CliRunner().invoke(sightline, ["search", "a dog"])
    assert seen == ["fp32", None]
    wrong = CliRunner().invoke(sightline, ["search", "--precision", "fp16", "a dog"])
    assert wrong.exit_code == 2
    assert "'auto', 'fp32', 'int8'" in wrong.stderr

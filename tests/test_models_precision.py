"""Verdicts on disk: kept whole, and worth nothing under other thresholds, of another recipe, or damaged."""

import dataclasses
import json

import pytest

from sightline.core.models import precision
from sightline.core.models.precision import Verdict, int8_path, quantised_folder, read_verdict, write_verdict
from sightline.errors import InputError
from sightline.kit import config

REQUIRED = {"cosine_mean": 0.99}
VERDICT = Verdict(
    passed=True,
    measured={"cosine_mean": 0.9987},
    required=REQUIRED,
    n_samples=256,
    sample="photos",
    int8_share=0.75,
    kept_fp32=("layer_norm_1", "gelu_3"),
    took_s=12.5,
    runtime="onnxruntime 1.31",
)


def test_a_verdict_comes_back_as_it_was(tmp_path):
    write_verdict(tmp_path / "new", "image", VERDICT)
    assert read_verdict(tmp_path / "new", "image", required=REQUIRED) == VERDICT
    assert read_verdict(tmp_path / "new", "text", required=REQUIRED) is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.verdict.json"]


def test_other_thresholds_and_recipes_make_it_void(tmp_path, monkeypatch):
    write_verdict(tmp_path, "image", VERDICT)
    assert read_verdict(tmp_path, "image", required={"cosine_mean": 0.98}) is None
    monkeypatch.setattr(precision, "RECIPE_VERSION", precision.RECIPE_VERSION + 1)
    assert read_verdict(tmp_path, "image", required=REQUIRED) is None


@pytest.mark.parametrize("text", ["", "[]", '{"passed": true}', "not JSON"])
def test_a_damaged_verdict_is_none(tmp_path, text):
    (tmp_path / "image.verdict.json").write_text(text)
    assert read_verdict(tmp_path, "image", required=REQUIRED) is None


def test_a_verdict_whose_values_are_of_another_kind_is_none(tmp_path):
    write_verdict(tmp_path, "image", VERDICT)
    values = json.loads((tmp_path / "image.verdict.json").read_text())
    for change in ({"passed": "yes"}, {"kept_fp32": 3}, {"required": 0.5}):
        (tmp_path / "image.verdict.json").write_text(json.dumps({**values, **change}))
        assert read_verdict(tmp_path, "image", required=REQUIRED) is None


def test_a_verdict_in_one_line():
    assert VERDICT.describe() == (
        "passed on 256 photos: cosine_mean 0.9987; 2 layers left in fp32, 75% of the weights are int8"
    )
    assert dataclasses.replace(VERDICT, passed=False).describe() == "failed on 256 photos: cosine_mean 0.9987"


def test_the_folder_follows_the_content_of_the_graphs(tmp_path):
    graphs = {name: tmp_path / f"{name}.onnx" for name in ("image", "text")}
    for name, path in graphs.items():
        path.write_text(name)
    folder = quantised_folder(graphs)
    assert folder.is_relative_to(config.cache_dir())
    assert int8_path(folder, "image") == folder / "onnx" / "image.int8.onnx"
    graphs["text"].write_text("other weights")
    assert quantised_folder(graphs) != folder


def test_the_precision_that_is_asked_for(monkeypatch):
    assert config.precision() == "auto"
    monkeypatch.setenv("SIGHTLINE_PRECISION", "int8")
    assert config.precision() == "int8"
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp16")
    with pytest.raises(InputError, match="'fp16'; it must be one of auto, fp32, int8"):
        config.precision()

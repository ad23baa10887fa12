"""The gate of a captioner's int8 graphs: what passes, what fails, and what follows from it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from blip_folders import make_pixels, precision_of, tiny_blip_onnx
from sightline.core.models import precision as captioner_precision
from sightline.core.models.cards import STARTER_CAPTIONER
from sightline.core.models.loading import load_captioner
from sightline.core.models.precision import CaptionerGate
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.captions.gate import gate_captioner, judge

NAME = f"dir:{tiny_blip_onnx()}"
FEW = CaptionerGate(min_images=6, identical=0.6, cider_ratio=0.6)
"""Rounding changes some words of a toy with random weights."""
GATE = CaptionerGate()
WORDS = [
    "a dog runs on grass",
    "two men in the deep snow",
    "a red car in a street",
    "a boat far out at sea",
    "three birds sit on a wire",
    "some people at a long table",
    "an old woman holding flowers",
    "children play with water",
    "a cat sleeping under blankets",
    "one tree before high mountains",
]


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number, pixels in enumerate(make_pixels(6, 32)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_the_same_words_pass():
    verdict = judge(WORDS, WORDS, thresholds=GATE)
    assert verdict.passed
    assert verdict.measured == {"identical": 1.0, "cider_ratio": pytest.approx(1.0)}
    assert (verdict.required, verdict.n_samples) == (GATE.required, 10)


def test_other_words_fail_and_nearly_the_same_pass_by_either_figure():
    assert not judge(WORDS, list(reversed(WORDS)), thresholds=GATE).passed
    changed = [*WORDS[:9], "one tree before a high mountain"]
    by_cider = judge(WORDS, changed, thresholds=GATE)
    assert by_cider.passed
    assert by_cider.measured["identical"] == 0.9
    assert 0.9 < by_cider.measured["cider_ratio"] < 0.99
    assert not judge(WORDS, changed, thresholds=CaptionerGate(cider_ratio=0.99)).passed
    assert judge(WORDS, changed, thresholds=CaptionerGate(cider_ratio=0.99, identical=0.9)).passed


def test_captions_that_are_all_alike_pass_only_if_they_stay_so():
    assert judge(["a dog"] * 5, ["a dog"] * 5, thresholds=GATE).passed
    failed = judge(["a dog"] * 5, ["a cat"] * 5, thresholds=GATE)
    assert not failed.passed
    assert failed.measured == {"identical": 0.0, "cider_ratio": 0.0}


def test_what_passed_runs_in_int8_from_then_on(photos, monkeypatch):
    monkeypatch.setattr(captioner_precision, "CaptionerGate", lambda: FEW)
    assert precision_of(load_captioner(NAME)) == "fp32"
    verdict = gate_captioner(NAME, [*photos, photos[0].parent / "missing.png"], thresholds=FEW)
    assert verdict.passed
    assert (verdict.n_samples, verdict.runtime) == (6, "onnx:CPUExecutionProvider")
    assert verdict.took_s > 0
    assert precision_of(load_captioner(NAME)) == "int8"


def test_damaged_int8_graphs_fail_and_fp32_stays(photos, monkeypatch):
    monkeypatch.setattr(captioner_precision, "CaptionerGate", lambda: FEW)
    original = captioner_precision.write_int8

    def coarse(graph, path):
        original(graph, path)
        model = onnx.load(path)
        for one in model.graph.initializer:
            if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2:
                levels = numpy_helper.to_array(one)
                one.CopyFrom(numpy_helper.from_array((levels // 64 * 64).astype(np.int8), one.name))
        onnx.save(model, path)

    monkeypatch.setattr(captioner_precision, "write_int8", coarse)
    verdict = gate_captioner(NAME, photos, thresholds=FEW)
    assert not verdict.passed
    assert precision_of(load_captioner(NAME)) == "fp32"


def test_too_few_images_give_no_verdict(photos):
    with pytest.raises(InputError, match="judged by at least 256 pictures; 6 can be read"):
        gate_captioner(NAME, photos)
    assert precision_of(load_captioner(NAME)) == "fp32"


def test_a_model_in_int8_only_has_no_gate(photos):
    with pytest.raises(ModelError, match="comes in int8 only"):
        gate_captioner(STARTER_CAPTIONER, photos)

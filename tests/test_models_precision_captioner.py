"""Which graphs a captioner runs: asked for by name, or where a verdict lets it."""

import dataclasses
import shutil

import pytest

from blip_folders import make_pixels, precision_of, tiny_blip_onnx
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import find_card, read_card, write_card
from sightline.core.models.files import find_graphs, only_int8
from sightline.core.models.loading import load_captioner
from sightline.core.models.precision import (
    VERDICT_NAME,
    CaptionerGate,
    Verdict,
    make_int8,
    quantised_folder,
    write_verdict,
)
from sightline.errors import ModelError

NAME = f"dir:{tiny_blip_onnx()}"


@pytest.fixture
def graphs():
    return find_graphs(tiny_blip_onnx(), find_card(NAME))


def give_verdict(graphs, *, passed, required=None):
    verdict = Verdict(
        passed=passed, measured={"identical": 0.99}, required=required or CaptionerGate().required, n_samples=256
    )
    write_verdict(quantised_folder(graphs), VERDICT_NAME, verdict)


def test_auto_is_fp32_until_a_gate_has_passed_int8(graphs):
    assert precision_of(load_captioner(NAME)) == "fp32"
    give_verdict(graphs, passed=False)
    assert precision_of(load_captioner(NAME)) == "fp32"
    give_verdict(graphs, passed=True, required={"identical": 0.5})
    assert precision_of(load_captioner(NAME)) == "fp32", "it was passed under other thresholds"
    give_verdict(graphs, passed=True)
    assert precision_of(load_captioner(NAME)) == "int8"
    assert precision_of(load_captioner(NAME, precision="fp32")) == "fp32"


def test_int8_needs_a_verdict_and_is_made_once(graphs, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PRECISION", "int8")
    with pytest.raises(ModelError, match=r"The gate has not passed int8 of .*: it has not been asked yet"):
        load_captioner(NAME)
    give_verdict(graphs, passed=False)
    with pytest.raises(ModelError, match=r"failed on 256 : identical 0\.9900"):
        load_captioner(NAME, precision="int8")
    give_verdict(graphs, passed=True)
    captioner = load_captioner(NAME)
    assert precision_of(captioner) == "int8"
    assert captioner.generate(make_pixels(1, 32), GenerationConfig(beams=1))[0][0].text
    monkeypatch.setattr("sightline.core.models.precision.write_int8", lambda *args: pytest.fail("made again"))
    assert precision_of(load_captioner(NAME, precision="int8")) == "int8"
    made = sorted(path.name for path in quantised_folder(graphs).rglob("*.onnx"))
    assert made == ["decoder.int8.onnx", "image.int8.onnx"]


def test_int8_that_could_not_be_made_leaves_nothing_behind(graphs, monkeypatch):
    def fail(path_in, path_out):
        path_out.write_bytes(b"half")
        raise ModelError("no")

    monkeypatch.setattr("sightline.core.models.precision.write_int8", fail)
    with pytest.raises(ModelError):
        make_int8(graphs)
    assert not list(quantised_folder(graphs).rglob("*.onnx"))


def test_a_model_that_comes_in_int8_only_runs_in_it(tmp_path, monkeypatch):
    shutil.copytree(tiny_blip_onnx(), tmp_path / "model")
    for name in ("image", "decoder"):
        (tmp_path / "model" / "onnx" / f"{name}.onnx").rename(tmp_path / "model" / "onnx" / f"{name}.int8.onnx")
    card = read_card(tmp_path / "model")
    write_card(tmp_path / "model", dataclasses.replace(card, files={}))
    name, graphs = f"dir:{tmp_path / 'model'}", find_graphs(tmp_path / "model", card)
    assert only_int8(graphs)
    for precision in (None, "auto", "int8"):
        assert precision_of(load_captioner(name, precision=precision)) == "int8"
    refused = r"fp32 was asked for, but .* holds int8 graphs only\. Use the precision auto or int8"
    with pytest.raises(ModelError, match=refused):
        load_captioner(name, precision="fp32")
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp32")
    with pytest.raises(ModelError, match=refused):
        load_captioner(name)
    assert precision_of(load_captioner(name, precision="auto")) == "int8"

"""Loading a captioner by name: which runtime it gets, what is kept, and what is refused."""

import shutil

import pytest

from blip_folders import make_pixels, tiny_blip, tiny_blip_onnx
from sightline.core.models import export
from sightline.core.models.base import Captioner, GenerationConfig
from sightline.core.models.cards import find_card, read_card
from sightline.core.models.files import exports_dir
from sightline.core.models.loading import load_captioner
from sightline.errors import ModelError

NAME = f"dir:{tiny_blip()}"
PLAIN = GenerationConfig(max_tokens=8)


@pytest.fixture
def exports(monkeypatch):
    """Calls of the export, which copies a ready one instead of taking seconds."""
    calls = []

    def copy_export(card, folder_in, folder_out):
        calls.append(folder_in)
        shutil.copytree(tiny_blip_onnx(), folder_out)

    monkeypatch.setattr(export, "export_captioner", copy_export)
    return calls


def test_weights_are_exported_once_and_then_run_without_torch(exports, monkeypatch):
    captioner = load_captioner(NAME)
    assert isinstance(captioner, Captioner)
    assert captioner.runtime.startswith("onnx:")
    assert captioner.card.name == find_card(NAME).name
    assert captioner.card.weights_hash == read_card(tiny_blip_onnx()).weights_hash
    monkeypatch.setattr("sightline.core.models.loading.torch_installed", lambda: False)
    again = load_captioner(find_card(NAME), runtime="onnx")
    pixels = make_pixels(2, 32)
    assert again.generate(pixels, PLAIN) == captioner.generate(pixels, PLAIN)
    assert exports == [tiny_blip()]


def test_the_runtime_torch_runs_the_weights(exports):
    captioner = load_captioner(NAME, runtime="torch")
    assert captioner.runtime.startswith("torch:")
    assert exports == []


def test_a_folder_with_graphs_needs_no_export(exports):
    assert load_captioner(f"dir:{tiny_blip_onnx()}").runtime.startswith("onnx:")
    assert exports == []


def test_without_torch_the_way_on_is_named(exports, monkeypatch):
    monkeypatch.setattr("sightline.core.models.loading.torch_installed", lambda: False)
    for runtime in ("auto", "torch"):
        with pytest.raises(ModelError, match=r"pip install 'sightline-images\[torch\]'"):
            load_captioner(NAME, runtime=runtime)


def test_the_runtime_torch_needs_weights():
    with pytest.raises(ModelError, match="holds no PyTorch weights"):
        load_captioner(f"dir:{tiny_blip_onnx()}", runtime="torch")


def test_an_export_that_was_damaged_is_refused(exports):
    load_captioner(NAME)
    target = exports_dir(tiny_blip())
    graph = target / "onnx" / "decoder.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"onnx/decoder\.onnx is not what"):
        load_captioner(NAME)


def test_an_encoder_is_refused():
    with pytest.raises(ModelError, match=r"is an encoder; captions .* such as 'starter-captioner'"):
        load_captioner("ViT-B-32/openai")


def test_a_model_that_is_not_here_is_not_fetched_unasked():
    with pytest.raises(ModelError, match="sightline models pull blip-base"):
        load_captioner("blip-base")

"""Export of captioners to ONNX: what a folder holds afterwards, and that it holds it wholly or not at all."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from blip_folders import make_pixels, tiny_blip, tiny_blip_onnx
from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import read_card
from sightline.core.models.export import export_captioner
from sightline.core.models.files import hash_file, hash_files
from sightline.core.models.lite import LiteCaptioner, LiteCaptionerConfig
from sightline.core.models.onnx_runtime import OnnxCaptioner, open_session
from sightline.core.models.torch_models import TorchCaptioner
from sightline.errors import ModelError


def test_the_graphs_have_the_contracts_names_and_free_dimensions():
    image = open_session(tiny_blip_onnx() / "onnx" / "image.onnx", threads=1)
    decoder = open_session(tiny_blip_onnx() / "onnx" / "decoder.onnx", threads=1)
    assert (image.inputs, image.outputs) == (("pixel_values",), ("encoder_hidden_states",))
    states = ("key_0", "value_0", "key_1", "value_1")
    assert decoder.inputs == ("input_ids", "encoder_hidden_states", *(f"past_{state}" for state in states))
    assert decoder.outputs == ("logits", *(f"present_{state}" for state in states))
    for images, rows, earlier, new in ((1, 1, 0, 1), (3, 1, 4, 1), (2, 4, 0, 5), (1, 3, 6, 34)):
        pixels = np.zeros((images, 3, 32, 32), dtype=np.float32)
        memory = image.run({"pixel_values": pixels})["encoder_hidden_states"]
        assert memory.shape == (images, 1 + 2 * 2, 32)
        feeds = {f"past_{state}": np.zeros((images, rows, 2, earlier, 16), np.float32) for state in states}
        feeds["input_ids"] = np.full((images, rows, new), 5, dtype=np.int64)  # type: ignore[assignment]
        outputs = decoder.run(feeds | {"encoder_hidden_states": memory})
        assert outputs["logits"].shape[:3] == (images, rows, new)
        assert all(outputs[f"present_{state}"].shape == (images, rows, 2, earlier + new, 16) for state in states)


def test_the_folder_holds_card_tokenizer_and_hashes():
    card, source = read_card(tiny_blip_onnx()), read_card(tiny_blip())
    assert card.weights_hash == hash_files([tiny_blip() / "model.safetensors"])
    assert (card.preprocessing, card.text, card.family) == (source.preprocessing, source.text, "blip")
    assert card.files == {
        f"onnx/{name}.onnx": hash_file(tiny_blip_onnx() / "onnx" / f"{name}.onnx") for name in ("decoder", "image")
    }
    assert (tiny_blip_onnx() / "vocab.txt").read_bytes() == (tiny_blip() / "vocab.txt").read_bytes()
    assert not (tiny_blip_onnx() / "model.safetensors").exists()


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ModelError, match=r"export of image failed: RuntimeError: no such operator\. In Python"):
        export_captioner(read_card(tiny_blip()), tiny_blip(), tmp_path / "exports" / "out")
    assert list((tmp_path / "exports").iterdir()) == []


def test_an_export_that_is_killed_half_way_is_no_model(tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_captioner(read_card(tiny_blip()), tiny_blip(), tmp_path / "exports" / "out")
    assert list((tmp_path / "exports").iterdir()) == []


def test_our_own_captioner_exports_too(tmp_path):
    torch.manual_seed(0)
    config = LiteCaptionerConfig(
        size_px=32, image_width=0.25, image_depth=0.5, nouns=6, classes=9, told=2, vocab_size=60, context_length=12,
        text_width=16, text_layers=1, text_heads=2,
    )  # fmt: skip
    model = LiteCaptioner(config).eval()
    with torch.no_grad():
        model.tokens.weight.normal_(std=1.0)
    folder = tmp_path / "own"
    model.save_pretrained(folder)
    shutil.copyfile(tiny_blip() / "vocab.txt", folder / "vocab.txt")
    card = read_card(tiny_blip())
    text = replace(card.text, context_length=12, bos_id=2, eos_id=3)
    card = replace(card, family="sightline-captioner", text=text)
    export_captioner(card, folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "sightline.json").read_text())["family"] == "sightline-captioner"
    config = GenerationConfig(max_tokens=12, min_tokens=1)
    pixels = make_pixels(3, 32)
    exported = OnnxCaptioner(read_card(tmp_path / "out"), tmp_path / "out", threads=1).generate(pixels, config)
    original = TorchCaptioner(card, folder, device="cpu").generate(pixels, config)
    assert [[one.text for one in several] for several in exported] == [
        [one.text for one in several] for several in original
    ]

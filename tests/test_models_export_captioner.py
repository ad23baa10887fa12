"""Export of captioners to ONNX: what a folder holds afterwards, and that it holds it wholly or not at all.

Covers: sightline.core.models.cached_decoder.
"""

import numpy as np
import pytest
import torch

from blip_folders import tiny_blip, tiny_blip_onnx
from sightline.core.models.cards import read_card
from sightline.core.models.export import export_captioner
from sightline.core.models.files import hash_file, hash_files
from sightline.core.models.onnx_runtime import open_session
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

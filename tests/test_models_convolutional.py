"""The convolutional modules: what their docstrings promise, on models of a few thousand parameters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from sightline.errors import ModelError  # noqa: E402
from sightline.models.convolutional import (  # noqa: E402
    ConvCaptioner,
    ConvCaptionerConfig,
    ConvClip,
    ConvClipConfig,
)

CLIP = ConvClipConfig(
    size_px=32,
    image_width=4,
    image_blocks=(1, 1),
    vocab_size=20,
    context_length=8,
    text_width=16,
    text_layers=2,
    text_heads=2,
    dim=6,
)
CAPTIONER = ConvCaptionerConfig(
    size_px=32,
    image_width=4,
    image_blocks=(1, 1),
    vocab_size=20,
    context_length=8,
    text_width=16,
    text_layers=2,
    text_heads=2,
)


@pytest.fixture
def clip() -> ConvClip:
    torch.manual_seed(0)
    return ConvClip(CLIP).eval()


@pytest.fixture
def captioner() -> ConvCaptioner:
    torch.manual_seed(0)
    return ConvCaptioner(CAPTIONER).eval()


def test_images_and_texts_are_unit_vectors_of_one_space(clip: ConvClip) -> None:
    image_BD, text_TD = clip(torch.randn(3, 3, 32, 32), torch.tensor([[1, 5, 2], [1, 2, 0]]))
    assert image_BD.shape == (3, 6)
    assert text_TD.shape == (2, 6)
    torch.testing.assert_close(image_BD.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(text_TD.norm(dim=-1), torch.ones(2))


def test_an_image_is_the_normalised_mean_of_its_map(clip: ConvClip) -> None:
    image_BD, map_BHWD = clip.encode_images(torch.randn(2, 3, 32, 32))
    assert map_BHWD.shape == (2, 8, 8, 6)
    torch.testing.assert_close(torch.nn.functional.normalize(map_BHWD.mean((1, 2)), dim=-1), image_BD)


def test_padding_never_changes_a_text(clip: ConvClip) -> None:
    short = clip.encode_texts(torch.tensor([[1, 7, 9, 2]]))
    padded = clip.encode_texts(torch.tensor([[1, 7, 9, 2, 0, 0, 0], [1, 3, 4, 5, 6, 7, 2]]))[:1]
    torch.testing.assert_close(short, padded)


def test_text_attention_looks_both_ways(clip: ConvClip) -> None:
    before, after = clip.encode_texts(torch.tensor([[1, 7, 9, 2], [1, 9, 7, 2]]))
    assert not torch.allclose(before, after)


def test_the_decoder_never_looks_ahead(captioner: ConvCaptioner) -> None:
    cells_BNC = captioner.encode_images(torch.randn(1, 3, 32, 32))
    assert cells_BNC.shape == (1, 64, 8)
    one = captioner.decode(torch.tensor([[1, 5, 6, 7]]), cells_BNC)
    other = captioner.decode(torch.tensor([[1, 5, 9, 9]]), cells_BNC)
    assert one.shape == (1, 4, 20)
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2:], other[:, 2:])


def test_the_decoder_sees_the_image(captioner: ConvCaptioner) -> None:
    ids = torch.tensor([[1, 5, 6]])
    one, other = captioner(torch.randn(1, 3, 32, 32), ids), captioner(torch.randn(1, 3, 32, 32), ids)
    assert not torch.allclose(one, other)


def test_a_saved_clip_loads_as_it_was(clip: ConvClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    loaded = ConvClip.from_pretrained(tmp_path)
    assert loaded.config == CLIP
    assert not loaded.training
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sightline-clip"
    inputs = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2]])
    for expected, found in zip(clip(*inputs), loaded(*inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_saved_captioner_loads_as_it_was(captioner: ConvCaptioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path)
    loaded = ConvCaptioner.from_pretrained(tmp_path)
    assert loaded.config == CAPTIONER
    inputs = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5], [1, 6]])
    torch.testing.assert_close(loaded(*inputs), captioner(*inputs))


def test_a_folder_of_the_other_model_is_refused(clip: ConvClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'sightline-clip'; expected 'sightline-captioner'"):
        ConvCaptioner.from_pretrained(tmp_path)


def test_an_incomplete_folder_names_the_missing_file(clip: ConvClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        ConvClip.from_pretrained(tmp_path)


def test_weights_of_other_sizes_are_refused(clip: ConvClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    wider = dataclasses.replace(CLIP, dim=7)
    (tmp_path / "config.json").write_text(json.dumps(wider.to_dict()))
    with pytest.raises(ModelError, match="don't fit"):
        ConvClip.from_pretrained(tmp_path)


def test_an_unknown_config_key_lists_the_valid_ones() -> None:
    with pytest.raises(ModelError, match=r"Unknown config key colour\. Valid keys: context_length, dim"):
        ConvClipConfig.from_dict({"model_type": "sightline-clip", "colour": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 0}, "size_px must be at least 1"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"image_blocks": ()}, "image_blocks needs at least one block"),
        ({"image_blocks": (2, 0)}, "image_blocks needs at least one block"),
        ({"text_heads": 3}, "must divide text_width"),
        ({"pad_id": 20}, "pad_id must lie in"),
        ({"dropout": 1.0}, "dropout must lie in"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ConvClipConfig.from_dict({**CLIP.to_dict(), **change})

"""The convolutional modules: what their docstrings promise, on models of a few thousand parameters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from model_folders import cosines, random_pixels  # noqa: E402
from sightline.core.images.preprocess import Preprocessing  # noqa: E402
from sightline.core.models import convolutional  # noqa: E402
from sightline.core.models.cards import ModelCard, write_card  # noqa: E402
from sightline.core.models.convolutional import ConvClip, ConvClipConfig  # noqa: E402
from sightline.core.models.loading import load_encoder  # noqa: E402
from sightline.errors import ModelError  # noqa: E402
from sightline.lab.training.towers import text_spec  # noqa: E402
from training_world import word_backend  # noqa: E402

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


@pytest.fixture
def clip() -> ConvClip:
    torch.manual_seed(0)
    return ConvClip(CLIP).eval()


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


def make_clip(**changes: object) -> ConvClip:
    torch.manual_seed(0)
    return ConvClip(dataclasses.replace(CLIP, **changes)).eval()  # type: ignore[arg-type]


def texts(model: ConvClip, *ids: list[int]) -> torch.Tensor:  # type: ignore[name-defined]
    return model.encode_texts(torch.tensor(list(ids)))


def test_coordinates_tell_the_image_tower_where_pixels_lie() -> None:
    plain, placed = make_clip(), make_clip(coordinates=True)
    assert plain.image_tower.stem[0].weight.shape == (4, 3, 3, 3)
    assert placed.image_tower.stem[0].weight.shape == (4, 5, 3, 3)
    assert placed.encode_images(torch.randn(2, 3, 32, 32))[1].shape == (2, 8, 8, 6)
    # On a plain picture cells far from the border look alike, unless the tower knows where they are.
    for model, same in ((plain, True), (placed, False)):
        map_BHWD = model.encode_images(torch.zeros(1, 3, 64, 64))[1][0, 4:-4, 4:-4]
        assert torch.allclose(map_BHWD, map_BHWD[:1, :1].expand_as(map_BHWD), atol=1e-5) == same


def test_coordinates_run_from_left_to_right_and_from_top_to_bottom_at_any_size() -> None:
    place_BCHW = convolutional._coordinates(torch.zeros(2, 3, 3, 5))
    assert place_BCHW.shape == (2, 2, 3, 5)
    right, down = place_BCHW[1]
    assert right.tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3
    assert down.tolist() == [[-1] * 5, [0] * 5, [1] * 5]
    assert convolutional._coordinates(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_bag_of_words_ignores_their_order() -> None:
    bag = make_clip(text_layers=0)
    one, turned, other = texts(bag, [1, 7, 9, 2], [1, 9, 7, 2], [1, 9, 8, 2])
    torch.testing.assert_close(one, turned)
    assert not torch.allclose(one, other)
    torch.testing.assert_close(texts(bag, [1, 7, 9, 2, 0, 0])[0], one)


def test_bigrams_look_up_neighbours_in_their_order() -> None:
    model = make_clip(text_bigrams=64)
    assert model.text_tower.bigrams.weight.shape == (64, 16)
    with torch.no_grad():  # now only pairs of neighbours can tell one text from another
        model.text_tower.tokens.weight.zero_()  # type: ignore[operator]
        model.text_tower.positions.zero_()  # type: ignore[operator]
        model.text_tower.bigrams.weight.normal_()  # type: ignore[operator]
    one, turned, again = texts(model, [1, 7, 9, 2], [1, 9, 7, 2], [1, 7, 9, 2])
    assert torch.equal(one, again)
    assert not torch.allclose(one, turned, atol=0.01)


def test_each_pair_of_ids_has_its_row_of_the_table() -> None:
    model = make_clip(text_bigrams=64)
    seen = []
    model.text_tower.bigrams.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    texts(model, [1, 7, 9, 2])
    rows = [(331 * before + 7919 * own) % 64 for before, own in ((0, 1), (1, 7), (7, 9), (9, 2))]
    assert seen[0].tolist() == [rows]


def test_padding_never_changes_a_text_with_bigrams() -> None:
    model = make_clip(text_bigrams=64)
    short = texts(model, [1, 7, 9, 2])
    padded = texts(model, [1, 7, 9, 2, 0, 0, 0], [1, 3, 4, 5, 6, 7, 2])[:1]
    torch.testing.assert_close(short, padded)


def test_a_saved_clip_with_coordinates_and_bigrams_loads_as_it_was(tmp_path: Path) -> None:
    model = make_clip(coordinates=True, text_bigrams=64)
    model.save_pretrained(tmp_path)
    loaded = ConvClip.from_pretrained(tmp_path)
    assert loaded.config == model.config
    inputs = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2]])
    for expected, found in zip(model(*inputs), loaded(*inputs), strict=True):
        assert torch.equal(found, expected)


def test_a_config_from_before_coordinates_and_bigrams_has_neither() -> None:
    values = CLIP.to_dict()
    del values["coordinates"], values["text_bigrams"]
    assert ConvClipConfig.from_dict(values) == CLIP


@pytest.mark.parametrize(
    "changes", [{"coordinates": True, "text_bigrams": 64}, {"coordinates": True, "text_layers": 0}]
)
def test_an_exported_clip_agrees_with_torch(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = tmp_path / "model"
    make_clip(vocab_size=4 + 9, context_length=12, **changes).save_pretrained(folder)
    word_backend("a red ring above blue heart left of the").save(str(folder / "tokenizer.json"))
    card = ModelCard(
        name="made",
        kind="encoder",
        family="sightline-clip",
        source="a test",
        preprocessing=Preprocessing(size_px=32, resize_mode="squash"),
        text=text_spec(12),
        dim=6,
    )
    write_card(folder, card)
    by_torch, by_onnx = load_encoder(f"dir:{folder}", runtime="torch"), load_encoder(f"dir:{folder}")
    assert by_onnx.runtime.startswith("onnx")
    assert by_torch.identity == by_onnx.identity
    pixels = random_pixels(5, 32)
    sentences = ["a red ring above the blue heart", "a heart", "", "the blue ring left of a red ring " * 3]
    for count in (1, 2, 5):
        expected, found = (encoder.encode_images(pixels[:count]) for encoder in (by_torch, by_onnx))
        assert cosines(expected, found).min() >= 0.9999
    for part in (sentences, *([sentence] for sentence in sentences)):
        expected, found = (encoder.encode_texts(part) for encoder in (by_torch, by_onnx))
        assert cosines(expected, found).min() >= 0.9999
    for one, other in zip(by_torch.encode_maps(pixels[:2]), by_onnx.encode_maps(pixels[:2]), strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-4, rtol=0)


def test_a_saved_clip_loads_as_it_was(clip: ConvClip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    loaded = ConvClip.from_pretrained(tmp_path)
    assert loaded.config == CLIP
    assert not loaded.training
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sightline-clip"
    inputs = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2]])
    for expected, found in zip(clip(*inputs), loaded(*inputs), strict=True):
        torch.testing.assert_close(found, expected)


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
    with pytest.raises(ModelError, match=r"Unknown config key colour\. Valid keys: context_length, coordinates, dim"):
        ConvClipConfig.from_dict({"model_type": "sightline-clip", "colour": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 0}, "size_px must be above 0"),
        ({"dim": -1}, "dim must be 0 or more"),
        ({"image_blocks": ()}, "image_blocks must be above 0"),
        ({"image_blocks": (2, 0)}, "image_blocks must be above 0"),
        ({"text_heads": 3}, "must divide text_width"),
        ({"pad_id": 20}, "pad_id must lie in"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"text_layers": -1}, "text_layers must be 0 or more"),
        ({"text_bigrams": -1}, "text_bigrams must be 0 or more"),
        ({"text_layers": 0, "text_bigrams": 8}, "0 for a bag of words, which knows no neighbours"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ConvClipConfig.from_dict({**CLIP.to_dict(), **change})

"""The starters' own modules: shapes, padding, concepts, saving, and that training and running find them."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, find_card
from sightline.core.models.convolutional import ConvClip
from sightline.core.models.files import resolve_folder
from sightline.core.models.inputs import Tokenizer
from sightline.core.models.lite import (
    LiteClip,
    LiteClipConfig,
    SameConv,
    load_own_clip,
)
from sightline.core.models.loading import load_encoder
from sightline.core.models.torch_models import load_towers
from sightline.errors import ModelError
from sightline.lab.data.addressing import load_dataset
from sightline.lab.training.towers import load_trained, text_spec

CONFIG = LiteClipConfig(
    size_px=64, image_width=0.25, image_depth=0.5, feature_width=16, head_width=24, vocab_size=50, context_length=8,
    text_width=16, text_layers=2, text_heads=2, dim=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return LiteClip(CONFIG).eval()


def images(count=3):
    return torch.randn(count, 3, CONFIG.size_px, CONFIG.size_px, generator=torch.Generator().manual_seed(1))


def test_images_and_texts_are_unit_vectors_of_one_space(clip):
    image_BD, map_BHWD = clip.encode_images(images())
    text_TD = clip.encode_texts(torch.tensor([[2, 7, 3, 0], [2, 8, 9, 3]]))
    assert (image_BD.shape, map_BHWD.shape, text_TD.shape) == ((3, 12), (3, 2, 2, 12), (2, 12))
    torch.testing.assert_close(torch.cat([image_BD, text_TD]).norm(dim=1), torch.ones(5))


def test_an_image_is_the_normalised_mean_of_its_map(clip):
    image_BD, map_BHWD = clip.encode_images(images())
    torch.testing.assert_close(F.normalize(map_BHWD.mean(dim=(1, 2)), dim=-1), image_BD)


def test_padding_never_changes_a_text(clip):
    short, padded = torch.tensor([[2, 7, 3]]), torch.tensor([[2, 7, 3, 0, 0]])
    torch.testing.assert_close(clip.encode_texts(short), clip.encode_texts(padded))
    assert not torch.allclose(clip.encode_texts(short), clip.encode_texts(torch.tensor([[2, 3, 7]])))


@pytest.mark.parametrize(("side", "kernel", "before"), [(8, 3, 0), (7, 3, 1), (8, 5, 1), (7, 5, 2)])
def test_convolutions_of_stride_2_pad_as_tensorflow_does(side, kernel, before):
    layer = SameConv(1, 1, kernel, 2, bias=False)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, before, before] = 1  # takes the pixel that the first window's corner lies on
    image = torch.arange(1.0, side * side + 1).view(1, 1, side, side)
    torch.testing.assert_close(layer(image), image[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("factors", "n_blocks", "millions"), [((1.0, 1.0), 16, 3.37), ((1.0, 1.1), 21, 4.11), ((1.1, 1.2), 21, 4.78)]
)
def test_the_towers_have_the_sizes_of_the_published_ones(factors, n_blocks, millions):
    with torch.device("meta"):
        tower = LiteClip(dataclasses.replace(CONFIG, image_width=factors[0], image_depth=factors[1])).image_tower
    assert len(tower.blocks) == n_blocks
    assert sum(p.numel() for p in tower.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_saved_clip_loads_as_it_was_and_as_what_it_is(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    loaded = load_own_clip(tmp_path)
    assert isinstance(loaded, LiteClip)
    assert loaded.config == CONFIG
    torch.testing.assert_close(loaded.encode_images(images())[0], clip.encode_images(images())[0])
    with pytest.raises(ModelError, match="'sightline-lite-clip'; expected 'sightline-clip'"):
        ConvClip.from_pretrained(tmp_path)


def test_its_towers_load_by_the_family_of_our_own_clips(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    card = ModelCard(
        name="x", kind="encoder", family="sightline-clip", source=".", text=text_spec(8), dim=12,
        preprocessing=Preprocessing(size_px=64, resize_mode="squash"),
    )  # fmt: skip
    towers = load_towers(card, tmp_path)
    np.testing.assert_allclose(
        towers.embed_images(images())[0].detach(), clip.encode_images(images())[0].detach(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_width": 0.0}, "image_width must be above 0"),
        ({"text_heads": 3}, r"text_heads \(3\) must divide text_width"),
        ({"pad_id": 50}, "pad_id must lie in"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"colour": 3}, "Unknown config key colour"),
        ({"model_type": "clip"}, "expected 'sightline-lite-clip'"),
    ],
)
def test_configs_of_no_model_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        LiteClipConfig.from_dict({**CONFIG.to_dict(), **change})


def test_a_config_survives_json():
    assert LiteClipConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_the_starter_is_read_back_from_the_graphs_that_ship():
    encoder, card = load_encoder("starter"), find_card("starter")
    towers = load_trained("starter").towers
    pixels = np.stack([card.preprocessing.resize(pair.image.read()) for pair in load_dataset("scenes", limit=6)])
    texts = ["a red circle", "a dog on a beach", "two bicycles", "a cup of coffee on a table"]
    ids = torch.tensor(Tokenizer.load(resolve_folder(card), card.text).encode(texts))
    with torch.inference_mode():
        image_BD = towers.embed_images(torch.from_numpy(card.preprocessing.normalise(pixels)))[0]
        text_TD = towers.embed_texts(ids)
    runs = [*encoder.encode_images(pixels), *encoder.encode_texts(texts)]
    for made_D, runs_D in zip([*image_BD, *text_TD], runs, strict=True):
        assert F.normalize(made_D, dim=0) @ torch.from_numpy(runs_D) > 0.97


def test_graphs_without_the_weights_of_the_model_are_refused(tmp_path):
    folder = resolve_folder(find_card("starter"))
    shutil.copytree(folder, tmp_path / "starter")
    path = tmp_path / "starter" / "onnx" / "text.int8.onnx"
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        tensor.name = tensor.name.replace("positions", "places")
    onnx.save(graph, path)
    with pytest.raises(ModelError, match=r"lack 1 weights \(text_tower\.positions"):
        load_own_clip(tmp_path / "starter")

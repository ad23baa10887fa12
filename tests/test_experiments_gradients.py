"""Gradients and attention of real, tiny towers."""
# ruff: noqa: E402 - without torch the module is skipped before it is imported

import numpy as np
import pytest

from model_folders import random_pixels, write_clip, write_siglip

torch = pytest.importorskip("torch", reason="needs the extra torch")

from sightline.core.models.loading import load_encoder
from sightline.errors import ModelError
from sightline.lab.experiments.explain import choose_method, explain_pixels, load_explainable
from sightline.lab.experiments.gradients import attention_cells, gradient_cells
from sightline.lab.training.loop import train
from sightline.lab.training.recipes import make_config


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_encoder(f"dir:{write_clip(tmp_path_factory.mktemp('clip') / 'model')}", runtime="torch")


@pytest.fixture(scope="module")
def conv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "conv"
    train(make_config("scenes-scratch", smoke=True), folder)
    return load_explainable(f"dir:{folder}", method="gradient")


def vectors(encoder, n=2):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(n, encoder.dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_gradients_of_a_vit_add_up_to_what_scaling_its_patches_does(clip):
    """Gradient x activation is the slope of the cosine as the patch is scaled; the sum, that of all patches at once."""
    pixels, texts = random_pixels(1, 32), vectors(clip)
    heat = gradient_cells(clip, pixels, texts)
    assert heat.shape == (1, 2, 4, 4)
    layer = clip.towers.model.vision_model.encoder.layers[-1].layer_norm1

    def cosines(factor):
        def scale(_module, _inputs, hidden):
            return torch.cat([hidden[:, :1], hidden[:, 1:] * factor], dim=1)

        handle = layer.register_forward_hook(scale)
        try:
            return (clip.encode_images(pixels) @ texts.T)[0].astype(np.float64)
        finally:
            handle.remove()

    slope = (cosines(1.01) - cosines(0.99)) / 0.02
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(heat[0].sum(axis=(1, 2)), slope, rtol=0.02, atol=1e-5)


def test_gradients_of_a_convolutional_tower_see_the_stage_before_the_last(conv):
    pixels = random_pixels(2, 32)
    heat = gradient_cells(conv, pixels, vectors(conv, 3))
    assert choose_method(conv) == "gradient"
    assert heat.shape == (2, 3, 16, 16)  # of the last stage's 8 x 8
    assert np.ptp(heat) > 0


def test_attention_is_never_negative_and_differs_between_texts(clip):
    heat = attention_cells(clip, random_pixels(2, 32), vectors(clip))
    assert heat.shape == (2, 2, 4, 4)
    assert heat.min() >= 0
    assert not np.allclose(heat[:, 0], heat[:, 1])


def test_attention_leaves_the_model_as_it_was(clip):
    pixels = random_pixels(2, 32)
    before = clip.encode_images(pixels)
    kernel = clip.towers.model.vision_model.config._attn_implementation
    attention_cells(clip, pixels, vectors(clip))
    gradient_cells(clip, pixels, vectors(clip))
    np.testing.assert_array_equal(clip.encode_images(pixels), before)
    assert clip.towers.model.vision_model.config._attn_implementation == kernel
    assert not any(module._forward_hooks for module in clip.towers.modules() if hasattr(module, "self_attn"))
    assert all(parameter.grad is None for parameter in clip.towers.parameters())


def test_images_do_not_mix(clip):
    pixels, texts = random_pixels(3, 32), vectors(clip)
    for cells in (gradient_cells, attention_cells):
        together = cells(clip, pixels, texts)
        for row in range(3):
            np.testing.assert_allclose(cells(clip, pixels[row : row + 1], texts)[0], together[row], atol=1e-6)


def test_frozen_weights_have_gradients_too(clip):
    pixels, texts = random_pixels(1, 32), vectors(clip)
    expected = gradient_cells(clip, pixels, texts)
    for parameter in clip.towers.parameters():
        parameter.requires_grad_(False)
    try:
        np.testing.assert_allclose(gradient_cells(clip, pixels, texts), expected, atol=1e-7)
    finally:
        for parameter in clip.towers.parameters():
            parameter.requires_grad_(True)


def test_siglip_has_gradients_and_neither_map_nor_attention(tmp_path):
    encoder = load_encoder(f"dir:{write_siglip(tmp_path / 'siglip')}", runtime="torch")
    pixels, texts = random_pixels(1, 32)[0], vectors(encoder)
    heat, columns = explain_pixels(encoder, pixels, texts, method="gradient")
    assert (heat.shape, columns) == ((2, 16, 16), 4)
    with pytest.raises(ModelError, match="class token"):
        explain_pixels(encoder, pixels, texts, method="attention")
    with pytest.raises(ModelError, match="no map"):
        explain_pixels(encoder, pixels, texts, method="map")


def test_attention_of_a_convolutional_tower_is_refused(conv):
    with pytest.raises(ModelError, match="Use --method gradient"):
        explain_pixels(conv, random_pixels(1, 32)[0], vectors(conv), method="attention")


def test_a_vit_of_one_layer_is_explained(tmp_path):
    folder = tmp_path / "run"
    train(make_config("scenes-scratch", ["towers.architecture=vit", "towers.text_bigrams=0"], smoke=True), folder)
    encoder = load_explainable(f"dir:{folder}")
    assert (encoder.runtime, choose_method(encoder)) == ("torch:cpu", "attention")
    for asked in ("map", "gradient", "attention"):
        side = encoder.card.preprocessing.size_px
        heat, _ = explain_pixels(encoder, random_pixels(1, side)[0], vectors(encoder), method=asked)
        assert heat.shape[0] == 2
        assert np.ptp(heat) > 0

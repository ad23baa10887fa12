"""One suite for every encoder: the starter, CLIP and SigLIP in ONNX Runtime and in PyTorch.

Covers: sightline.core.models.base.
"""

from importlib.util import find_spec

import numpy as np
import pytest

from model_folders import TEXTS, cosines, random_pixels, source_and_export
from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.errors import ModelError

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch")
CASES = [
    pytest.param("starter", id="starter-onnx"),
    *(
        pytest.param((kind, runtime), id=f"{kind}-{runtime}", marks=NEEDS_TORCH)
        for kind in ("clip", "siglip")
        for runtime in ("onnx", "torch")
    ),
]


@pytest.fixture(params=CASES)
def encoder(request, tmp_path_factory):
    if request.param == "starter":
        return load_encoder("starter")
    kind, runtime = request.param
    source, exported = source_and_export(tmp_path_factory, kind)
    return load_encoder(f"dir:{source if runtime == 'torch' else exported}", runtime=runtime)


def pixels_for(encoder, count):
    return random_pixels(count, encoder.card.preprocessing.size_px)


def assert_unit_rows(embeds, count, dim):
    assert embeds.shape == (count, dim)
    assert embeds.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, atol=1e-5)


def test_it_is_an_encoder_that_says_what_it_is(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.dim == encoder.card.dim == encoder.identity.dim
    assert encoder.identity.name == encoder.card.name
    assert len(encoder.identity.weights_hash) == 64
    assert encoder.runtime.split(":")[0] in {"onnx", "torch"}
    assert encoder.precision in {"fp32", "int8"}


def test_images_and_texts_give_unit_rows(encoder):
    assert_unit_rows(encoder.encode_images(pixels_for(encoder, 3)), 3, encoder.dim)
    assert_unit_rows(encoder.encode_texts(TEXTS), len(TEXTS), encoder.dim)


def test_nothing_gives_nothing(encoder):
    assert encoder.encode_images(pixels_for(encoder, 0)).shape == (0, encoder.dim)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_a_row_does_not_depend_on_its_neighbours_or_place(encoder):
    tolerance = 0.9999 if encoder.precision == "fp32" else 0.995
    pixels = pixels_for(encoder, 4)
    together = encoder.encode_images(pixels)
    assert cosines(together, np.concatenate([encoder.encode_images(row[None]) for row in pixels])).min() > tolerance
    assert cosines(together[::-1], encoder.encode_images(pixels[::-1])).min() > tolerance
    texts = encoder.encode_texts(TEXTS)
    assert cosines(texts, np.concatenate([encoder.encode_texts([text]) for text in TEXTS])).min() > tolerance
    assert cosines(texts[::-1], encoder.encode_texts(TEXTS[::-1])).min() > tolerance


def test_different_inputs_give_different_rows(encoder):
    images, texts = encoder.encode_images(pixels_for(encoder, 2)), encoder.encode_texts(["a dog", "the snow"])
    assert images[0] @ images[1] < 0.99999
    assert texts[0] @ texts[1] < 0.99999


def test_the_same_input_gives_the_same_row(encoder):
    pixels = pixels_for(encoder, 2)
    np.testing.assert_array_equal(encoder.encode_images(pixels), encoder.encode_images(pixels))
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_maps_have_the_joint_dimension_or_are_absent(encoder):
    maps = encoder.encode_maps(pixels_for(encoder, 2))
    if encoder.card.family == "siglip":
        assert maps is None
    else:
        assert maps.shape[0] == 2
        assert maps.shape[1] == maps.shape[2] > 1
        assert maps.shape[3] == encoder.dim
        assert maps.dtype == np.float32


@pytest.mark.parametrize("change", ["size", "channels", "type", "rank"])
def test_pixels_of_another_shape_or_type_are_refused(encoder, change):
    pixels = pixels_for(encoder, 1)
    wrong = {
        "size": pixels[:, :-1],
        "channels": pixels[..., :1],
        "type": pixels.astype(np.float32),
        "rank": pixels[0],
    }[change]
    with pytest.raises(ModelError, match=r"takes uint8 pixels of shape \(B, "):
        encoder.encode_images(wrong)

import numpy as np
import pytest
from PIL import Image

from sightline.core.images.preprocess import Preprocessing
from sightline.errors import InputError

ASPECTS = [(500, 375), (375, 500), (331, 500), (90, 1201), (1201, 90), (224, 224), (223, 225), (100, 75), (61, 7)]


def texture(width, height, seed=0):
    """Sharp enough that a wrong phase or kernel shows, colourful enough that swapped channels do."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 3 + 2, width // 3 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("width", "height"), ASPECTS)
@pytest.mark.parametrize("size_px", [224, 97])
def test_crop_equals_transformers_clip_processor_to_the_pixel(width, height, size_px):
    pytest.importorskip("torch")
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil(
        size={"shortest_edge": size_px}, crop_size={"height": size_px, "width": size_px}
    )
    rgb = texture(width, height)
    preprocessing = Preprocessing(size_px=size_px, resize_mode="crop")
    pixels = preprocessing.resize(rgb)
    unscaled = processor(Image.fromarray(rgb), return_tensors="np", do_rescale=False, do_normalize=False)
    assert np.array_equal(pixels, unscaled["pixel_values"][0].transpose(1, 2, 0))
    expected = processor(Image.fromarray(rgb), return_tensors="np")["pixel_values"]
    assert np.allclose(preprocessing.normalise(pixels[None]), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squash_is_a_plain_resize(interpolation):
    rgb = texture(300, 200)
    pixels = Preprocessing(size_px=64, resize_mode="squash", interpolation=interpolation).resize(rgb)
    kernel = Image.Resampling[interpolation.upper()]
    assert np.array_equal(pixels, np.asarray(Image.fromarray(rgb).resize((64, 64), kernel)))
    assert pixels.shape == (64, 64, 3)
    assert pixels.flags.writeable


@pytest.mark.parametrize(("width", "height"), [(200_000, 1), (1, 200_000)])
def test_a_line_of_pixels_is_cropped_without_gigabytes(width, height):
    rgb = np.full((height, width, 3), 200, np.uint8)
    rgb[: height // 3, : width // 3] = 0
    pixels = Preprocessing(size_px=224, resize_mode="crop").resize(rgb)
    assert pixels.shape == (224, 224, 3)
    assert pixels.min() == 200


def test_normalise_follows_its_formula_and_is_contiguous():
    pixels = texture(12, 24).reshape(2, 12, 12, 3)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    planes = Preprocessing(size_px=12, resize_mode="squash", mean=mean, std=std).normalise(pixels)
    expected = ((pixels / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    assert np.allclose(planes, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size_px": 0}, "size_px"),
        ({"resize_mode": "pad"}, "squash, crop"),
        ({"interpolation": "nearest"}, "bicubic, bilinear"),
        ({"std": (0.1, 0.0, 0.1)}, "std"),
        ({"mean": (0.5, 0.5)}, "mean"),
    ],
)
def test_a_preprocessing_that_no_tower_takes_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Preprocessing(**{"size_px": 8, "resize_mode": "crop", **wrong})


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(InputError, match="uint8"):
        Preprocessing(size_px=8, resize_mode="crop").resize(array)

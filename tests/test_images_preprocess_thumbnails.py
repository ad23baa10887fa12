import base64
import io

import numpy as np
import pytest
from PIL import Image

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import InputError


def gradient(width, height):
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(255, 0, height)[:, None, None]
    return np.broadcast_to((across + down) / 2, (height, width, 3)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(400, 300, (100, 75)), (300, 400, (75, 100)), (5000, 3, (100, 1)), (100, 100, (100, 100)), (40, 20, (40, 20))],
)
def test_the_longer_side_fits_the_aspect_is_kept_and_nothing_grows(width, height, expected):
    assert Image.open(io.BytesIO(make_thumbnail(gradient(width, height), size_px=100))).size == expected


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP"])
def test_a_thumbnail_looks_like_its_image(format_name):
    rgb = gradient(600, 400)
    thumbnail = Image.open(io.BytesIO(make_thumbnail(rgb, size_px=150, format=format_name, quality=90)))
    assert thumbnail.format == format_name
    reference = Image.fromarray(rgb).resize(thumbnail.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(thumbnail.convert("RGB")).astype(int) - np.asarray(reference)).mean() < 3


def test_lower_quality_makes_fewer_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    sizes = [len(make_thumbnail(noise, size_px=200, quality=quality)) for quality in (20, 80)]
    assert sizes[0] < sizes[1] / 2


def test_a_data_uri_holds_the_bytes():
    data = make_thumbnail(gradient(10, 10), size_px=10, format="WEBP")
    head, body = data_uri(data, "WEBP").split(",")
    assert head == "data:image/webp;base64"
    assert base64.b64decode(body) == data


@pytest.mark.parametrize(("option", "said"), [({"size_px": 0}, "size_px"), ({"size_px": 9, "quality": 101}, "quality")])
def test_impossible_options_are_refused(option, said):
    with pytest.raises(InputError, match=said):
        make_thumbnail(gradient(10, 10), **option)

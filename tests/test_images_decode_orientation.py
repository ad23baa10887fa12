"""The eight EXIF orientations of one picture come out as the upright one."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from sightline.core.images.decode import read_image, read_info

WIDTH, HEIGHT = 320, 192
BACK = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
"""What a camera held that way does to the upright picture."""


def upright():
    across = np.broadcast_to(np.linspace(0, 255, WIDTH)[None, :], (HEIGHT, WIDTH))
    down = np.broadcast_to(np.linspace(255, 0, HEIGHT)[:, None], (HEIGHT, WIDTH))
    rgb = np.stack([across, down, across / 2 + down / 2], axis=-1)
    rgb[: HEIGHT // 3, : WIDTH // 3] = (250, 20, 20)
    return rgb.round().astype(np.uint8)


def taken(orientation, format_name, **options):
    """A file as a camera held that way writes it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    BACK[orientation](Image.fromarray(upright())).save(file, format_name, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_every_orientation_is_turned_upright(format_name, options, orientation):
    if format_name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = taken(orientation, format_name, **options)
    image = read_image(data)
    assert image.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.rgb.astype(int) - upright()).mean() < 2
    assert (image.info.width, image.info.height) == (WIDTH, HEIGHT)
    assert read_info(data) == image.info


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()  # given as bytes, the orientation is also written as HEIF's own turn, as phones do
    BACK[orientation](Image.fromarray(upright())).save(file, "HEIF", exif=exif.tobytes(), quality=90)
    assert (b"irot" in file.getvalue() or b"imir" in file.getvalue()) == (orientation > 1)
    image = read_image(file.getvalue())
    assert image.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.rgb.astype(int) - upright()).mean() < 3
    assert read_info(file.getvalue()) == image.info


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_heic_that_only_exif_turns_is_turned_by_it(orientation):
    """As some cameras write it, against the standard."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = exif.tobytes()
    exif[ExifTags.Base.Orientation] = 1
    file = io.BytesIO()
    BACK[orientation](Image.fromarray(upright())).save(file, "HEIF", exif=exif.tobytes(), quality=90)
    assert exif.tobytes() in file.getvalue()
    data = file.getvalue().replace(exif.tobytes(), turned)
    assert b"irot" not in data
    assert b"imir" not in data
    image = read_image(data)
    assert image.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.rgb.astype(int) - upright()).mean() < 3
    old = orientation > 1  # what older rules read otherwise is marked, to be embedded anew
    assert read_info(data) == dataclasses.replace(image.info, pixels_version=0 if old else image.info.pixels_version)
    assert (image.info.width, image.info.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_jpegs_are_turned_upright_too(orientation):
    image = read_image(taken(orientation, "JPEG", quality=95, subsampling=0), min_side_px=24)
    assert image.rgb.shape == (48, 80, 3)
    expected = np.asarray(Image.fromarray(upright()).resize((80, 48), Image.Resampling.BOX))
    assert np.abs(image.rgb.astype(int) - expected).mean() < 2
    assert (image.info.width, image.info.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_counts_as_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(upright()).save(file, "JPEG", exif=exif)
    assert read_image(file.getvalue()).rgb.shape == (HEIGHT, WIDTH, 3)


def test_exif_behind_the_pixels_of_a_png_counts():
    data = taken(6, "PNG")
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4])]
    moved = data.replace(chunk, b"")
    end = moved.index(b"IEND") - 4
    moved = moved[:end] + chunk + moved[end:]
    assert np.array_equal(read_image(moved).rgb, upright())
    assert read_info(moved) == read_image(moved).info

"""Whatever a file's pixels mean (profiles, inks, negatives, gaps), sRGB comes out."""

import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from icc_profiles import ADOBE, P3, SRGB, grey_profile, ink_profile, rgb_profile
from sightline.core.images import colours
from sightline.core.images.decode import read_image

SIZE = (96, 64)


def encoded(image, format_name, **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def patches():
    """Eight flat colours, well inside what each profile holds."""
    colours_8x3 = np.array(
        [
            [200, 60, 50],
            [60, 170, 70],
            [50, 70, 180],
            [128, 128, 128],
            [220, 200, 60],
            [90, 60, 120],
            [16, 16, 16],
            [240] * 3,
        ]
    )
    return np.repeat(np.repeat(colours_8x3.reshape(2, 4, 3), SIZE[1] // 2, 0), SIZE[0] // 4, 1).astype(np.uint8)


def linear(levels):
    share = levels / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def by_hand(rgb_HW3, columns, gamma):
    """Colours by a matrix profile -> sRGB levels, with plain arithmetic."""
    light = linear(rgb_HW3) if gamma == "sRGB" else (rgb_HW3 / 255) ** gamma
    there = np.clip(light @ np.array(columns) @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(there <= 0.0031308, there * 12.92, 1.055 * there ** (1 / 2.4) - 0.055)


FORMATS = [
    ("JPEG", {"quality": 100, "subsampling": 0}),
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
]


@pytest.mark.parametrize(("columns", "gamma"), [(P3, "sRGB"), (ADOBE, 2.2)], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize(("format_name", "options"), FORMATS, ids=[name for name, _ in FORMATS])
def test_a_wide_gamut_is_brought_to_srgb(format_name, options, columns, gamma):
    Image.init()
    if format_name not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format_name}")
    data = encoded(Image.fromarray(patches()), format_name, icc_profile=rgb_profile(columns, gamma), **options)
    expected = by_hand(patches(), columns, gamma)
    assert np.abs(expected - patches()).max() > 20
    for min_side_px in (None, 8):
        rgb = read_image(data, min_side_px=min_side_px).rgb
        y, x = (np.array(rgb.shape[:2])[:, None] * [[1, 3, 0, 0], [1, 3, 5, 7]] // [[4], [8]]).tolist()
        for row, column in [(row, column) for row in y[:2] for column in x]:
            wanted = expected[row * SIZE[1] // rgb.shape[0], column * SIZE[0] // rgb.shape[1]]
            assert np.abs(rgb[row, column] - wanted).max() <= 5


def test_heic_too():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(patches())).save(file, quality=100, chroma=444, icc_profile=rgb_profile(P3))
    assert np.abs(read_image(file.getvalue()).rgb - by_hand(patches(), P3, "sRGB")).mean() < 2


@pytest.mark.parametrize(
    "odd",
    [
        rgb_profile(SRGB),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(P3)[:200],
        b"no profile at all",
        rgb_profile(P3)[:140] + bytes(400),
        grey_profile(1.8),
        ink_profile(lambda c, m, y, k: (50, 0, 0)),
    ],
    ids=["sRGB", "sRGB by another name", "cut", "text", "zeros", "for grey", "for inks"],
)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_srgb_and_profiles_that_cannot_be_used_change_nothing(odd, format_name, monkeypatch):
    plain = encoded(Image.fromarray(patches()), format_name)
    expected = read_image(plain).rgb
    assert np.array_equal(read_image(encoded(Image.fromarray(patches()), format_name, icc_profile=odd)).rgb, expected)
    monkeypatch.setattr(colours, "_to_srgb", lambda *_: pytest.fail("looked for a profile"))
    assert np.array_equal(read_image(plain).rgb, expected)


@pytest.mark.parametrize(("format_name", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "I;16")])
def test_grey_with_a_gamma_of_its_own(format_name, mode):
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, None], 96, 1)
    image = Image.fromarray(ramp.astype(np.uint16) * 257 if mode == "I;16" else ramp)
    image = image.convert(mode) if mode == "LA" else image
    rgb = read_image(encoded(image, format_name, icc_profile=grey_profile(1.8))).rgb
    light = (ramp[..., None] / 255) ** 1.8
    expected = 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(rgb - expected).max() <= 3
    assert np.abs(expected - ramp[..., None]).max() > 15


@pytest.mark.parametrize("min_side_px", [None, 8])
@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_inks_by_their_profile(format_name, min_side_px):
    """Of a press whose cyan ink is red, so that no guess is right."""
    press = ink_profile(lambda c, m, y, k: (0, 0, 0) if k else (53, 80, 67) if c else (100, 0, 0))
    inks = Image.new("CMYK", (96, 64))
    inks.paste((255, 0, 0, 0), (0, 0, 48, 64))
    data = encoded(inks, format_name, icc_profile=press, **({"quality": 95} if format_name == "JPEG" else {}))
    rgb = read_image(data, min_side_px=min_side_px).rgb.astype(int)
    assert np.abs(rgb[2, 2] - [255, 0, 0]).max() < 20
    assert rgb[2, -2].min() > 245


def test_lab_needs_no_profile():
    lab = Image.merge("LAB", [Image.new("L", (20, 10), level) for level in (round(53.2 * 2.55), 128 + 80, 128 + 67)])
    rgb = read_image(encoded(lab, "TIFF")).rgb
    assert np.abs(rgb[0, 0].astype(int) - [255, 0, 0]).max() < 12


def test_threads_share_a_profile():
    data = encoded(Image.fromarray(patches()), "PNG", icc_profile=rgb_profile(ADOBE, 2.2))
    colours._to_srgb.cache_clear()
    first = read_image(data).rgb
    colours._to_srgb.cache_clear()
    ready = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert all(
            np.array_equal(read.rgb, first)
            for read in pool.map(lambda _: ready.wait() * 0 or read_image(data), range(8))
        )


def tiff(values, **tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[{"photometric": 262, "no_data": 42113}[name]] = value
    return encoded(Image.fromarray(values), "TIFF", tiffinfo=info)


def ramp(top, kind):
    return np.linspace(0, top, 64 * 32).reshape(32, 64).astype(kind)


def negative(data):
    """A TIFF that Pillow wrote, with 0 said to be white."""
    entry = struct.pack("<HHI", 262, 3, 1)
    return data.replace(entry + struct.pack("<I", 1), entry + struct.pack("<I", 0))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize(("top", "kind"), [(255, np.uint8), (65535, np.uint16), (1.0, np.float32), (300.0, np.float32)])
def test_where_white_is_the_least_value(top, kind, compression):
    data = encoded(Image.fromarray(ramp(top, kind)), "TIFF", **({"compression": compression} if compression else {}))
    dark_first, light_first = read_image(data).rgb, read_image(negative(data)).rgb
    assert dark_first[0, 0, 0] == 0
    assert np.abs(255 - dark_first.astype(int) - light_first).max() <= 1


@pytest.mark.parametrize("top", [1.0, 200.0, 4000.0])
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -9999.0, -3.4028234663852886e38, 1e20])
def test_what_holds_no_data_is_black_and_leaves_the_rest_alone(hole, top):
    whole = ramp(top, np.float32)
    holed = whole.copy()
    holed[5:8] = hole
    rgb, expected = read_image(tiff(holed)).rgb, read_image(tiff(whole)).rgb
    assert not rgb[5:8].any()
    assert np.array_equal(np.delete(rgb, (5, 6, 7), 0), np.delete(expected, (5, 6, 7), 0))


@pytest.mark.parametrize(("hole", "said"), [(-1.5, "-1.5"), (500.0, "500"), (-32768, "-32768"), (0.25, "0.25 ")])
def test_a_value_for_no_data_is_taken_from_its_tag(hole, said):
    holed = ramp(1.0, np.float32) if isinstance(hole, float) else ramp(200, np.int32)
    expected = read_image(tiff(holed)).rgb
    holed[5:8] = hole
    rgb = read_image(tiff(holed, no_data=said)).rgb
    assert not rgb[5:8].any()
    if hole != -32768:
        assert np.array_equal(np.delete(rgb, (5, 6, 7), 0), np.delete(expected, (5, 6, 7), 0))


def test_numbers_around_minus_9999_are_numbers():
    depths = np.linspace(-11000, 0, 64 * 32, dtype=np.float32).reshape(32, 64)
    depths[20, 20] = -9999
    rgb = read_image(tiff(depths)).rgb[..., 0]
    assert (rgb[0, 0], rgb[-1, -1], rgb[20, 20]) == (0, 255, 23)


def test_an_image_without_any_data_is_black():
    assert not read_image(tiff(np.full((4, 4), np.nan, np.float32))).rgb.any()


def bmp_with_alpha(alpha_HW):
    """32 bits in a header of version 4, which names a mask for alpha."""
    rgb = patches()
    pixels = np.dstack([rgb[..., ::-1], alpha_HW])[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = (
        struct.pack("<IiiHHIIiiII", 108, *SIZE, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    )
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


@pytest.mark.parametrize("min_side_px", [None, 8])
def test_a_bmp_whose_alpha_is_all_zero_is_opaque(min_side_px):
    empty, opaque = (bmp_with_alpha(np.full(SIZE[::-1], alpha, np.uint8)) for alpha in (0, 255))
    rgb = read_image(empty, min_side_px=min_side_px).rgb
    assert np.array_equal(rgb, read_image(opaque, min_side_px=min_side_px).rgb)
    half = np.zeros(SIZE[::-1], np.uint8)
    half[:, 48:] = 255
    rgb = read_image(bmp_with_alpha(half)).rgb
    assert (rgb[:, :48] == 255).all()
    assert np.array_equal(rgb[:, 48:], patches()[:, 48:])


@pytest.mark.parametrize("is_said", [True, False])
def test_a_fourth_channel_of_tiff_is_transparency_where_that_is_said(is_said):
    rgba = np.dstack([patches(), np.zeros(SIZE[::-1], np.uint8)])
    data = encoded(Image.fromarray(rgba), "TIFF")
    if not is_said:  # the tag for extra samples becomes one that nobody knows
        data = data.replace(struct.pack("<HHI", 338, 3, 1), struct.pack("<HHI", 60338, 3, 1))
    rgb = read_image(data).rgb
    assert (rgb == 255).all() if is_said else np.array_equal(rgb, patches())

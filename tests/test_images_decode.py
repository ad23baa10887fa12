"""Pictures in every format and pixel mode come out as the same upright RGB."""

import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, features

from sightline.core.images.colours import flatten_to_rgb
from sightline.core.images.decode import SCALED_DECODE_MARGIN, read_image, read_info
from sightline.errors import InputError

WIDTH, HEIGHT = 160, 96


def scene(width=WIDTH, height=HEIGHT):
    """Smooth, asymmetric under every turn, with a different ramp in each channel."""
    across = np.broadcast_to(np.linspace(0, 255, width)[None, :], (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    rgb = np.stack([across, down, (across * 2 + down) / 3], axis=-1)
    rgb[: height // 4, : width // 4] *= 0.3
    return rgb.round().astype(np.uint8)


def encoded(image, format_name, **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def difference(first, second):
    assert first.shape == second.shape
    return np.abs(first.astype(int) - second).mean()


LOSSLESS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True, "exact": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("JPEG2000", {}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("format_name", "options"), LOSSLESS)
def test_lossless_formats_give_exactly_their_pixels_from_files_and_bytes(tmp_path, format_name, options):
    data = encoded(Image.fromarray(scene()), format_name, **options)
    (tmp_path / "named wrongly.xyz").write_bytes(data)
    for source in (data, tmp_path / "named wrongly.xyz"):
        image = read_image(source)
        assert np.array_equal(image.rgb, scene())
        assert image.rgb.dtype == np.uint8
        assert image.rgb.flags.c_contiguous
        assert image.rgb.flags.writeable
        assert (image.info.width, image.info.height, image.info.format) == (WIDTH, HEIGHT, format_name)
        assert read_info(source) == image.info


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True, "subsampling": 0}], ids=str
)
def test_jpeg(options):
    image = read_image(encoded(Image.fromarray(scene()), "JPEG", quality=95, **options))
    assert difference(image.rgb, scene()) < 2
    assert image.info.format == "JPEG"


def test_avif():
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = read_image(encoded(Image.fromarray(scene()), "AVIF", quality=90))
    assert difference(image.rgb, scene()) < 3
    assert image.info.format == "AVIF"


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(scene())).save(file, quality=90)
    image = read_image(file.getvalue())
    assert difference(image.rgb, scene()) < 3
    assert image.info.format == "HEIF"


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "PPM", "BMP", "GIF"])
def test_grey_and_one_bit_images(format_name, mode):
    image = Image.fromarray(scene()).convert(mode)
    rgb = read_image(encoded(image, format_name)).rgb
    assert np.array_equal(rgb, np.asarray(image.convert("RGB")))


def test_grey_jpeg():
    image = Image.fromarray(scene()).convert("L")
    rgb = read_image(encoded(image, "JPEG", quality=95)).rgb
    assert difference(rgb, np.asarray(image.convert("RGB"))) < 2


def cmyk_jpeg(kind):
    inks = np.asarray(Image.fromarray(scene()).convert("CMYK"))
    if kind == "YCCK":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(255 - inks), 95, "CMYK", "444")
    data = encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    if kind == "Adobe":  # whose inks are inverted
        return data
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


@pytest.mark.parametrize("kind", ["Adobe", "YCCK", "no marker"])
@pytest.mark.parametrize("min_side_px", [None, 12])
def test_cmyk_jpegs(kind, min_side_px):
    image = read_image(cmyk_jpeg(kind), min_side_px=min_side_px)
    reference = np.asarray(Image.fromarray(scene()).resize(image.rgb.shape[1::-1], Image.Resampling.BOX))
    assert difference(image.rgb, reference) < 3
    assert (image.info.width, image.info.height) == (WIDTH, HEIGHT)
    assert (image.rgb.shape[1] < WIDTH) == (min_side_px is not None)


def test_cmyk_tiff():
    image = read_image(encoded(Image.fromarray(scene()).convert("CMYK"), "TIFF"))
    assert np.array_equal(image.rgb, scene())


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(format_name):
    levels = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    rgb = read_image(encoded(Image.fromarray(levels), format_name)).rgb
    expected = np.repeat((levels / 257).round().astype(np.uint8)[..., None], 3, axis=-1)
    assert np.abs(rgb.astype(int) - expected).max() <= 1


def test_16_bit_rgb_png_is_scaled_not_clipped():
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in scene())

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(read_image(data).rgb, scene())


@pytest.mark.parametrize("top", [1.0, 255.0, 5000.0])
def test_float_tiff_in_the_usual_ranges(top):
    levels = np.linspace(0, top, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    levels[0, 0] = np.nan
    rgb = read_image(encoded(Image.fromarray(levels), "TIFF")).rgb
    assert np.abs(rgb[..., 0] - np.nan_to_num(levels) / top * 255).max() <= 0.52


def test_32_bit_integers_are_stretched():
    levels = np.linspace(-7_000_000, 9_000_000, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.int32)
    rgb = read_image(encoded(Image.fromarray(levels), "TIFF")).rgb
    assert (rgb.min(), rgb.max()) == (0, 255)
    assert np.abs(rgb[..., 0] - np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)).max() <= 1


def with_hole():
    """The scene with alpha 0 in the left half and 128 in the top right corner, and how it looks on white."""
    rgb, alpha = scene(), np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, : WIDTH // 2] = 0
    alpha[: HEIGHT // 2, WIDTH // 2 :] = 128
    opacity = alpha[..., None] / 255
    return np.dstack([rgb, alpha]), (rgb * opacity + 255 * (1 - opacity)).round().astype(np.uint8)


@pytest.mark.parametrize(("format_name", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_transparent_parts_are_laid_on_white(format_name, options):
    rgba, expected = with_hole()
    rgb = read_image(encoded(Image.fromarray(rgba), format_name, **options)).rgb
    assert np.abs(rgb.astype(int) - expected).max() <= 1


def test_grey_with_alpha_is_laid_on_white():
    rgba, _ = with_hole()
    image = Image.fromarray(rgba).convert("LA")
    rgb = read_image(encoded(image, "PNG")).rgb
    assert (rgb[:, : WIDTH // 2] == 255).all()
    assert np.array_equal(rgb[HEIGHT // 2 :, WIDTH // 2 :, 0], np.asarray(image.getchannel("L"))[HEIGHT // 2 :, 80:])


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_palette_with_transparency_is_laid_on_white(transparency):
    image = Image.new("P", (30, 10))
    image.putpalette([255, 0, 0, 0, 0, 0, 0, 0, 255])
    image.paste(1, (10, 0, 20, 10))
    image.paste(2, (20, 0, 30, 10))
    rgb = read_image(encoded(image, "PNG", transparency=transparency)).rgb
    middle = 0 if transparency == 0 else 127
    assert [rgb[5, x].tolist() for x in (5, 15, 25)] == [[255, 255, 255], [middle] * 3, [0, 0, 255]]


def test_a_transparent_colour_of_rgb_png_is_laid_on_white():
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    image.putpixel((1, 1), (1, 2, 3))
    rgb = read_image(encoded(image, "PNG", transparency=(9, 9, 9))).rgb
    assert (rgb[0, 0].tolist(), rgb[1, 1].tolist()) == ([255, 255, 255], [1, 2, 3])


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(format_name):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
    rgb = read_image(data).rgb
    assert np.abs(rgb.astype(int) - [200, 0, 0]).max() <= 4


def test_a_multi_image_jpeg_is_its_first_image():
    frames = [Image.fromarray(scene()), Image.new("RGB", (40, 40))]
    image = read_image(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95))
    assert difference(image.rgb, scene()) < 2
    assert image.info.format == "JPEG"


@pytest.mark.parametrize("min_side_px", [24, 50, 100, 300, 5000])
def test_a_scaled_jpeg_is_large_enough_and_looks_like_the_full_one(min_side_px):
    data = encoded(Image.fromarray(scene(1000, 600)), "JPEG", quality=92)
    full, scaled = read_image(data), read_image(data, min_side_px=min_side_px)
    assert min(scaled.rgb.shape[:2]) >= min(SCALED_DECODE_MARGIN * min_side_px, 600)
    assert (scaled.rgb.shape[0] < 600) == (min_side_px <= 100)
    assert scaled.info == full.info
    small = [
        np.asarray(Image.fromarray(rgb).resize((24, 24), Image.Resampling.BICUBIC)) for rgb in (full.rgb, scaled.rgb)
    ]
    assert difference(*small) < 1


SHRUNK: dict[str, Any] = {
    "RGB": {},
    "L": {},
    "1": {},
    "P": {},
    "P transparent": {"transparency": 3},
    "RGB transparent": {"transparency": (1, 2, 3)},
    "RGBA": {},
    "LA": {},
}


@pytest.mark.parametrize("kind", SHRUNK)
def test_a_large_image_is_shrunk_before_it_is_flattened_and_looks_like_the_full_one(kind, monkeypatch):
    image = Image.fromarray(scene(900, 600))
    if kind in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(scene(900, 600)[..., 0]))
    data = encoded(image.convert(kind.split()[0]), "PNG", **SHRUNK[kind])
    flattened = []

    def flatten(image):
        flattened.append(image.size)
        return flatten_to_rgb(image)

    monkeypatch.setattr("sightline.core.images.decode.flatten_to_rgb", flatten)
    full, scaled = read_image(data), read_image(data, min_side_px=50)
    assert flattened == [(900, 600), (150, 100)]
    assert scaled.info == full.info
    expected = np.array(Image.fromarray(full.rgb).reduce(6))
    assert difference(scaled.rgb, expected) < 2


def test_deep_grey_keeps_its_range_whatever_size_is_asked():
    data = encoded(Image.fromarray(np.full((600, 900), 65535, np.uint16)), "PNG")
    assert read_image(data, min_side_px=50).rgb.min() == 255


def test_of_very_large_images_one_is_decoded_at_a_time(monkeypatch):
    monkeypatch.setattr("sightline.core.images.decode._LARGE_PIXELS", 1000)
    data = encoded(Image.fromarray(scene()), "PNG")
    lock, under_way, most = threading.Lock(), 0, 0

    def flatten(image):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return flatten_to_rgb(image)

    monkeypatch.setattr("sightline.core.images.decode.flatten_to_rgb", flatten)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(read_image, [data] * 8))) == 8
    assert most == 1
    two = threading.Barrier(2, timeout=240)
    monkeypatch.setattr("sightline.core.images.decode._LARGE_PIXELS", 10**6)
    monkeypatch.setattr(
        "sightline.core.images.decode.flatten_to_rgb", lambda image: (two.wait() and None) or flatten(image)
    )
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(read_image, [data] * 8))) == 8  # none would end were there no second beside it


def test_stray_bytes_in_a_jpeg_do_no_harm():
    data = encoded(Image.fromarray(scene()), "JPEG", quality=95)
    for odd in (data[:-2] + b"stray" + data[-2:], data + b"a video may follow" * 100):
        assert difference(read_image(odd).rgb, scene()) < 2
        assert difference(read_image(odd, min_side_px=200).rgb, scene()) < 2


def test_a_minimum_side_below_one_is_refused():
    with pytest.raises(InputError, match="min_side_px"):
        read_image(b"", min_side_px=0)


def test_many_threads_decode_at_once_without_mixing_images():
    kinds = ["JPEG", "PNG", "GIF", "TIFF"]
    images = [Image.new("RGB", (64, 64), (index * 8, 255 - index * 8, 128)) for index in range(24)]
    files = [encoded(image, kinds[index % 4]) for index, image in enumerate(images)]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(read_image, files * 8))
    for one, image in zip(decoded, images * 8, strict=True):
        assert np.abs(one.rgb.astype(int) - np.asarray(image)).max() <= 3


def steps_beside_a_decode(data):
    """How often this thread got to run while another one decoded."""
    started, finished, steps = threading.Event(), threading.Event(), 0
    worker = threading.Thread(target=lambda: (started.set(), read_image(data), finished.set()))
    worker.start()
    started.wait()
    while not finished.wait(0.001):
        steps += 1
    worker.join()
    return steps


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_other_threads_run_while_a_large_image_is_decoded(format_name):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format_name)
    assert any(steps_beside_a_decode(data) > 3 for _ in range(50))  # where others use the machine, late at times

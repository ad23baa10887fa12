"""Whatever a file holds, reading it gives a picture or an ImageError with a short reason, and warns nobody."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import ExifTags, Image, features

from sightline.core.images import decode
from sightline.core.images.decode import quiet_pillow, read_image, read_info
from sightline.core.images.files import HEIF_MISSING
from sightline.errors import ImageError, InputError

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM"]


def texture():
    coarse = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 160), Image.Resampling.BICUBIC)


def encoded(image, format_name, **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def reason(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"This is not a photo at all.\n", "not an image (its content is text)"),
        (b"\0" * 4000, "not an image (it holds only zero bytes)"),
        (b"%PDF-1.7 \xff\xd8\xff", "not an image (its content is a PDF)"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, data, expected):
    (tmp_path / "photo.jpg").write_bytes(data)
    assert reason(tmp_path / "photo.jpg") == expected
    with pytest.raises(ImageError, match=r"^[^/]*$"):
        read_info(tmp_path / "photo.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("min_side_px", [None, 16])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95, -3])
def test_a_truncated_jpeg_is_an_error_not_grey(options, min_side_px, part):
    data = encoded(texture(), "JPEG", quality=90, **options)
    cut = data[: int(len(data) * part)] if part > 0 else data[:part]
    assert reason(cut, min_side_px=min_side_px) == "truncated JPEG"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("ending", [b"", b"\xff", b"\0" * 100, b"\xff" * 9])
@pytest.mark.parametrize("min_side_px", [None, 16])
def test_a_jpeg_that_lacks_its_end_mark_alone_is_whole(mode, ending, min_side_px):
    data = encoded(texture().convert(mode), "JPEG", quality=90)
    assert data.endswith(b"\xff\xd9")
    sealed, open_ended = (read_image(d, min_side_px=min_side_px) for d in (data, data[:-2] + ending))
    assert np.array_equal(open_ended.rgb, sealed.rgb)
    assert reason(data[:-12] + ending, min_side_px=min_side_px) == "truncated JPEG"


def test_an_arithmetic_jpeg_without_end_mark_is_truncated():
    """Its decoder makes up what is missing, so nothing tells whether all is there."""
    data = encoded(texture(), "JPEG", quality=90).replace(b"\xff\xc0\0\x11", b"\xff\xc9\0\x11")
    assert decode._ARITHMETIC.search(data)
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode._seal_jpeg(data[:-2])


def tiff_of(values, *, photometric=1, compression=1, tags=()):
    """A TIFF of one strip, little-endian, of samples of any type."""
    height, width, samples = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = values.dtype.itemsize * 8
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, compression), (262, 3, photometric),
        (273, 4, 8), (277, 3, samples), (278, 4, height), (279, 4, values.nbytes), (339, 3, kind), *tags,
    ]  # fmt: skip
    pixels = values.astype(values.dtype.newbyteorder("<")).tobytes()
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + ifd + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        tiff_of(np.zeros((4, 4), np.float16)),
        tiff_of(np.zeros((4, 4), np.float64)),
        tiff_of(np.zeros((4, 4, 3), np.float32), photometric=2),
        tiff_of(np.zeros((4, 4), np.uint8), compression=34887),
        tiff_of(np.zeros((4, 4), np.uint8), compression=34712),
    ],
    ids=["float16", "float64", "RGB of floats", "LERC", "JPEG 2000"],
)
def test_a_sound_tiff_of_a_rare_kind_is_not_called_damaged(data):
    assert reason(data) == "unsupported TIFF"
    assert read_image(tiff_of(np.full((4, 4), 7, np.uint8))).rgb[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("min_side_px", [None, 16])
def test_a_jpeg_whose_rest_was_lost_or_overwritten_is_an_error(min_side_px):
    data = encoded(texture(), "JPEG", quality=90)
    half = len(data) // 2
    assert reason(data[:half] + b"\xff\xd9", min_side_px=min_side_px) == "damaged JPEG"
    assert reason(data[:half] + bytes(half), min_side_px=min_side_px) == "truncated JPEG"
    cmyk = encoded(texture().convert("CMYK"), "JPEG", quality=90)
    assert reason(cmyk[: len(cmyk) // 2], min_side_px=min_side_px) == "truncated JPEG"


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_cut_in_the_middle_is_an_error_that_names_its_format(format_name):
    data = encoded(texture(), format_name)
    said = reason(data[: len(data) // 2])
    assert said in {f"truncated {format_name}", f"damaged {format_name}"}


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_cut_in_its_header_is_an_error_that_names_its_format(format_name):
    said = reason(encoded(texture(), format_name)[:17])
    assert said in {f"truncated {format_name}", f"damaged {format_name}"}


def png_claiming(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_a_header_that_claims_too_many_pixels_is_refused():
    expected = "too large: 60000 x 60000 pixels, the limit is 250000000 (SIGHTLINE_MAX_PIXELS)"
    assert reason(png_claiming(60_000, 60_000)) == expected
    with pytest.raises(ImageError, match="too large"):
        read_info(png_claiming(60_000, 60_000))


@pytest.mark.parametrize("format_name", ["PNG", "GIF", "JPEG", "TIFF"])
def test_a_small_file_of_many_pixels_is_refused_before_they_are_decoded(monkeypatch, format_name):
    data = encoded(
        Image.new("L", (4000, 3000)), format_name, **({"compression": "tiff_lzw"} if format_name == "TIFF" else {})
    )
    assert len(data) < 200_000
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "11999999")
    monkeypatch.setattr(decode, "flatten_to_rgb", lambda image: pytest.fail("decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    assert reason(data, min_side_px=10).startswith("too large: 4000 x 3000 pixels, the limit is 11999999")


def test_our_limit_counts_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(encoded(texture(), "PNG")).rgb.shape == (160, 240, 3)
    assert read_image(encoded(texture(), "GIF")).rgb.shape == (160, 240, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_limit_that_is_no_number_is_the_users_error_not_the_images(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="SIGHTLINE_MAX_PIXELS") as caught:
        read_image(encoded(texture(), "PNG"))
    assert not isinstance(caught.value, ImageError)


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    assert reason(tmp_path / "gone.jpg") == "no such file"
    assert reason(tmp_path) == "is a folder"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "loop.jpg") == "symlink loop"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied", "/secret/place.jpg"), "permission denied"),
        (OSError(5, "Input/output error"), "disk or network read error"),
        (OSError(16, "Device or resource busy"), "can't be read (device or resource busy)"),
    ],
)
def test_what_the_system_refuses_is_said_without_the_path(tmp_path, monkeypatch, error, expected):
    (tmp_path / "a.jpg").write_bytes(encoded(texture(), "JPEG"))

    def refuse(*_args, **_options):  # chmod would not keep root out
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(tmp_path / "a.jpg") == expected


def test_a_file_without_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "a.jpg").write_bytes(encoded(texture(), "JPEG"))
    (tmp_path / "a.jpg").chmod(0)
    assert reason(tmp_path / "a.jpg") == "permission denied"


def test_a_disk_that_fails_while_reading(monkeypatch):
    class FailingDisk(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 1000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(io, "BytesIO", FailingDisk)
    assert reason(encoded(texture(), "PNG")) == "disk or network read error"


def test_too_little_memory_is_said(monkeypatch):
    def exhaust(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", exhaust)
    assert reason(encoded(texture(), "JPEG")) == "not enough memory to decode it"


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_without_its_extra_says_what_to_install(monkeypatch, brand):
    monkeypatch.setattr(decode, "_readable_formats", lambda: decode._FORMATS)
    monkeypatch.setattr("sightline.core.images.files.heif_available", lambda: False)
    head = struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0" + b"mif1heic"
    assert reason(head + b"\0" * 100) == HEIF_MISSING


def damaged_variants(data, rng):
    yield from (data[: int(cut)] for cut in rng.integers(1, len(data), 8))
    for _ in range(24):
        broken = bytearray(data)
        # headers are where the structure is
        for position in rng.integers(0, rng.choice([40, 200, len(data)]), rng.integers(1, 6)):
            broken[min(position, len(data) - 1)] = rng.integers(0, 256)
        yield bytes(broken)


@pytest.mark.parametrize("format_name", [*FORMATS, "AVIF", "HEIF"])
def test_random_damage_gives_an_image_or_an_image_error_and_no_noise(format_name, rng, capfd, monkeypatch):
    if format_name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if format_name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "1000000")
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:01 12:30:00"
    options = {} if format_name in {"GIF", "BMP", "JPEG2000", "PPM"} else {"exif": exif}
    data = encoded(texture().resize((90, 60)), format_name, **options)
    outcomes = set()
    for broken in damaged_variants(data, rng):
        for read in (read_image, read_info):
            try:
                outcomes.add(type(read(broken)).__name__)
            except ImageError as error:
                outcomes.add(error.reason)
    assert len(outcomes) > 2
    assert all(0 < len(outcome) < 90 for outcome in outcomes)
    assert capfd.readouterr() == ("", "")


def tiff_with_a_broken_tag():
    """A readable TIFF one of whose tags points outside the file: Pillow warns."""
    data = bytearray(encoded(Image.new("RGB", (8, 8), (10, 20, 30)), "TIFF", software="x" * 40))
    first_tag = int.from_bytes(data[4:8], "little") + 2
    tags = range(first_tag, first_tag + 12 * int.from_bytes(data[first_tag - 2 : first_tag], "little"), 12)
    software = next(tag for tag in tags if int.from_bytes(data[tag : tag + 2], "little") == 305)
    data[software + 8 : software + 12] = (10**6).to_bytes(4, "little")
    return bytes(data)


def test_pillows_warnings_stay_inside(recwarn):
    data = tiff_with_a_broken_tag()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match="Truncated File Read"):
            Image.open(io.BytesIO(data)).load()
    assert read_image(data).rgb[0, 0].tolist() == [10, 20, 30]
    assert len(recwarn) == 0


def test_warnings_of_others_still_come_through():
    with quiet_pillow(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
    with quiet_pillow(), quiet_pillow():
        pass
    data = tiff_with_a_broken_tag()
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(io.BytesIO(data)).load()


def test_the_quiet_filter_is_kept_once_and_first():
    for _ in range(3):
        warnings.simplefilter("error")
        with quiet_pillow():
            pass
    ours = [known for known in warnings.filters if type(known[3]).__name__ == "_PillowOfThisThread"]
    assert len(ours) == 1
    assert warnings.filters[0] is ours[0]


def test_reading_an_image_leaves_no_open_file(tmp_path):
    if sys.platform != "linux":
        pytest.skip("counts /proc/self/fd")
    for format_name in FORMATS:
        (tmp_path / format_name).write_bytes(encoded(texture(), format_name))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for format_name in FORMATS:
        read_image(tmp_path / format_name)
        read_info(tmp_path / format_name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

"""The only way to a file's pixels: upright RGB, or an ImageError whose reason can be counted.

Pillow reads the header of every format and the pixels of all but plain JPEGs, which simplejpeg decodes, at a reduced
scale where that is enough; `colours` makes sRGB of them.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (  # importing a plugin registers its format
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from PIL.ImageFile import ImageFile

from sightline.core.images.colours import (
    apply_profile,
    differs_from_plain,
    flatten_to_rgb,
    has_empty_alpha,
    is_deep_grey,
)
from sightline.core.images.facts import TURN_LEFT, read_facts
from sightline.core.images.files import AVIF_MISSING, HEIF_MISSING, describe_content, explain_os_error, heif_available
from sightline.core.types import ImageInfo
from sightline.errors import ImageError, InputError

SCALED_DECODE_MARGIN = 2.0
"""Factor by which a scaled image stays larger than asked. Resized to 48 to 224 pixels, up to 74 JPEGs (Flickr8k, COCO)
differ from their full decode by a mean of 0.9 of 255 levels, correlation 0.9994 (worst 0.9937); at margin 1.0 by 2.1
levels, correlation 0.9976 (worst 0.9656)."""

PIXELS_VERSION = 1
"""By which rules pixels are read, kept with each image; `differs_from_plain` tells which images other rules concern.
0 knew no colour profiles, and read negatives, gaps and unused alpha of TIFF and BMP as they stood."""

DEFAULT_MAX_PIXELS = 250_000_000
"""Largest picture decoded, in pixels (a 12-megapixel photo has 12 million); `SIGHTLINE_MAX_PIXELS` overrides."""
_LARGE_PIXELS = 25_000_000
_large_image = threading.Lock()
"""Pillow needs 8 to 23 bytes a pixel, so of larger images it decodes one at a time, however many threads ask: a file
of some kilobytes can hold as many pixels as the limit allows."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
_DAMAGED_JPEG = (
    "Premature end of JPEG file",
    "premature end of data segment",
    "bad Huffman code",
    "bad arithmetic code",
    "instead of RST",
)
"""libjpeg's warnings after which pixels are missing. It only warns of others, such as stray bytes, for order's sake."""
_ARITHMETIC = re.compile(rb"\xff[\xc9\xca]\0[\x0b\x11\x14]\x08")
"""The start of a frame with arithmetic coding: its mark, its length, 8 bits."""
_UNSUPPORTED = ("unsupported", "unknown pixel mode", "unknown data organization", "not yet supported", "cannot handle")
_RARE_COMPRESSIONS = {9, 10, 34661, 34712, 34887, 34892, 50002, 52546}
"""Of TIFF, by number, such as Pillow doesn't know: JBIG, JPEG 2000, LERC, DNG's, JPEG XL."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the stored pixels upright."""

_HEIF_HEAD_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """Upright pixels (H, W, 3) uint8 RGB, and what the file says of itself."""

    rgb: NDArray[np.uint8]
    info: ImageInfo
    """Facts of the full image, even where `rgb` is a scaled decode."""


def read_image(source: Path | bytes, *, min_side_px: int | None = None, sidecar: bytes | None = None) -> DecodedImage:
    """Decode a file, or its bytes, to upright RGB; transparent parts are laid on white.

    With `min_side_px`, an image may come smaller than it is: its shorter side at least SCALED_DECODE_MARGIN times that
    (or its full size). The first frame of an animation is read. `sidecar` is an XMP file beside the image. Raises
    ImageError for a file that can't be read, InputError for a `min_side_px` below 1.
    """
    if min_side_px is not None and min_side_px < 1:
        raise InputError(f"min_side_px must be at least 1; it is {min_side_px}.")
    smallest_px = None if min_side_px is None else math.ceil(min_side_px * SCALED_DECODE_MARGIN)
    with _opened(source) as image:
        size = image.size
        is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
        plain_HW3 = _decode_jpeg(image, smallest_px) if is_jpeg else None
        rgb_HW3 = _decode_by_pillow(image, smallest_px) if plain_HW3 is None else apply_profile(plain_HW3, image)
        orientation, facts = read_facts(image, sidecar)
        turn = _TURNS.get(orientation)
        upright_HW3 = rgb_HW3 if turn is None else np.array(Image.fromarray(rgb_HW3).transpose(turn))
        return DecodedImage(upright_HW3, _describe(image, size, orientation, facts))


def read_info(source: Path | bytes, *, sidecar: bytes | None = None) -> ImageInfo:
    """Facts of a file's header, without decoding its pixels.

    Of a PNG without EXIF before its pixels Pillow decodes them to look behind them. `pixels_version` is 0
    where today's rules read other pixels than the first ones did.

    Raises ImageError for a file whose header can't be read.
    """
    with _opened(source) as image:
        info = _describe(image, image.size, *read_facts(image, sidecar))
        return replace(info, pixels_version=0) if differs_from_plain(image) or TURN_LEFT in image.info else info


@contextmanager
def _opened(source: Path | bytes) -> Iterator[ImageFile]:
    """An image whose header is read and found decodable. Whatever fails in the block comes out as an ImageError."""
    format_name = "image"
    try:
        with _stream(source) as stream, quiet_pillow():
            image = _identify(stream)
            format_name = _format_name(image)
            _refuse_huge(*image.size)
            if format_name == "HEIF":
                _note_turn(image, stream)
            yield image
    except InputError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it", may_pass=True) from error
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        if _comes_from_the_system(error):
            raise ImageError(explain_os_error(error), may_pass=True) from error
        raise ImageError(f"{_kind_of_damage(error)} {format_name}") from error


@contextmanager
def _stream(source: Path | bytes) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for its writer
        raise ImageError("is a folder" if source.is_dir() else "not a regular file")
    with source.open("rb") as file:
        yield file


def _identify(stream: IO[bytes]) -> ImageFile:
    """Open by content, whatever the name. Not by `Image.open`: its pixel limit is a setting of the whole process."""
    head = stream.read(512)
    damage: ImageError | None = None
    for name in _readable_formats():
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(head[:16]) is not True:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except Exception as error:
            if isinstance(error, MemoryError) or _comes_from_the_system(error):
                raise
            damage = damage or ImageError(f"{_kind_of_damage(error)} {name}")
    content = describe_content(head)
    # AVIF's reader tries HEIC files too: that it fails says nothing where HEIC's reader is missing
    if damage is not None and content != HEIF_MISSING:
        raise damage
    raise ImageError(content, may_pass=content in (HEIF_MISSING, AVIF_MISSING))


@cache
def _readable_formats() -> tuple[str, ...]:
    if not heif_available():
        return _FORMATS
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return (*_FORMATS, "HEIF")


def _note_turn(image: ImageFile, stream: IO[bytes]) -> None:
    """Keep the orientation of a HEIC that only EXIF turns.

    Where the file says itself how to turn its pixels, the decoder does, and EXIF tells of that turn again.
    """
    orientation = image.info.get("original_orientation")
    if orientation in (None, 1):
        return
    stream.seek(0)
    head = stream.read(_HEIF_HEAD_BYTES)
    start = head.find(b"ipco")
    properties = head[start : start - 4 + int.from_bytes(head[max(start - 4, 0) : max(start, 0)])]
    if not any(kind in properties for kind in (b"irot", b"imir")):
        image.info[TURN_LEFT] = orientation


def _refuse_huge(width: int, height: int) -> None:
    """Raise ImageError for more pixels than are allowed, InputError where the variable is not a positive number."""
    named = os.environ.get("SIGHTLINE_MAX_PIXELS")
    if named is not None and (not named.isdecimal() or int(named) == 0):
        raise InputError(f"SIGHTLINE_MAX_PIXELS is {named!r}; it must be a positive whole number of pixels.")
    limit = DEFAULT_MAX_PIXELS if named is None else int(named)
    if width * height > limit:
        reason = f"too large: {width} x {height} pixels, the limit is {limit} (SIGHTLINE_MAX_PIXELS)"
        raise ImageError(reason, may_pass=True)


def _decode_jpeg(image: ImageFile, smallest_px: int | None) -> NDArray[np.uint8] | None:
    """Pixels by simplejpeg, which raises on the warnings that others pass over; None for what is left to Pillow.

    Those are files that libjpeg warns of for order's sake, and inks, decoded here only to see that none is missing.
    """
    assert image.fp is not None
    image.fp.seek(0)
    data = image.fp.read()
    is_ink = image.mode == "CMYK"
    least_px = 1 if is_ink else smallest_px or 0
    for is_sealed in (False, True):
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                data, "CMYK" if is_ink else "RGB", min_height=least_px, min_width=least_px
            )
        except ValueError as error:
            if "Premature end of JPEG file" in str(error) and not is_sealed:
                data = _seal_jpeg(data)
                continue
            if any(sign in str(error) for sign in _DAMAGED_JPEG):
                raise ImageError("truncated JPEG" if is_sealed else "damaged JPEG") from error
            return None
        if not is_ink:
            return pixels
        break
    image.fp = io.BytesIO(data)
    return None


def _seal_jpeg(data: bytes) -> bytes:
    """A JPEG with an end mark in place of zeros or fill bytes after its last data: whole, if only the mark is missing.

    Decoding tells, since libjpeg warns of every block that lacks data; arithmetic decoders make them up without a word.
    """
    if _ARITHMETIC.search(data):
        raise ImageError("truncated JPEG")
    end = len(data.rstrip(b"\0\xff"))
    while data.startswith(b"\xff\0", end):  # an FF of the data
        end += 2
    return data[:end] + b"\xff\xd9"


def _decode_by_pillow(image: ImageFile, smallest_px: int | None) -> NDArray[np.uint8]:
    if smallest_px is not None and image.format in {"JPEG", "MPO"}:
        image.draft(image.mode, (smallest_px, smallest_px))
    with _large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
        image.load()
        loaded = image.convert("RGB") if has_empty_alpha(image) else image
        return flatten_to_rgb(_shrink(loaded, smallest_px) if smallest_px is not None else loaded)


def _shrink(image: Image.Image, smallest_px: int) -> Image.Image:
    """A loaded image by a whole factor smaller (means of blocks), its shorter side at least `smallest_px` or its own.

    Deep grey stays as it is: its range is found from all of its pixels.
    """
    factor = min(image.size) // smallest_px
    if factor < 2 or is_deep_grey(image):
        return image
    if image.mode in {"1", "P", "PA"} or "transparency" in image.info:  # values that have no mean
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.reduce(factor)


def _describe(image: ImageFile, size: tuple[int, int], orientation: int, facts: Mapping[str, Any]) -> ImageInfo:
    width, height = reversed(size) if orientation >= 5 else size
    return ImageInfo(width=width, height=height, format=_format_name(image), pixels_version=PIXELS_VERSION, **facts)


def _format_name(image: ImageFile) -> str:
    """MPO is a JPEG that further images follow."""
    name = image.format or "image"
    return {"MPO": "JPEG", "DIB": "BMP"}.get(name, name)


def _comes_from_the_system(error: Exception) -> TypeGuard[OSError]:
    """Pillow raises OSError too, without a number, for damaged files."""
    return isinstance(error, OSError) and error.errno is not None


def _kind_of_damage(error: Exception) -> str:
    """Pillow has no classes for these."""
    message = str(error).lower()
    cause = error.__cause__
    is_rare = isinstance(cause, KeyError) and cause.args[0] in _RARE_COMPRESSIONS
    if is_rare or any(sign in message for sign in _UNSUPPORTED):
        return "unsupported"
    signs = ("truncated", "premature", "unexpected end", "end of file", "not enough", "eof", "incomplete")
    return "truncated" if isinstance(error, EOFError) or any(sign in message for sign in signs) else "damaged"


class _PillowOfThisThread(threading.local):
    """Stands in for the compiled module pattern of a filter of warnings.

    `warnings.catch_warnings` swaps the filters of the whole process, and threads that use it side by side restore each
    other's. So there is one permanent filter instead, which matches only in a thread that is inside `quiet_pillow`:
    elsewhere it is inert.
    """

    depth = 0

    def match(self, module: str) -> bool:
        return self.depth > 0 and module.startswith("PIL.")


_pattern = _PillowOfThisThread()
_FILTER = ("ignore", None, Warning, _pattern, 0)
_filters_lock = threading.Lock()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about damaged files, raised in this thread, from the user's process."""
    filters = cast("list[Any]", warnings.filters)
    # Others may have put filters before ours, or restored filters from before it, since the last read.
    if not filters or filters[0] is not _FILTER:
        with _filters_lock:
            filters[:] = [_FILTER, *(known for known in filters if known is not _FILTER)]
    _pattern.depth += 1
    try:
        yield
    finally:
        _pattern.depth -= 1

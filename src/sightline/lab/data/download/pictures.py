"""What becomes of bytes that were sent as a picture: refused with a reason, kept as they are, or made smaller."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sightline.core.images.decode import read_info, read_picture
from sightline.core.images.preprocess import make_thumbnail
from sightline.errors import ImageError, InputError

SUFFIX_OF_FORMAT = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "JPEG2000": "jp2",
    "PPM": "ppm",
    "AVIF": "avif",
    "HEIF": "heic",
}
"""Format as Pillow names it -> extension without a dot."""

_ENOUGH_TO_CHECK_PX = 64
"""A JPEG decoded at reduced scale is read to its end all the same."""


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """What is accepted, and whether it is made smaller."""

    max_pixels: int = 50_000_000
    min_side_px: int = 32
    """Sites send pictures of one pixel for those that are gone."""
    max_side_px: int | None = None
    """Pictures whose longer side is more are encoded anew as JPEG; others keep their bytes."""
    quality: int = 90

    def __post_init__(self) -> None:
        """Raises InputError for what no picture or no JPEG can have."""
        for name in ("max_pixels", "min_side_px", "max_side_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; it is {value}.")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be from 1 to 100; it is {self.quality}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPicture:
    """A picture as it is written."""

    data: bytes
    suffix: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str
    """Of the bytes that were sent."""


def keep_picture(data: bytes, limits: PictureLimits) -> KeptPicture:
    """Decode what was sent, to be sure that it is a whole picture. Raises ImageError where it is none or too large."""
    _refuse_large(*_png_size(data), limits)  # before Pillow, which decodes a PNG to look for EXIF behind its pixels
    info = read_info(data)
    _refuse_large(info.width, info.height, limits)
    if min(info.width, info.height) < limits.min_side_px:
        raise ImageError(f"too small: {info.width} x {info.height} pixels")
    longer, shorter = max(info.width, info.height), min(info.width, info.height)
    smaller = limits.max_side_px is not None and longer > limits.max_side_px
    side_px = max(1, shorter * (limits.max_side_px or 1) // longer) if smaller else _ENOUGH_TO_CHECK_PX
    rgb_HW3 = read_picture(data, min_side_px=side_px).rgb
    width, height, kept, suffix = info.width, info.height, data, SUFFIX_OF_FORMAT[info.format]
    if smaller:
        assert limits.max_side_px is not None
        kept, suffix = make_thumbnail(rgb_HW3, size_px=limits.max_side_px, quality=limits.quality), "jpg"
        small = read_info(kept)
        width, height = small.width, small.height
    return KeptPicture(
        data=kept,
        suffix=suffix,
        width=width,
        height=height,
        original_width=info.width,
        original_height=info.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _refuse_large(width: int, height: int, limits: PictureLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, the limit is {limits.max_pixels}")


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's first chunk states; 0 of anything else."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return 0, 0
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

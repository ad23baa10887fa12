"""Small encoded copies of pictures for pages and terminals."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Literal

from PIL import Image

from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ThumbnailFormat = Literal["JPEG", "WEBP"]

MAX_SIDE_PX: dict[ThumbnailFormat, int] = {"JPEG": 65_500, "WEBP": 16_383}
"""Longer side that a format holds: of JPEG, what libjpeg writes, 35 less than the format's field for it."""


def make_thumbnail(
    rgb: NDArray[np.uint8],
    *,
    size_px: int,
    format: ThumbnailFormat = "JPEG",  # noqa: A002 - Pillow's own word
    quality: int = 80,
) -> bytes:
    """Upright RGB (H, W, 3) uint8 -> an encoded picture whose longer side is at most `size_px`.

    The aspect ratio is kept and nothing is enlarged; what the format can't hold is made smaller. It carries no metadata
    of the original.
    Raises InputError for a size below 1 or a quality outside 1 to 100.
    """
    if size_px < 1:
        raise InputError(f"A thumbnail's size_px must be at least 1; it is {size_px}.")
    if not 1 <= quality <= 100:
        raise InputError(f"A thumbnail's quality must be from 1 to 100; it is {quality}.")
    image = Image.fromarray(rgb)
    size_px = min(size_px, MAX_SIDE_PX[format])
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    encoded = io.BytesIO()
    image.save(encoded, format, quality=quality)
    return encoded.getvalue()


def data_uri(data: bytes, format: ThumbnailFormat) -> str:  # noqa: A002
    """An encoded picture as a `data:` URI, to be inlined in a page."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(data).decode('ascii')}"

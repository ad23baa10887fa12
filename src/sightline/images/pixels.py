"""From any of Pillow's pixel modes to 8-bit RGB without loss of range, transparent parts on white."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHITE = (255, 255, 255)
_FULL_16_BIT = 65535


def flatten_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded image of any mode -> (H, W, 3) uint8."""
    if _is_deep_grey(image):
        image = Image.fromarray(squeeze_to_8_bit(np.asarray(image), bits=_bits_of_tiff(image)))
    elif image.has_transparency_data:
        # "RGBa" and "La" have their colours multiplied by alpha; converting to RGBA divides it out
        coloured = image.convert("LA") if image.mode == "La" else image
        layer = coloured.convert("RGBA")
        image = Image.new("RGB", layer.size, _WHITE)
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image.convert("RGB"))


def shrink(image: Image.Image, smallest_px: int) -> Image.Image:
    """A loaded image by a whole factor smaller (means of blocks), its shorter side at least `smallest_px` or its own.

    Deep grey stays as it is: its range is found from all of its pixels.
    """
    factor = min(image.size) // smallest_px
    if factor < 2 or _is_deep_grey(image):
        return image
    if image.mode in {"1", "P", "PA"} or "transparency" in image.info:  # values that have no mean
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.reduce(factor)


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def squeeze_to_8_bit(values_HW: NDArray[np.generic], *, bits: int | None = None) -> NDArray[np.uint8]:
    """Deep grey levels (H, W), integer or float -> 8 bits.

    Integers use the range of their bits: those stated, else 16 if they fit. Floats in [0, 1] are taken as such, in
    [0, 255] as 8-bit levels. Anything else has no known white and is stretched from its least to its greatest value.
    """
    levels = np.nan_to_num(values_HW.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(levels.min()), float(levels.max())
    if np.issubdtype(values_HW.dtype, np.integer):
        white = float(2**bits - 1) if bits is not None and bits <= 16 else float(_FULL_16_BIT)
    else:
        white = 1.0 if high <= 1 else 255.0
    if low < 0 or high > white:
        levels, white = levels - low, (high - low) or 1.0
    eight_bit: NDArray[np.uint8] = np.rint(levels * (255.0 / white)).astype(np.uint8)
    return eight_bit


def _bits_of_tiff(image: Image.Image) -> int | None:
    """BitsPerSample: Pillow gives 12-bit scans in a 16-bit mode without scaling them up."""
    tags = getattr(image, "tag_v2", None)
    stated = tags.get(258) if tags is not None else None
    return int(stated[0]) if isinstance(stated, tuple) and stated else None

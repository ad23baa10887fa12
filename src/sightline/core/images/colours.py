"""Pixels of any mode as sRGB: colour profiles, inks, deep grey, transparency.

A profile that is broken, or made for other pixels than the file has, counts as absent; one that is sRGB in all but
name, too. Where none is left, pixels stay as they are.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

_WHITE = (255, 255, 255)
_FULL_16_BIT = 65535
_SAME_LEVELS = 2
"""Levels of 255 by which a profile may differ from sRGB and still counts as it."""
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
"""Pillow's mode -> colour space, as a profile names it."""
_BITS, _PHOTOMETRIC, _EXTRA_SAMPLES, _NO_DATA = 258, 262, 338, 42113
"""Tags of TIFF; the last is GDAL's."""
_FILL = -9999.0
"""What stands for no data in files that don't say so; so does anything from a billion billion on."""
_HUGE = 1e18


def flatten_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded image of any mode -> (H, W, 3) uint8 sRGB, transparent parts laid on white."""
    if is_deep_grey(image):
        grey = Image.fromarray(_squeeze_to_8_bit(np.asarray(image), _tags(image)))
        return apply_profile(np.array(grey.convert("RGB")), image)
    if image.mode in {"CMYK", "LAB"} and (transform := _to_srgb(image.info.get("icc_profile"), image.mode)):
        return _apply(transform, image)
    flat = image
    if image.has_transparency_data:
        # "RGBa" and "La" have their colours multiplied by alpha; converting to RGBA divides it out
        coloured = image.convert("LA") if image.mode == "La" else image
        layer = coloured.convert("RGBA")
        flat = Image.new("RGB", layer.size, _WHITE)
        flat.paste(layer, mask=layer.getchannel("A"))
    return apply_profile(np.array(flat.convert("RGB")), image)


def apply_profile(rgb_HW3: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) uint8 of an image, at any size, in sRGB by its profile, if it has one."""
    if not (profile := image.info.get("icc_profile")):
        return rgb_HW3
    mode = "L" if image.mode.startswith(("L", "I")) and image.mode != "LAB" else "RGB"
    transform = _to_srgb(profile, mode)
    return (
        rgb_HW3
        if transform is None
        else _apply(transform, Image.fromarray(rgb_HW3[..., 0] if mode == "L" else rgb_HW3))
    )


def differs_from_plain(image: Image.Image) -> bool:
    """True for an opened image whose pixels the rules before `PIXELS_VERSION` read otherwise, or may have."""
    mode = image.mode if image.mode in _SPACES else "L" if image.mode.startswith(("L", "I")) else "RGB"
    profile = image.info.get("icc_profile")
    is_odd_grey = is_deep_grey(image) and (image.mode == "F" or _is_negative(_tags(image)) or _NO_DATA in _tags(image))
    return is_odd_grey or _may_lack_alpha(image) or bool(profile and _to_srgb(profile, mode))


def has_empty_alpha(image: Image.Image) -> bool:
    """True for a loaded image whose fourth channel is all zero and not said to be transparency: it is just unused."""
    return _may_lack_alpha(image) and image.getchannel("A").getextrema()[1] == 0


def is_deep_grey(image: Image.Image) -> bool:
    """True for grey of more than 8 bits, or of floats."""
    return image.mode.startswith(("I", "F"))


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCmsTransform | None:
    """From pixels of Pillow's mode to sRGB by a profile (Lab needs none); None where it does nothing or can't be used.

    Relative colorimetric with black point compensation.
    """
    from PIL import ImageCms

    try:
        if mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.getOpenProfile(io.BytesIO(profile or b""))
            if source.profile.xcolor_space.strip() != _SPACES[mode]:
                return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if _is_identity(transform, mode) else transform
    except Exception:  # damaged profiles make Pillow raise nearly anything
        return None


def _is_identity(transform: ImageCmsTransform, mode: str) -> bool:
    """True where a profile is sRGB's, as most are, by what it makes of colours: its name and bytes are no guide."""
    if mode not in {"L", "RGB"}:
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours_HW3 = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    if mode == "L":
        colours_HW3 = np.broadcast_to(steps[:, None, None], (len(steps), 1, 3)).copy()
    colours = Image.fromarray(colours_HW3[..., 0] if mode == "L" else colours_HW3)
    return int(np.abs(_apply(transform, colours).astype(int) - colours_HW3).max()) <= _SAME_LEVELS


def _apply(transform: ImageCmsTransform, image: Image.Image) -> NDArray[np.uint8]:
    return np.array(transform.apply(image))


def _squeeze_to_8_bit(values_HW: NDArray[np.generic], tags: Any) -> NDArray[np.uint8]:
    """Deep grey levels (H, W), integer or float, with their TIFF tags -> 8 bits; what holds no data is black.

    Integers use the range of their bits: those stated, else 16 if they fit. Floats in [0, 1] are taken as such, in
    [0, 255] as 8-bit levels. Anything else has no known white and is stretched from its least to its greatest value.
    """
    levels = values_HW.astype(np.float32)
    is_integer = np.issubdtype(values_HW.dtype, np.integer)
    is_data = _find_data(levels, tags, is_integer=is_integer)
    low = float(levels.min(where=is_data, initial=math.inf))
    high = float(levels.max(where=is_data, initial=-math.inf))
    if low > high:
        return np.zeros(levels.shape, np.uint8)
    if is_integer:
        bits = _bits(tags)  # Pillow gives 12-bit scans in a 16-bit mode without scaling them up
        white = float(2**bits - 1) if bits is not None and bits <= 16 else float(_FULL_16_BIT)
    else:
        white = 1.0 if high <= 1 else 255.0
    levels[~is_data] = low
    if low < 0 or high > white:
        levels, white = levels - low, (high - low) or 1.0
    eight_bit: NDArray[np.uint8] = np.rint(levels * (255.0 / white)).astype(np.uint8)
    if _is_negative(tags):
        eight_bit = 255 - eight_bit
    eight_bit[~is_data] = 0
    return eight_bit


def _find_data(levels_HW: NDArray[np.float32], tags: Any, *, is_integer: bool) -> NDArray[np.bool_]:
    """Where there is data: not the value that a tag names, not NaN, not infinite nor, among floats, a usual filler."""
    is_data: NDArray[np.bool_] = np.abs(levels_HW) < _HUGE  # false for NaN
    try:
        is_data &= levels_HW != np.float32(str(tags[_NO_DATA]).strip("\0 "))
        return is_data
    except (KeyError, ValueError):
        is_filled = levels_HW == _FILL
    if not is_integer and float(levels_HW.min(where=is_data & ~is_filled, initial=0.0)) > _FILL / 2:
        is_data &= ~is_filled
    return is_data


def _bits(tags: Any) -> int | None:
    stated = tags.get(_BITS)
    return int(stated[0]) if isinstance(stated, tuple) and stated else None


def _is_negative(tags: Any) -> bool:
    """True for deep TIFFs whose least value is white; Pillow itself turns those of up to 8 bits."""
    return bool(tags) and tags.get(_PHOTOMETRIC, 0) == 0


def _may_lack_alpha(image: Image.Image) -> bool:
    return image.mode == "RGBA" and (
        image.format in {"BMP", "DIB"} or (image.format == "TIFF" and _EXTRA_SAMPLES not in _tags(image))
    )


def _tags(image: Image.Image) -> Any:
    """Tags of a TIFF by number; empty for other formats."""
    return getattr(image, "tag_v2", None) or {}

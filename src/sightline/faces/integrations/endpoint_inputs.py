"""What a request to an endpoint holds -> texts, pictures, options; or an InputError that says what is allowed.

A request comes from anybody: its text is data, its pictures are bytes of a bounded size, and no address is fetched.
Shape suffixes: H W height and width.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sightline.core.images.decode import flatten_to_rgb, read_info, read_picture
from sightline.errors import ImageError, InputError
from sightline.faces.integrations.endpoint_limits import EndpointLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DATA_URL_HEAD = 100


def take_texts(values: Any, *, what: str, limits: EndpointLimits) -> list[str]:
    """A text or a list of them. Raises InputError for anything else, too many or too long ones."""
    texts = [values] if isinstance(values, str) else values
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{what} must be a text or a list of texts.")
    limits.check_count("texts", len(texts), limits.max_texts)
    longest = max(map(len, texts), default=0)
    if longest > limits.max_text_chars:
        raise InputError(f"A text has {longest:,} characters; at most {limits.max_text_chars:,} are taken.")
    return texts


def take_images(values: Any, *, min_side_px: int, limits: EndpointLimits) -> list[NDArray[np.uint8]]:
    """Upright pictures (H, W, 3) uint8 of base64 strings, bytes or Pillow images, one or a list.

    JPEGs much larger than `min_side_px` are decoded at a smaller scale. Raises InputError for what can't be read, too
    many, and too large ones.
    """
    images = values if isinstance(values, list) else [values]
    limits.check_count("images", len(images), limits.max_images)
    total_bytes = sum(len(image) for image in images if isinstance(image, str | bytes | bytearray))
    if total_bytes * 3 // 4 > limits.max_request_bytes:
        raise InputError(f"The images are too large: at most {limits.max_request_bytes:,} bytes together are taken.")
    return [_decode(image, number, min_side_px, limits) for number, image in enumerate(images, start=1)]


def _decode(value: Any, number: int, min_side_px: int, limits: EndpointLimits) -> NDArray[np.uint8]:
    try:
        if hasattr(value, "getexif") and hasattr(value, "convert"):  # the toolkit decodes bodies that are pictures
            return _flatten(value, limits)
        content = _bytes_of(value, limits)
        info = read_info(content)
        _check_pixels(info.width, info.height, limits)
        return read_picture(content, min_side_px=min_side_px).rgb
    except ImageError as error:
        raise InputError(f"Image {number} can't be read: {error.reason}.") from error


def _bytes_of(value: Any, limits: EndpointLimits) -> bytes:
    if isinstance(value, str):
        return _from_base64(value, limits)
    if not isinstance(value, bytes | bytearray):
        raise ImageError(f"it is {type(value).__name__}, not a base64 string")
    if len(value) > limits.max_image_bytes:
        raise ImageError(f"it has more than {limits.max_image_bytes:,} bytes")
    return bytes(value)


def _from_base64(text: str, limits: EndpointLimits) -> bytes:
    if text[:8].lower().startswith(("http://", "https://", "file:/")):
        raise ImageError("it is an address, and none is fetched; send the picture itself as base64")
    if text.startswith("data:"):
        text = text[: len(text)] if "," not in text[:_DATA_URL_HEAD] else text.partition(",")[2]
    if len(text) * 3 // 4 > limits.max_image_bytes:
        raise ImageError(f"it has more than {limits.max_image_bytes:,} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("it is no valid base64") from error


def _flatten(image: Any, limits: EndpointLimits) -> NDArray[np.uint8]:
    from PIL import ImageOps

    width, height = image.size
    _check_pixels(width, height, limits)
    try:
        return flatten_to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise ImageError("damaged") from error


def _check_pixels(width: int, height: int, limits: EndpointLimits) -> None:
    if width * height > limits.max_image_pixels:
        raise ImageError(f"it has {width} x {height} pixels; at most {limits.max_image_pixels:,} are taken")


def take_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, of the same types as their defaults. Raises InputError for an unknown name or another type."""
    if unknown := sorted(set(given) - set(defaults)):
        raise InputError(f"Unknown parameters: {', '.join(unknown[:5])}. Allowed: {', '.join(sorted(defaults))}.")
    options = dict(defaults)
    for name, value in given.items():
        wanted = type(defaults[name])
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{name} must be {wanted.__name__}, not {value!r}.")
        options[name] = value
    return options


def take_text_lists(values: Any, count: int, *, limits: EndpointLimits) -> list[list[str]]:
    """A list of texts for each of `count` images. Raises InputError for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise InputError(f"texts must be a list with a list of texts for each of the {count} images.")
    lists = [take_texts(several, what="Each of texts", limits=limits) for several in values]
    limits.check_count("texts", sum(map(len, lists)), limits.max_texts)
    return lists

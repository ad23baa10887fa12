"""From decoded pixels to what a model's image tower takes, and to small encoded copies for pages and terminals.

For a tower there are two steps, so that what lies between them is small: `resize` gives uint8 pixels at the model's
size (kept in queues and caches), `normalise` gives the float batch.

Shape suffixes: B batch, S size_px, H W height and width.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREPROCESSING_VERSION = 1
"""Raised when pixels change for the same file and card: part of a model's identity in a store."""

SKETCH_SIDE_PX = 32

_LONGEST_ASPECT = 32
"""The longest image, in squares, that a centre crop is taken of: it never sees the ends of a longer one."""

ResizeMode = Literal["squash", "crop"]
Interpolation = Literal["bicubic", "bilinear"]
ThumbnailFormat = Literal["JPEG", "WEBP"]

MAX_SIDE_PX: dict[ThumbnailFormat, int] = {"JPEG": 65_500, "WEBP": 16_383}
"""Longer side that a format holds: of JPEG, what libjpeg writes, 35 less than the format's field for it."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing that a model asks for. `mean` and `std` are for RGB in [0, 1]."""

    size_px: int
    resize_mode: ResizeMode
    """`squash` ignores the aspect ratio; `crop` scales the shorter side to size_px and cuts out the centre."""
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        """Raises InputError for what no tower can take."""
        if not isinstance(self.size_px, int) or self.size_px < 1:
            raise InputError(f"Preprocessing size_px is {self.size_px!r}; it must be a whole number, at least 1.")
        _check_choice("resize_mode", self.resize_mode, get_args(ResizeMode))
        _check_choice("interpolation", self.interpolation, get_args(Interpolation))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"Preprocessing mean and std must be three numbers, std positive: {self.mean}, {self.std}."
            )

    def resize(self, rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8 -> (S, S, 3) uint8, as Pillow resamples (with antialiasing).

        `crop` is transformers' CLIP processor, to the pixel (up to an aspect of 32).
        Raises InputError for an array of another shape or type.
        """
        import numpy as np
        from PIL import Image

        if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8 or 0 in rgb_HW3.shape:
            raise InputError(f"A picture must be (H, W, 3) uint8; this is {rgb_HW3.shape} {rgb_HW3.dtype}.")
        kernel = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        square = (self.size_px, self.size_px)
        if self.resize_mode == "squash":
            return np.array(Image.fromarray(rgb_HW3).resize(square, kernel))
        rgb_HW3 = _drop_far_ends(rgb_HW3)
        height, width = rgb_HW3.shape[:2]
        # rounded as transformers' get_resize_output_image_size and center_crop round
        short = min(width, height)
        scaled_width, scaled_height = int(self.size_px * width / short), int(self.size_px * height / short)
        left, top = (scaled_width - self.size_px) // 2, (scaled_height - self.size_px) // 2
        scaled = Image.fromarray(rgb_HW3).resize((scaled_width, scaled_height), kernel)
        return np.array(scaled.crop((left, top, left + self.size_px, top + self.size_px)))

    def normalise(self, pixels_BSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, C-contiguous: (x / 255 - mean) / std."""
        import numpy as np

        batch, height, width, _ = pixels_BSS3.shape
        planes_B3SS = np.empty((batch, 3, height, width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            plane_BSS = planes_B3SS[:, channel]
            np.multiply(pixels_BSS3[..., channel], np.float32(1 / (255 * std)), out=plane_BSS)
            plane_BSS -= np.float32(mean / std)
        return planes_B3SS


def _drop_far_ends(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a very long image: a line of 1 x 100,000 pixels would be scaled up to gigabytes, then cropped."""
    height, width = rgb_HW3.shape[:2]
    longest = _LONGEST_ASPECT * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return rgb_HW3[top : top + longest, left : left + longest]


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"Preprocessing {name} is {value!r}; it must be one of {', '.join(allowed)}.")


def make_thumbnail(
    rgb: NDArray[np.uint8],
    *,
    size_px: int,
    format: ThumbnailFormat = "JPEG",  # noqa: A002 - Pillow's own word
    quality: int = 80,
) -> bytes:
    """Upright RGB (H, W, 3) uint8 -> an encoded image whose longer side is at most `size_px`.

    The aspect ratio is kept and nothing is enlarged; what the format can't hold is made smaller. It carries no metadata
    of the original.
    Raises InputError for a size below 1 or a quality outside 1 to 100.
    """
    if size_px < 1:
        raise InputError(f"A thumbnail's size_px must be at least 1; it is {size_px}.")
    if not 1 <= quality <= 100:
        raise InputError(f"A thumbnail's quality must be from 1 to 100; it is {quality}.")
    from PIL import Image

    image = Image.fromarray(rgb)
    size_px = min(size_px, MAX_SIDE_PX[format])
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    encoded = io.BytesIO()
    image.save(encoded, format, quality=quality)
    return encoded.getvalue()


def make_sketch(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Upright RGB (H, W, 3) uint8 -> its grey levels squashed to (32, 32) uint8: what copies are known by."""
    import numpy as np
    from PIL import Image

    square = (SKETCH_SIDE_PX, SKETCH_SIDE_PX)
    return np.array(Image.fromarray(rgb_HW3).convert("L").resize(square, Image.Resampling.BOX))


def data_uri(data: bytes, format: ThumbnailFormat) -> str:  # noqa: A002
    """An encoded image as a `data:` URI, to be inlined in a page."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(data).decode('ascii')}"

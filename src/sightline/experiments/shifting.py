"""A finer map than a model's own: the picture is shifted by parts of a cell, and the maps are woven together.

A cell answers for the middle of what it covers. Shifted by half a cell, the same cell answers for its edge; so n x n
shifts give n x n answers for each cell, at places of their own, without any interpolation.

Shape suffixes: B shifts, T texts, H W the rows and columns of a map, S side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cells = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Pixels (B, S, S, 3) -> the heat of each cell (B, T, H, W)."""

FINE_CELLS = 16
"""Columns of a woven map, at least."""
SMOOTHING = 0.3
"""Standard deviation of the blur of a woven map, in cells of the model: neighbours come from different shifts, whose
levels differ a little. On scenes the strongest point of `map` then lies within the thing in 7 more of 100 cases."""
_REACH = 3
"""Standard deviations after which the blur ends."""


def weave_maps(cells: Cells, pixels_SS3: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
    """One picture -> a map for each text (T, H, W), and the columns of the model's own map.

    It has at least FINE_CELLS columns; a model that has so many by itself is run once.
    """
    own_THW = cells(pixels_SS3[None])[0]
    columns = own_THW.shape[-1]
    n_shifts = min(math.ceil(FINE_CELLS / columns), pixels_SS3.shape[1] // columns)
    if n_shifts <= 1:
        return own_THW, columns
    shifted_BTHW = cells(shift_pixels(pixels_SS3, cell_px=pixels_SS3.shape[1] / columns, n_shifts=n_shifts))
    return blur(_interleave(shifted_BTHW, n_shifts), sigma=SMOOTHING * n_shifts), columns


def shift_pixels(pixels_SS3: NDArray[np.uint8], *, cell_px: float, n_shifts: int) -> NDArray[np.uint8]:
    """The picture moved by parts of a cell, down and to the right: (n_shifts^2, S, S, 3), rows of shifts first.

    What is left free repeats the edge. The first is moved furthest, so cell j of shift k looks at place j n + k of a
    grid n times as fine.
    """
    side = pixels_SS3.shape[0]
    offsets = [round(cell_px * (0.5 - (k + 0.5) / n_shifts)) for k in range(n_shifts)]
    margin = max(map(abs, offsets))
    wide = np.pad(pixels_SS3, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return np.stack(
        [
            wide[margin - down : margin - down + side, margin - right : margin - right + side]
            for down in offsets
            for right in offsets
        ]
    )


def _interleave(heat_BTHW: NDArray[np.float32], n_shifts: int) -> NDArray[np.float32]:
    """Maps of the shifts (n^2, T, H, W) -> (T, n H, n W)."""
    _, n_texts, height, width = heat_BTHW.shape
    parts = heat_BTHW.reshape(n_shifts, n_shifts, n_texts, height, width)
    return parts.transpose(2, 3, 0, 4, 1).reshape(n_texts, height * n_shifts, width * n_shifts)


def blur(heat_THW: NDArray[np.float32], *, sigma: float) -> NDArray[np.float32]:
    """Gaussian blur with a standard deviation of `sigma` places; beyond the edge, its values go on."""
    reach = math.ceil(_REACH * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        margins = [(0, 0)] * 3
        margins[axis] = (reach, reach)
        wide = np.pad(heat_THW, margins, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(wide, len(kernel), axis=axis)
        heat_THW = np.ascontiguousarray(windows @ kernel.astype(np.float32))
    return heat_THW

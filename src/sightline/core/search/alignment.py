"""The pixel check of copies: two small grey images laid over each other as well as a crop allows, then correlated.

A copy may be cut and rescaled, so positions in one are those of the other scaled and shifted along each axis. The four
numbers are found by Gauss-Newton steps on the squared difference, with gain and offset of the grey levels beside them
(Lucas and Kanade, An Iterative Image Registration Technique, IJCAI 1981): first at half the size, where a shift of some
pixels is a small one. What decides is the correlation of the gradients: different scenes often share where it is light
and dark, but not where their edges lie.

Shape suffixes: P pairs, S side, 2 axes (y, x), K unknowns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]

_COARSE_STEPS, _FINE_STEPS = 6, 4
_SCALES = (0.7, 1.4)
_MOST_SHIFT = 0.2
"""As a share of the side."""
_LONGEST_STEP = 2.0
_LEAST_GAIN = 0.2
_DAMPING = 0.01
_LEAST_OVERLAP = 0.5
"""Share of the second image that the first has to cover: less is too little to tell."""
_SMALLEST = 1e-6
_CHUNK_PAIRS = 512


def correlate_aligned(left_PSS: NDArray[np.uint8], right_PSS: NDArray[np.uint8]) -> Float32Array:
    """Pairs of grey images (P, S, S), S even -> correlation (P,) of their gradients once they are aligned, in [-1, 1].

    0 where they overlap by less than half.
    """
    chunks = [slice(start, start + _CHUNK_PAIRS) for start in range(0, len(left_PSS), _CHUNK_PAIRS)]
    found = [_correlate(_standardise(left_PSS[chunk]), _standardise(right_PSS[chunk])) for chunk in chunks]
    return np.concatenate([np.empty(0, np.float32), *found])


class _Place(NamedTuple):
    """Where the right image lies in the left one, from the centre: `at = scale * from_centre + shift` on each axis."""

    scale_P2: Float32Array
    shift_P2: Float32Array


def _correlate(left_PSS: Float32Array, right_PSS: Float32Array) -> Float32Array:
    pairs = len(left_PSS)
    place = _Place(np.ones((pairs, 2), np.float32), np.zeros((pairs, 2), np.float32))
    small_left, small_right = _halve(left_PSS), _halve(right_PSS)
    for _ in range(_COARSE_STEPS):
        place = _improve(place, small_left, small_right)
    place = _Place(place.scale_P2, 2 * place.shift_P2)
    for _ in range(_FINE_STEPS):
        place = _improve(place, left_PSS, right_PSS)
    laid_PSS, covered_PSS = _lay(left_PSS, place)
    overlap_P = covered_PSS.mean(axis=(1, 2))
    covered_PSS[:, [0, -1]] = covered_PSS[:, :, [0, -1]] = 0  # gradients at the border are one-sided
    correlation_P = _correlate_gradients(laid_PSS, right_PSS, covered_PSS)
    return np.where(overlap_P >= _LEAST_OVERLAP, correlation_P.clip(-1, 1), np.float32(0))


def _improve(place: _Place, left_PSS: Float32Array, right_PSS: Float32Array) -> _Place:
    """One Gauss-Newton step: right = gain * laid + offset + (derivatives by scale and shift) * change."""
    pairs, side = left_PSS.shape[:2]
    laid_PSS, covered_PSS = _lay(left_PSS, place)
    slope_y, slope_x = np.gradient(laid_PSS, axis=(1, 2))
    slope_y /= place.scale_P2[:, 0, None, None]
    slope_x /= place.scale_P2[:, 1, None, None]
    at_S = _from_centre(side)
    columns = (slope_y * at_S[:, None], slope_x * at_S, slope_y, slope_x, laid_PSS, np.ones_like(laid_PSS))
    parts_PKN = np.stack(columns, axis=1).reshape(pairs, len(columns), -1)
    weighed_PKN = parts_PKN * covered_PSS.reshape(pairs, 1, -1)
    products_PKK = weighed_PKN @ parts_PKN.transpose(0, 2, 1) + _DAMPING * side * np.eye(len(columns), dtype=np.float32)
    solved_PK = np.linalg.solve(products_PKK, weighed_PKN @ right_PSS.reshape(pairs, -1, 1))[:, :, 0]
    gain_P1 = np.maximum(solved_PK[:, 4:5], _LEAST_GAIN)
    change_P4 = np.clip(solved_PK[:, :4] / gain_P1, -_LONGEST_STEP, _LONGEST_STEP)
    return _Place(
        np.clip(place.scale_P2 + change_P4[:, :2], *_SCALES),
        np.clip(place.shift_P2 + change_P4[:, 2:], -_MOST_SHIFT * side, _MOST_SHIFT * side),
    )


def _lay(left_PSS: Float32Array, place: _Place) -> tuple[Float32Array, Float32Array]:
    """The left image as it lies behind the right one's pixels (P, S, S), and 1 where it covers them, else 0."""
    side = left_PSS.shape[1]
    centre = (side - 1) / 2
    at_P2S = centre + place.scale_P2[:, :, None] * _from_centre(side) + place.shift_P2[:, :, None]
    inside_P2S = ((at_P2S > -0.5) & (at_P2S < side - 0.5)).astype(np.float32)
    distance_P2SS = np.abs(np.clip(at_P2S, 0, side - 1)[..., None] - np.arange(side, dtype=np.float32))
    weights_P2SS = np.maximum(0, 1 - distance_P2SS)
    laid_PSS = weights_P2SS[:, 0] @ left_PSS @ weights_P2SS[:, 1].transpose(0, 2, 1)
    return laid_PSS, inside_P2S[:, 0, :, None] * inside_P2S[:, 1, None, :]


def _correlate_gradients(one_PSS: Float32Array, other_PSS: Float32Array, weight_PSS: Float32Array) -> Float32Array:
    one_2PSS = np.array(np.gradient(one_PSS, axis=(1, 2)))
    other_2PSS = np.array(np.gradient(other_PSS, axis=(1, 2)))

    def dot(a: Float32Array, b: Float32Array) -> Float32Array:
        product_P: Float32Array = (a * b * weight_PSS).sum(axis=(0, 2, 3))
        return product_P

    lengths_P = np.sqrt(dot(one_2PSS, one_2PSS) * dot(other_2PSS, other_2PSS))
    correlation_P: Float32Array = dot(one_2PSS, other_2PSS) / np.maximum(lengths_P, _SMALLEST)
    return correlation_P


def _standardise(grey_PSS: NDArray[np.uint8]) -> Float32Array:
    """Mean 0 and standard deviation 1 for each image."""
    levels_PSS = grey_PSS.astype(np.float32)
    levels_PSS -= levels_PSS.mean(axis=(1, 2), keepdims=True)
    levels_PSS /= np.maximum(levels_PSS.std(axis=(1, 2), keepdims=True), _SMALLEST)
    return levels_PSS


def _halve(levels_PSS: Float32Array) -> Float32Array:
    pairs, side = levels_PSS.shape[:2]
    means: Float32Array = levels_PSS.reshape(pairs, side // 2, 2, side // 2, 2).mean(axis=(2, 4))
    return means


def _from_centre(side: int) -> Float32Array:
    return np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)

"""Copies among images, by their sketches: cut, rescaled, re-encoded, brighter, mirrored, turned or without colour.

Every pair is looked at in three steps, each much dearer and much stricter than the one before:

1. the lowest frequencies of two sketches (a discrete cosine transform): of one in all eight orientations, and of the
   four corners of each against the whole of the other;
2. more frequencies, of nine cuts of nine tenths: the whole of one against the whole and the cuts of the other;
3. the pixels themselves, aligned (`alignment`), which decides.

An orientation is a number: bit 2 exchanges the axes, then bit 1 reverses the rows and bit 0 the columns. Of the
coefficients these are an exchange and changes of sign, so each sketch is transformed once.

Shape suffixes: N sketches, P pairs, S side, F frequencies on each axis, V views (the whole, then nine cuts), D values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sightline.core.search.alignment import correlate_aligned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]

MIN_CORRELATION = 0.85
"""Of aligned gradients, from which on two images are copies. On Flickr8k's 7,000 images of train and val, different
scenes reach 0.81, the closest shots of a burst 0.83; nine tenths of an image keep 0.86 and more."""

LEAST_CONTRAST = 4.0
"""Standard deviation of grey levels below which a sketch is plain: of a clear sky or a blank page it can't be told."""

_TURNS = range(8)
_CUT = 0.9
_LOW, _FREQUENCIES = 6, 8
_LOW_GAIN, _GAIN = 0.5, 1.0
"""Powers of the frequency by which coefficients are raised: the lowest would outweigh all others."""
_MIN_LOW, _MIN_VIEW = 0.8, 0.8
_CORNERS = (1, 3, 7, 9)
"""Of the views."""
_ROWS, _COLUMNS = 256, 2048
_CHECKED_AT_ONCE = 512
_MOST_FOR_ROW = 32
"""Proposals for a sketch in one block of others, the closest: what thousands resemble is found by way of them."""
_SMALLEST = 1e-6


class Pairs(NamedTuple):
    """Pairs of sketches: the one at `left`, brought to an orientation, looks like the one at `right`."""

    left: NDArray[np.intp]
    right: NDArray[np.intp]
    orientation: NDArray[np.intp]

    def keep(self, chosen: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.left[chosen], self.right[chosen], self.orientation[chosen])


def find_copies(
    sketches_NSS: NDArray[np.uint8],
    *,
    on_block: Callable[[int, int], None] = lambda done, total: None,
    accept: Callable[[int, int], bool] = lambda a, b: True,
) -> Iterator[tuple[int, int, float]]:
    """Pairs (a < b, correlation) that join all copies, not every pair of them: two that are joined aren't compared.

    `accept` has the last word on a pair whose sketches agree. `on_block` takes how many of how many blocks are done,
    before each; what it raises ends the search.
    """
    joined = Joined(len(sketches_NSS))
    views_NVD = _transform(sketches_NSS)
    low_VND = np.stack([_weigh_low(views_NVD[:, view]) for view in (0, *_CORNERS)])
    count = len(sketches_NSS)
    rows = range(0, count, _ROWS)
    starts = [(row, column) for row in rows for column in range(row - row % _COLUMNS, count, _COLUMNS)]
    for done, (row, column) in enumerate(starts):
        on_block(done, len(starts))
        pairs = _screen(views_NVD, joined.keep_apart(_propose(low_VND, row, column)))
        for start in range(0, len(pairs.left), _CHECKED_AT_ONCE):
            some = joined.keep_apart(pairs.keep(slice(start, start + _CHECKED_AT_ONCE)))
            for a, b, correlation in check_pairs(sketches_NSS, some):
                if accept(a, b) and joined.join(a, b):
                    yield a, b, correlation
    on_block(len(starts), len(starts))


def check_pairs(sketches_NSS: NDArray[np.uint8], pairs: Pairs) -> list[tuple[int, int, float]]:
    """Those of some pairs that are copies by their pixels, (a < b, correlation), the surest first."""
    turned_PSS = np.empty((len(pairs.left), *sketches_NSS.shape[1:]), np.uint8)
    for orientation in _TURNS:
        of_it = pairs.orientation == orientation
        turned_PSS[of_it] = turn(sketches_NSS[pairs.left[of_it]], orientation)
    correlation_P = correlate_aligned(turned_PSS, sketches_NSS[pairs.right])
    found = np.flatnonzero(correlation_P >= MIN_CORRELATION)
    found = found[np.argsort(-correlation_P[found], kind="stable")]
    return [(int(pairs.left[at]), int(pairs.right[at]), float(correlation_P[at])) for at in found]


def turn(images_NSS: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Square images (N, S, S) in one of the eight orientations."""
    turned = images_NSS.transpose(0, 2, 1) if orientation & 4 else images_NSS
    turned = turned[:, ::-1] if orientation & 2 else turned
    return turned[:, :, ::-1] if orientation & 1 else turned


class Joined:
    """Rows that were joined, directly or by way of others, have the same label."""

    def __init__(self, count: int) -> None:
        self._label = np.arange(count)
        self._members: dict[int, list[int]] = {}

    def keep_apart(self, pairs: Pairs) -> Pairs:
        """The pairs that aren't joined."""
        return pairs.keep(self._label[pairs.left] != self._label[pairs.right])

    def members(self, row: int) -> list[int]:
        """A row, with all that are joined with it."""
        return self._members.get(int(self._label[row]), [row])

    def join(self, a: int, b: int) -> bool:
        """Join two rows and all that are joined with them; False where they were already."""
        kept, given = int(self._label[a]), int(self._label[b])
        if kept == given:
            return False
        if len(self._members.get(kept, ())) < len(self._members.get(given, ())):
            kept, given = given, kept
        moved = self._members.pop(given, [given])
        self._label[moved] = kept
        self._members.setdefault(kept, [kept]).extend(moved)
        return True

    def groups(self) -> list[list[int]]:
        """The rows of each group of two or more, ascending."""
        return sorted(sorted(members) for members in self._members.values())


def _propose(low_VND: Float32Array, row: int, column: int) -> Pairs:
    """Pairs left < right of a block of rows and one of columns that are alike in their lowest frequencies."""
    left_VND, right_VND = low_VND[:, row : row + _ROWS], low_VND[:, column : column + _COLUMNS]
    whole_NFF = left_VND[0].reshape(-1, _LOW, _LOW)
    compared = [(_turn_coefficients(whole_NFF, turned).reshape(left_VND[0].shape), right_VND[0]) for turned in _TURNS]
    compared += [(corner_ND, right_VND[0]) for corner_ND in left_VND[1:]]
    compared += [(left_VND[0], corner_ND) for corner_ND in right_VND[1:]]
    found = []
    for orientation, (left_ND, right_ND) in zip((*_TURNS, *[0] * 2 * len(_CORNERS)), compared, strict=True):
        cosine = (left_ND @ right_ND.T).ravel()
        at = np.flatnonzero(cosine >= _MIN_LOW)
        found.append((at, np.full(len(at), orientation), cosine[at]))
    at, orientation_P, cosine_P = (np.concatenate(parts) for parts in zip(*found, strict=True))
    left, right = row + at // right_VND.shape[1], column + at % right_VND.shape[1]
    ordered = left < right
    pairs = Pairs(left, right, orientation_P).keep(ordered)
    return pairs.keep(_closest(pairs.left, cosine_P[ordered], _MOST_FOR_ROW * len(_TURNS)))


def _screen(views_NVD: NDArray[np.float16], pairs: Pairs) -> Pairs:
    """The pairs of which the whole of one is like the whole or a cut of the other."""
    likeness_P = np.empty(len(pairs.left), np.float32)
    for orientation in _TURNS:
        of_it = np.flatnonzero(pairs.orientation == orientation)
        left_PVD = _turn_views(views_NVD[pairs.left[of_it]].astype(np.float32), orientation)
        right_PVD = views_NVD[pairs.right[of_it]].astype(np.float32)
        forth_PV = (left_PVD @ right_PVD[:, 0, :, None])[..., 0]
        back_PV = (right_PVD @ left_PVD[:, 0, :, None])[..., 0]
        likeness_P[of_it] = np.maximum(forth_PV, back_PV).max(axis=1, initial=-1)
    alike = likeness_P >= _MIN_VIEW
    pairs = pairs.keep(alike)
    return pairs.keep(_closest(pairs.left, likeness_P[alike], _MOST_FOR_ROW))


def _closest(row_P: NDArray[np.intp], likeness_P: Float32Array, most: int) -> NDArray[np.intp]:
    """Places of the `most` closest pairs of each row."""
    order = np.lexsort((-likeness_P, row_P))
    rows = row_P[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return order[rank < most]


def _transform(sketches_NSS: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Coefficients (N, V, F * F) of each sketch and its cuts, of length 1; zeros for a plain sketch."""
    count, side = sketches_NSS.shape[:2]
    basis_FS = _cosines(_FREQUENCIES, side)
    margin = (1 - _CUT) * side / 2
    across = [basis_FS @ _cut_matrix(side, scale, shift * margin) for scale, shift in _cuts_of_one_axis()]
    chosen = [(0, 0), *((y, x) for y in (1, 2, 3) for x in (1, 2, 3))]
    views_NVD = np.empty((count, len(chosen), _FREQUENCIES**2), np.float16)
    gain_FF = _raise_frequencies(_FREQUENCIES, _GAIN)
    for start in range(0, count, _COLUMNS):
        levels_NSS = sketches_NSS[start : start + _COLUMNS].astype(np.float32)
        is_plain = levels_NSS.std(axis=(1, 2)) < LEAST_CONTRAST
        for view, (y, x) in enumerate(chosen):
            values_ND = (across[y] @ levels_NSS @ across[x].T * gain_FF).reshape(len(levels_NSS), -1)
            values_ND[is_plain] = 0
            views_NVD[start : start + _COLUMNS, view] = _to_length_1(values_ND)
    return views_NVD


def _cuts_of_one_axis() -> list[tuple[float, int]]:
    """Scale and place of the whole axis, then of cuts at its beginning, middle and end."""
    return [(1.0, 0), (_CUT, -1), (_CUT, 0), (_CUT, 1)]


def _cut_matrix(side: int, scale: float, shift: float) -> Float32Array:
    """(S, S): values of an axis -> values of a part of it, interpolated."""
    centre = (side - 1) / 2
    at_S = np.clip(centre + scale * (np.arange(side) - centre) + shift, 0, side - 1)
    weights_SS: Float32Array = np.maximum(0, 1 - np.abs(at_S[:, None] - np.arange(side))).astype(np.float32)
    return weights_SS


def _cosines(frequencies: int, side: int) -> Float32Array:
    """The first rows (F, S) of an orthonormal DCT-II."""
    angles_FS = np.pi / side * np.arange(frequencies)[:, None] * (np.arange(side) + 0.5)
    basis_FS = np.cos(angles_FS) * math.sqrt(2 / side)
    basis_FS[0] /= math.sqrt(2)
    return basis_FS.astype(np.float32)


def _raise_frequencies(frequencies: int, power: float) -> Float32Array:
    """(F, F): the distance from the constant part, which is left out, to a power."""
    y, x = np.mgrid[:frequencies, :frequencies]
    gain_FF: Float32Array = (np.hypot(y, x) ** power).astype(np.float32)
    gain_FF[0, 0] = 0
    return gain_FF


def _weigh_low(whole_ND: NDArray[np.float16]) -> Float32Array:
    """The lowest coefficients (N, LOW * LOW), weighed anew, of length 1."""
    low_NFF = whole_ND.astype(np.float32).reshape(-1, _FREQUENCIES, _FREQUENCIES)[:, :_LOW, :_LOW]
    gain_FF = np.maximum(_raise_frequencies(_LOW, 1.0), 1) ** np.float32(_LOW_GAIN - _GAIN)
    low_ND: Float32Array = np.multiply(low_NFF, gain_FF, dtype=np.float32).reshape(-1, _LOW * _LOW)
    return _to_length_1(low_ND)


def _turn_coefficients(values_NFF: Float32Array, orientation: int) -> Float32Array:
    """Coefficients of images -> those of the images in another orientation; (..., F, F)."""
    turned = values_NFF.swapaxes(-1, -2) if orientation & 4 else values_NFF
    sign_F = (-1.0) ** np.arange(values_NFF.shape[-1], dtype=np.float32)
    turned = turned * sign_F[:, None] if orientation & 2 else turned
    return np.ascontiguousarray(turned * sign_F if orientation & 1 else turned)


def _turn_views(views_PVD: Float32Array, orientation: int) -> Float32Array:
    values = views_PVD.reshape(*views_PVD.shape[:2], _FREQUENCIES, _FREQUENCIES)
    turned_PVD: Float32Array = _turn_coefficients(values, orientation).reshape(views_PVD.shape)
    return turned_PVD


def _to_length_1(values_ND: Float32Array) -> Float32Array:
    lengths_N1 = np.linalg.norm(values_ND, axis=1, keepdims=True)
    unit_ND: Float32Array = values_ND / np.maximum(lengths_N1, _SMALLEST)
    return unit_ND

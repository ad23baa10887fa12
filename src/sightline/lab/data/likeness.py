"""What tells whether two pictures are the same, or nearly: a hash of their content, one of their looks, a thumbnail.

The hash of looks is a difference hash (N. Krawetz, "Kind of Like That", 2013): 64 bits, each whether a cell of a 9 x 8
grey thumbnail is darker than its right neighbour. Flat pictures share it, so that a tiny colour thumbnail decides.
Shape suffixes: N M pictures, P pairs, T values of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.core.images.decode import read_picture
from sightline.core.images.files import hash_bytes
from sightline.lab.data.base import ImageSource
from sightline.lab.data.encoded import read_encoded

MAX_DISTANCE = 4
"""Bits in which the hashes of near duplicates may differ."""
MAX_DIFFERENCE = 16
"""By which no value of near duplicates' thumbnails may differ, in levels of 255. Measured on 300 pictures of Flickr8k,
each against itself at JPEG quality 40, or at half size and quality 75: the most is 11, and 97% of the hashes differ in
at most 4 bits. Rendered scenes whose hashes are equal differ by 42 and more."""

_ENOUGH_PX = 64
_THUMBNAIL_PX = 8
_BLOCKS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
"""First bit and length: of hashes that differ in four bits, one of five blocks is equal."""
_CANDIDATES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Likeness:
    """One picture, as far as comparing needs it."""

    content: str
    """Hash of the encoded file, else of the pixels."""
    looks: int
    thumbnail: bytes


def describe_likeness(source: ImageSource) -> Likeness:
    """Read a picture and describe it. Raises ImageError where it can't be read."""
    data = read_encoded(source)
    rgb_HW3 = source.read() if data is None else read_picture(data, min_side_px=_ENOUGH_PX).rgb
    content = hash_bytes(data if data is not None else f"{rgb_HW3.shape}".encode() + rgb_HW3.tobytes())
    image = Image.fromarray(rgb_HW3)
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    looks = int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")
    thumbnail = image.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX).tobytes()
    return Likeness(content, looks, thumbnail)


def find_near(first: Sequence[Likeness], second: Sequence[Likeness]) -> list[tuple[int, int]]:
    """Pairs of rows, one of each sequence, that look nearly the same; equal content is left out. Sorted."""
    if not first or not second:
        return []
    looks_N, thumbnails_NT = _stack(first)
    looks_M, thumbnails_MT = _stack(second)
    found: set[tuple[int, int]] = set()
    for rows_P, others_P in _candidates(looks_N, looks_M):
        near_P = np.bitwise_count(looks_N[rows_P] ^ looks_M[others_P]) <= MAX_DISTANCE
        rows_P, others_P = rows_P[near_P], others_P[near_P]
        alike_P = np.abs(thumbnails_NT[rows_P] - thumbnails_MT[others_P]).max(axis=1) <= MAX_DIFFERENCE
        found.update(zip(rows_P[alike_P].tolist(), others_P[alike_P].tolist(), strict=True))
    return sorted((row, other) for row, other in found if first[row].content != second[other].content)


def _stack(likenesses: Sequence[Likeness]) -> tuple[NDArray[np.uint64], NDArray[np.int16]]:
    looks_N = np.array([likeness.looks for likeness in likenesses], dtype=np.uint64)
    joined = b"".join(likeness.thumbnail for likeness in likenesses)
    return looks_N, np.frombuffer(joined, dtype=np.uint8).reshape(len(likenesses), -1).astype(np.int16)


def _candidates(
    looks_N: NDArray[np.uint64], looks_M: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows of pairs with an equal block, some millions at a time; a pair may come more than once."""
    for shift, length in _BLOCKS:
        mask = np.uint64((1 << length) - 1)
        block_N = (looks_N >> np.uint64(shift)) & mask
        block_M = (looks_M >> np.uint64(shift)) & mask
        order_M = np.argsort(block_M, kind="stable")
        sorted_M = block_M[order_M]
        start_N = np.searchsorted(sorted_M, block_N, side="left")
        count_N = np.searchsorted(sorted_M, block_N, side="right") - start_N
        pieces = np.cumsum(count_N) // _CANDIDATES_AT_ONCE
        for piece in np.unique(pieces):
            rows_N = np.flatnonzero((pieces == piece) & (count_N > 0))
            rows_P = np.repeat(rows_N, count_N[rows_N])
            ends_P = np.repeat(np.cumsum(count_N[rows_N]), count_N[rows_N])
            within_P = np.arange(len(rows_P)) - ends_P + np.repeat(count_N[rows_N], count_N[rows_N])
            yield rows_P, order_M[start_N[rows_P] + within_P]

"""The scan itself: cosine distances of int8 rows to one query, of all rows or of those a mask keeps.

All distances come back, not a few nearest: a filter is a mask over them, and any number of best rows a partition.

Shape suffixes: N rows, D dimension, C a chunk of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numkong
import numpy as np
from numpy.typing import NDArray

SCANNED_ROWS = 32_768
"""Rows compared in one call, which bounds the memory for its float64 answer."""
GATHERED_ROWS = 4096
"""Rows copied together at once, where a mask keeps few: they stay in the processor's cache until they are compared."""
GATHERED_FRACTION = 0.3
"""Below this part of the rows, copying those that are kept and comparing only them is faster than comparing all."""


def scan(
    blocks: Sequence[NDArray[np.int8]], query_1D: NDArray[np.int8], mask_N: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Cosine distances (N,) of the rows of all blocks, (N, D) together; infinite where the mask is False."""
    distances_N = np.empty(sum(map(len, blocks)), dtype=np.float32)
    first = 0
    for block_ND in blocks:
        own = slice(first, first + len(block_ND))
        _scan_block(block_ND, query_1D, None if mask_N is None else mask_N[own], distances_N[own])
        first = own.stop
    return distances_N


def _scan_block(
    rows_ND: NDArray[np.int8],
    query_1D: NDArray[np.int8],
    mask_N: NDArray[np.bool_] | None,
    distances_N: NDArray[np.float32],
) -> None:
    if mask_N is not None and np.count_nonzero(mask_N) < GATHERED_FRACTION * len(mask_N):
        distances_N[:] = np.inf
        kept = np.flatnonzero(mask_N)
        for start in range(0, len(kept), GATHERED_ROWS):
            position_C = kept[start : start + GATHERED_ROWS]
            distances_N[position_C] = _compare(query_1D, rows_ND[position_C])
        return
    for start in range(0, len(rows_ND), SCANNED_ROWS):
        chunk = slice(start, start + SCANNED_ROWS)
        distances_N[chunk] = _compare(query_1D, rows_ND[chunk])
    if mask_N is not None:
        distances_N[~mask_N] = np.inf


def _compare(query_1D: NDArray[np.int8], rows_CD: NDArray[np.int8]) -> NDArray[np.float64]:
    """Cosine distances (C,). numkong answers in float64: asked for less, it takes a path ten times slower."""
    distances_1C = np.asarray(numkong.cdist(query_1D, rows_CD, "angular"), dtype=np.float64)
    return distances_1C.reshape(len(rows_CD))

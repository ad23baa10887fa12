"""The nearest rows: an int8 scan of the matrix proposes candidates, their fp16 vectors decide.

All distances of a scan come back, not a few nearest: a filter is a mask over them, and any number of best rows a
partition.

Shape suffixes: N rows of the matrix, M ids, C candidates or a chunk of rows, D dimension.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numkong
import numpy as np
from numpy.typing import NDArray

from sightline.core.store.columns import Selection
from sightline.core.store.matrix import Matrix, quantise
from sightline.core.store.vectors import ModelRow, read_vectors

MIN_CANDIDATES = 50
MAX_CANDIDATES_PER_RESULT = 4
_ROUNDING = 1e-6
"""Equal rows may get cosines that differ by this much."""
_READ_ALL_FRACTION = 0.5
"""From this part of the rows on, reading all vectors is faster than looking each up."""

SCANNED_ROWS = 32_768
"""Rows compared in one call, which bounds the memory for its float64 answer."""
GATHERED_ROWS = 4096
"""Rows copied together at once, where a mask keeps few: they stay in the processor's cache until they are compared."""
GATHERED_FRACTION = 0.3
"""Below this part of the rows, copying those that are kept and comparing only them is faster than comparing all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked for."""

    query: NDArray[np.float32]
    """(D,), at length 1."""
    k: int
    selection: Selection | None
    """The images that meet the filter; None where there is none."""
    excluded: NDArray[np.int64]

    def mask(self, ids_M: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which ids (M,) may be found; None where all may."""
        mask_M = None if self.selection is None else self.selection.mask(ids_M)
        if len(self.excluded):
            others_M = ~np.isin(ids_M, self.excluded)
            mask_M = others_M if mask_M is None else mask_M & others_M
        return mask_M


def rank_nearest(db: sqlite3.Connection, model: ModelRow, matrix: Matrix, wanted: Wanted) -> list[tuple[int, float]]:
    """The k nearest rows as (id, cosine), best first, ties by id."""
    ids_C = _propose(matrix, wanted)
    if len(matrix.missing):
        mask_M = wanted.mask(matrix.missing)
        ids_C = np.concatenate([ids_C, matrix.missing if mask_M is None else matrix.missing[mask_M]])
    ids_C, cosine_C = _compare(db, model, ids_C, wanted.query, every=len(ids_C) > _READ_ALL_FRACTION * matrix.count)
    best = np.lexsort((ids_C, -cosine_C))[: wanted.k]
    return list(zip(ids_C[best].tolist(), cosine_C[best].tolist(), strict=True))


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


def _propose(matrix: Matrix, wanted: Wanted) -> NDArray[np.int64]:
    """The rows that can be among the k nearest: those that rounding may have put behind the k-th, and all that tie."""
    mask_N = wanted.mask(matrix.ids)
    if matrix.alive is not None:
        mask_N = matrix.alive if mask_N is None else mask_N & matrix.alive
    distance_N = scan(matrix.blocks, quantise(wanted.query[None]), mask_N)
    available = int(np.count_nonzero(np.isfinite(distance_N)))
    k = min(wanted.k, available)
    if k == 0:
        return matrix.ids[:0]
    limit = np.partition(distance_N, k - 1)[k - 1] + matrix.margin
    within = int(np.count_nonzero(distance_N <= limit))
    count = min(max(within, MIN_CANDIDATES), max(MIN_CANDIDATES, MAX_CANDIDATES_PER_RESULT * k), available)
    if count != within:
        limit = np.partition(distance_N, count - 1)[count - 1]
    # Among many equal rows (copies of one image) all must compete for the lowest ids.
    proposed_C: NDArray[np.int64] = matrix.ids[distance_N <= limit + _ROUNDING]
    return proposed_C


def _compare(
    db: sqlite3.Connection, model: ModelRow, ids_M: NDArray[np.int64], query_D: NDArray[np.float32], *, every: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids (C,) and cosines (C,) of those of `ids_M` that have a vector; `every` vector is read, or these alone."""
    ids, cosines = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float64)]
    for found, vectors_CD in read_vectors(db, model, None if every else ids_M.tolist()):
        # Summed row by row, not by BLAS: equal vectors must get equal cosines wherever they stand.
        ids.append(found)
        cosines.append((vectors_CD * query_D).sum(axis=1, dtype=np.float64).clip(-1, 1))
    id_C, cosine_C = np.concatenate(ids), np.concatenate(cosines)
    if not every:
        return id_C, cosine_C
    wanted_C = np.isin(id_C, ids_M)
    return id_C[wanted_C], cosine_C[wanted_C]


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
            distances_N[position_C] = _angular_distances(query_1D, rows_ND[position_C])
        return
    for start in range(0, len(rows_ND), SCANNED_ROWS):
        chunk = slice(start, start + SCANNED_ROWS)
        distances_N[chunk] = _angular_distances(query_1D, rows_ND[chunk])
    if mask_N is not None:
        distances_N[~mask_N] = np.inf


def _angular_distances(query_1D: NDArray[np.int8], rows_CD: NDArray[np.int8]) -> NDArray[np.float64]:
    """Cosine distances (C,). numkong answers in float64: asked for less, it takes a path ten times slower."""
    distances_1C = np.asarray(numkong.cdist(query_1D, rows_CD, "angular"), dtype=np.float64)
    return distances_1C.reshape(len(rows_CD))

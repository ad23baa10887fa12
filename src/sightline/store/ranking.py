"""The nearest rows: an int8 scan proposes candidates, their fp16 vectors decide.

Shape suffixes: C candidates, D dimension.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.store.matrix import Matrix
from sightline.store.vectors import ModelRow, read_vectors

MIN_CANDIDATES = 50
CANDIDATES_PER_RESULT = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked for."""

    query: NDArray[np.float32]
    """(D,), at length 1."""
    k: int
    selected: NDArray[np.int64] | None
    """Ids that meet the filter; None where there is none."""
    excluded: NDArray[np.int64]


def rank_nearest(db: sqlite3.Connection, model: ModelRow, matrix: Matrix, wanted: Wanted) -> list[tuple[int, float]]:
    """The k nearest rows as (id, cosine), best first, ties by id."""
    ids_C = _propose(matrix, wanted)
    ranked: list[tuple[float, int]] = []
    for ids, vectors_CD in read_vectors(db, model, ids_C.tolist()):
        # Summed row by row, not by BLAS: equal vectors must get equal cosines wherever they stand.
        cosines = (vectors_CD * wanted.query).sum(axis=1, dtype=np.float64).clip(-1, 1)
        ranked.extend(zip((-cosines).tolist(), ids.tolist(), strict=True))
    ranked.sort()
    return [(id_, -negative) for negative, id_ in ranked[: wanted.k]]


def _propose(matrix: Matrix, wanted: Wanted) -> NDArray[np.int64]:
    positions = None if wanted.selected is None else matrix.positions(wanted.selected)
    available = len(matrix.ids) if positions is None else len(positions)
    k = min(wanted.k, available)
    # Excluded rows may all be among the nearest; with as many more candidates, enough remain.
    count = max(MIN_CANDIDATES, CANDIDATES_PER_RESULT * k) + len(wanted.excluded)
    while True:
        ids, distances = matrix.nearest(wanted.query, count, positions)
        kept = ~np.isin(ids, wanted.excluded)
        ids, distances = ids[kept], distances[kept]
        # Among many equal rows (copies of one image) the scan takes any; all of them must compete for the lowest ids.
        if count >= available or distances[-1] > distances[k - 1]:
            return ids
        count *= 4

"""At which rank queries find what is relevant to them: the one mechanism behind retrieval, zero-shot and probes.

Ties are broken at random, and figures are the exact mean over all their orders: embeddings that collapsed to one point
score what chance scores, and no order of rows in a file helps. Shape suffixes: Q queries, C candidates, R relevant
candidates of one query, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIE_TOLERANCE = 1e-6
"""Similarities closer than this, for rows of norm 1, are tied: float32 sums of equal rows differ by some 1e-7,
depending on how a batch was cut."""

_CHUNK_BYTES = 32 * 2**20
"""Similarities held at a time, unless the caller says how many rows."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each query, where its best relevant candidate stands; the rest follows from these counts."""

    better_Q: NDArray[np.int64]
    """Irrelevant candidates that are strictly more similar than the best relevant one."""
    tied_Q: NDArray[np.int64]
    """Irrelevant candidates tied with the best relevant one."""
    relevant_Q: NDArray[np.int64]
    """Relevant candidates tied for best, that one included: at least 1."""
    average_precision_Q: NDArray[np.float64]
    """Average precision over all relevant candidates of the query."""

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.better_Q)

    @property
    def expected_ranks(self) -> NDArray[np.float64]:
        """Expected rank (Q,) of the first relevant candidate, from 1.

        The first of r marked items among n in random order stands at (n + 1) / (r + 1) on average.
        """
        among_Q = self.relevant_Q + self.tied_Q
        expected_Q: NDArray[np.float64] = self.better_Q + (among_Q + 1) / (self.relevant_Q + 1)
        return expected_Q

    def found_at(self, k: int) -> NDArray[np.float64]:
        """Probability (Q,) that the first k candidates hold a relevant one: 0 or 1 where nothing is tied.

        With j places left for r relevant and t others that are tied, 1 - C(t, j) / C(r + t, j). Raises InputError for
        k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        places_Q = np.clip(k - self.better_Q, 0, None)
        missed_Q = np.ones(len(self))
        for nth in range(int(self.relevant_Q.max(initial=0))):  # C(t, j) / C(r + t, j), one relevant item at a time
            among_Q = self.tied_Q + nth + 1
            factor_Q = np.clip((among_Q - places_Q) / among_Q, 0.0, 1.0)
            missed_Q = np.where(nth < self.relevant_Q, missed_Q * factor_Q, missed_Q)
        return 1.0 - missed_Q


def rank_embeddings(
    query_QD: NDArray[np.float32],
    candidate_CD: NDArray[np.float32],
    relevant: Sequence[NDArray[np.int64]],
    *,
    chunk_rows: int | None = None,
) -> Ranks:
    """Ranks of each query's `relevant` candidates (indices, at least one) by dot product, in chunks of queries.

    For normalised rows that is the cosine. Raises InputError for `chunk_rows` below 1; values must be finite.
    """
    if chunk_rows is not None and chunk_rows < 1:
        raise InputError(f"chunk_rows must be at least 1, got {chunk_rows}.")
    rows = chunk_rows or max(1, _CHUNK_BYTES // (4 * max(1, len(candidate_CD))))
    tolerance = TIE_TOLERANCE * _longest(query_QD) * _longest(candidate_CD)
    parts = [
        rank_similarities(query_QD[start : start + rows] @ candidate_CD.T, relevant[start : start + rows], tolerance)
        for start in range(0, len(query_QD), rows)
    ]
    return Ranks(
        better_Q=np.concatenate([part.better_Q for part in parts]),
        tied_Q=np.concatenate([part.tied_Q for part in parts]),
        relevant_Q=np.concatenate([part.relevant_Q for part in parts]),
        average_precision_Q=np.concatenate([part.average_precision_Q for part in parts]),
    )


def rank_similarities(
    similarity_QC: NDArray[np.floating], relevant: Sequence[NDArray[np.int64]], tolerance: float
) -> Ranks:
    """Ranks of each query's `relevant` candidates in its row of similarities."""
    sorted_QC = np.sort(similarity_QC, axis=1)
    rows = [
        _rank_row(sorted_C, np.sort(similarity_C[own_R])[::-1], tolerance)
        for sorted_C, similarity_C, own_R in zip(sorted_QC, similarity_QC, relevant, strict=True)
    ]
    better, tied, own, precision = zip(*rows, strict=True)
    return Ranks(
        better_Q=np.array(better, np.int64),
        tied_Q=np.array(tied, np.int64),
        relevant_Q=np.array(own, np.int64),
        average_precision_Q=np.array(precision, np.float64),
    )


def require_finite_rows(values_ND: NDArray[np.floating], *, what: str) -> None:
    """Raises InputError naming the first row that holds NaN or infinity: rankings with NaN are silently wrong."""
    bad_N = ~np.isfinite(values_ND).reshape(len(values_ND), -1).all(axis=1)
    if bad_N.any():
        raise InputError(
            f"Row {int(bad_N.argmax())} of the {what} holds NaN or infinity ({int(bad_N.sum())} of {len(bad_N)} rows "
            "do). No ranking of such values means anything; find what made them."
        )


def _rank_row(
    sorted_C: NDArray[np.floating], own_R: NDArray[np.floating], tolerance: float
) -> tuple[int, int, int, float]:
    """One query: all similarities from the least up, those of relevant candidates from the greatest down."""
    precisions, before = 0.0, 0
    first: tuple[int, int, int] | None = None
    for high, low, count in _tied_groups(own_R, tolerance):
        # of the array's own type: else searchsorted would copy the whole row to float64
        top, bottom = sorted_C.dtype.type(high + tolerance), sorted_C.dtype.type(low - tolerance)
        above = len(sorted_C) - int(sorted_C.searchsorted(top, side="right"))
        level = len(sorted_C) - int(sorted_C.searchsorted(bottom, side="left")) - above
        first = first or (above, level - count, count)
        precisions += _expected_precisions(above, level, relevant=count, relevant_before=before)
        before += count
    assert first is not None  # every query has something relevant
    return (*first, precisions / len(own_R))


def _tied_groups(own_R: NDArray[np.floating], tolerance: float) -> Iterator[tuple[float, float, int]]:
    """Runs of descending values in which neighbours are tied: greatest, least, length."""
    start = 0
    for end in range(1, len(own_R) + 1):
        if end == len(own_R) or own_R[end - 1] - own_R[end] > tolerance:
            yield float(own_R[start]), float(own_R[end - 1]), end - start
            start = end


def _expected_precisions(above: int, level: int, *, relevant: int, relevant_before: int) -> float:
    """Sum of the precisions at the relevant ones of `level` tied candidates, averaged over their orders.

    McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied
    scores", section 2.4: the candidate at place i is relevant with probability r / n, and of the i - 1 tied ones before
    it (i - 1)(r - 1) / (n - 1) are.
    """
    if level == 1:
        return (relevant_before + 1) / (above + 1)
    place_L = np.arange(1, level + 1)
    relevant_so_far_L = relevant_before + 1 + (place_L - 1) * (relevant - 1) / (level - 1)
    return float((relevant_so_far_L / (above + place_L)).sum() * relevant / level)


def _longest(rows_ND: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(rows_ND, axis=1).max(initial=0.0))

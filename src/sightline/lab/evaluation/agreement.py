"""How far models rank the same images and texts alike, two of them or each two of several.

Shape suffixes: Q queries, C candidates, B images, D and E dimensions of the two joint spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.ranks import TIE_TOLERANCE, require_finite_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK_CELLS = 4_000_000
_QUERIES_AT_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two rankings are, as means over all queries."""

    overlap: float
    """Share of the first k candidates that both models have there, in [0, 1]; `chance` at random."""
    correlation: float
    """Spearman's rank correlation of the similarities to all candidates, in [-1, 1]; 0 at random."""
    chance: float
    """Overlap of two random rankings: k / candidates."""
    k: int
    n_queries: int


def measure_agreement(
    queries: tuple[NDArray[np.float32], NDArray[np.float32]],
    candidates: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    k: int = 10,
) -> Agreement:
    """Agreement of the rankings that two models make of the same candidates for the same queries.

    `queries` are (Q, D) of one model and (Q, E) of the other, `candidates` (C, D) and (C, E). Tied candidates share
    their places, so models whose vectors collapsed agree as much as chance does. Computed in chunks of queries. Raises
    InputError for arrays that don't fit and values that aren't finite. Spearman 1904, ties by average ranks.
    """
    k = _check(queries, candidates, k=k)
    n_queries, n_candidates = len(queries[0]), len(candidates[0])
    rows = max(1, _CHUNK_CELLS // n_candidates)
    overlap, correlation = 0.0, 0.0
    for start in range(0, n_queries, rows):
        first_QC, second_QC = (
            query[start : start + rows] @ candidate.T for query, candidate in zip(queries, candidates, strict=True)
        )
        overlap += float((_places_taken(first_QC, k) * _places_taken(second_QC, k)).sum()) / k
        correlation += float(_correlate_ranks(first_QC, second_QC).sum())
    return Agreement(
        overlap=overlap / n_queries,
        correlation=correlation / n_queries,
        chance=k / n_candidates,
        k=k,
        n_queries=n_queries,
    )


@dataclass(frozen=True, kw_only=True)
class AgreementMatrix:
    """How alike each two models rank the same candidates; both matrices are symmetric, with ones on the diagonal."""

    models: tuple[str, ...]
    k: int
    chance: float
    n_queries: int
    n_candidates: int
    overlap: tuple[tuple[float, ...], ...]
    """Share of the first k places that two models fill alike."""
    correlation: tuple[tuple[float, ...], ...]
    """Mean Spearman correlation of the rankings."""


def measure_agreements(
    queries: Mapping[str, NDArray[np.float32]], images: Mapping[str, NDArray[np.float32]], *, k: int
) -> dict[str, AgreementMatrix]:
    """Model -> vectors of the same queries (Q, D) and pictures (B, D); nothing for fewer than two models.

    `text_to_image` ranks all pictures for each query, `image_to_image` one half of the pictures for some of the other
    half, so that no picture finds itself. Raises InputError as `measure_agreement` does.
    """
    if len(images) < 2:
        return {}
    found = {"text_to_image": _fill_matrix({name: (queries[name], images[name]) for name in images}, k=k)}
    n_images = len(next(iter(images.values())))
    if n_images > 1:
        step = 2 * max(1, n_images // (2 * _QUERIES_AT_MOST))
        by_image = {name: (all_BD[::step], all_BD[1::2]) for name, all_BD in images.items()}
        found["image_to_image"] = _fill_matrix(by_image, k=k)
    return found


def _check(
    queries: tuple[NDArray[np.float32], NDArray[np.float32]],
    candidates: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    k: int,
) -> int:
    """The k that is used: at most the number of candidates."""
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")
    for values, what in ((queries, "queries"), (candidates, "candidates")):
        if len(values[0]) != len(values[1]) or not len(values[0]):
            raise InputError(f"Both models need the same {what}, at least one: {len(values[0])} and {len(values[1])}.")
        for vectors_ND in values:
            require_finite_rows(vectors_ND, what=what)
    return min(k, len(candidates[0]))


def _places_taken(similarity_QC: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """Each candidate's part of the first k places (Q, C): 0 or 1, and equal parts where tied at the k-th."""
    last_Q1 = np.partition(similarity_QC, -k, axis=1)[:, -k, None]
    above_QC = similarity_QC > last_Q1 + TIE_TOLERANCE
    tied_QC = np.abs(similarity_QC - last_Q1) <= TIE_TOLERANCE
    left_Q1 = k - above_QC.sum(axis=1, keepdims=True)
    places_QC: NDArray[np.float64] = above_QC + tied_QC * (left_Q1 / tied_QC.sum(axis=1, keepdims=True))
    return places_QC


def _correlate_ranks(first_QC: NDArray[np.float32], second_QC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman's correlation of each row (Q,); 0 where all similarities of a row are tied, which rank nothing."""
    centred = [_average_ranks(values_QC) - (values_QC.shape[1] + 1) / 2 for values_QC in (first_QC, second_QC)]
    covariance_Q = (centred[0] * centred[1]).sum(axis=1)
    norm_Q = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    correlation_Q = np.zeros(len(norm_Q))
    np.divide(covariance_Q, norm_Q, out=correlation_Q, where=norm_Q > 0)
    return correlation_Q


def _average_ranks(values_QC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks of each row from 1 for its least value; equal ones share their mean rank."""
    values_QC = values_QC.round(6)  # by a grid, not by distance: many candidates would chain into one tie
    order_QC = np.argsort(values_QC, axis=1, kind="stable")
    sorted_QC = np.take_along_axis(values_QC, order_QC, axis=1)
    new_QC = np.ones(values_QC.shape, bool)
    new_QC[:, 1:] = sorted_QC[:, 1:] != sorted_QC[:, :-1]
    group_N = np.cumsum(new_QC) - 1  # runs of tied values, numbered through all rows
    place_QC = np.broadcast_to(np.arange(1, values_QC.shape[1] + 1), values_QC.shape)
    mean_G = np.bincount(group_N, weights=place_QC.ravel()) / np.bincount(group_N)
    ranks_QC = np.empty(values_QC.shape)
    np.put_along_axis(ranks_QC, order_QC, mean_G[group_N].reshape(values_QC.shape), axis=1)
    return ranks_QC


def _fill_matrix(spaces: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]], *, k: int) -> AgreementMatrix:
    names = tuple(spaces)
    pairs: dict[tuple[int, int], Agreement] = {}
    for row, one in enumerate(names):
        for column, other in enumerate(names[:row]):
            queries = (spaces[one][0], spaces[other][0])
            candidates = (spaces[one][1], spaces[other][1])
            pairs[row, column] = pairs[column, row] = measure_agreement(queries, candidates, k=k)
    some = pairs[1, 0]
    return AgreementMatrix(
        models=names,
        k=some.k,
        chance=some.chance,
        n_queries=some.n_queries,
        n_candidates=len(spaces[names[0]][1]),
        overlap=_square(len(names), lambda cell: pairs[cell].overlap),
        correlation=_square(len(names), lambda cell: pairs[cell].correlation),
    )


def _square(side: int, of: Callable[[tuple[int, int]], float]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(1.0 if row == column else of((row, column)) for column in range(side)) for row in range(side))

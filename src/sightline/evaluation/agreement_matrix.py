"""How far the rankings of several models agree, each two of them.

Shape suffixes: Q queries, B images, D dimension of a model's joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.evaluation.agreement import Agreement, measure_agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_QUERIES_AT_MOST = 1000


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

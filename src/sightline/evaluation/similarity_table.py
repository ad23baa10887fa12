"""The similarities of a few texts and a few pictures under each model: what a heatmap shows.

Shape suffixes: Q queries, B images, N of both that are shown, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Spaces = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

SHOWN = 6
_QUERIES_TRIED = 64


@dataclass(frozen=True, kw_only=True)
class SimilarityTable:
    """Cosines of texts (rows) and pictures (columns); the diagonal holds what all models together find best."""

    texts: tuple[str, ...]
    ids: tuple[str, ...]
    """Of the pictures."""
    models: Mapping[str, tuple[tuple[float, ...], ...]]
    """Cosines of one model don't compare with those of another; their order does."""


def choose_corners(spaces: Spaces, *, shown: int = SHOWN) -> list[tuple[int, int]]:
    """Queries spread over the list, each with the picture that all models together rank highest among those left.

    `spaces` are, for each model, its vectors of queries (Q, D) and of pictures (B, D). A model's similarities are
    standardised for each query, so that no model counts more than another. The answers are (query, picture).
    """
    n_queries, n_images = (len(vectors) for vectors in next(iter(spaces.values())))
    shown = min(shown, n_queries, n_images)
    rows = np.unique(np.linspace(0, min(n_queries, _QUERIES_TRIED) - 1, shown).astype(int))
    agreed_QB = sum(_standardise(query_QD[rows] @ image_BD.T) for query_QD, image_BD in spaces.values())
    assert isinstance(agreed_QB, np.ndarray)  # there is at least one model
    corners = []
    for place, query in enumerate(rows):
        image = int(agreed_QB[place].argmax())
        corners.append((int(query), image))
        agreed_QB[:, image] = -np.inf
    return corners


def tabulate(
    spaces: Spaces, corners: Sequence[tuple[int, int]], *, queries: Sequence[str], ids: Sequence[str]
) -> SimilarityTable:
    """The cosines of the chosen queries and pictures under each model."""
    rows, columns = [query for query, _ in corners], [image for _, image in corners]
    cosines = {name: query_QD[rows] @ image_BD[columns].T for name, (query_QD, image_BD) in spaces.items()}
    return SimilarityTable(
        texts=tuple(queries[row] for row in rows),
        ids=tuple(ids[column] for column in columns),
        models={name: tuple(tuple(map(float, row)) for row in cosine_NN) for name, cosine_NN in cosines.items()},
    )


def _standardise(similarity_QB: NDArray[np.float32]) -> NDArray[np.float64]:
    centred_QB = similarity_QB - similarity_QB.mean(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(centred_QB / np.maximum(centred_QB.std(axis=1, keepdims=True), 1e-9))

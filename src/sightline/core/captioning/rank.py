"""Captions of a fixed list, ranked against images by CLIP.

Shape suffixes: B images, T texts, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sightline.core.captioning.vectors import embed_texts, load_or_embed_texts, require_finite
from sightline.core.types import Caption

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder


class Ranker(Protocol):
    """Image vectors -> captions that fit, whatever the candidates are."""

    def rank(self, image_vectors_BD: NDArray[np.float32], *, top_k: int) -> list[list[Caption]]:
        """L2-normalised image vectors (B, D) -> for each image its `top_k` captions, best first."""
        ...


class ListRanker:
    """Ranks a list of candidate captions, embedded once; with `cached`, once for all runs."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], *, cached: bool = True) -> None:
        self._texts = tuple(texts)
        self._vectors_TD = (load_or_embed_texts if cached else embed_texts)(encoder, self._texts)
        self._model = encoder.card.name

    def rank(self, image_vectors_BD: NDArray[np.float32], *, top_k: int) -> list[list[Caption]]:
        """The `top_k` candidates by cosine, best first; equal ones in the order of the list."""
        require_finite(image_vectors_BD, what=f"Image vectors of {self._model}")
        similarities_BT = image_vectors_BD @ self._vectors_TD.T
        return [
            [make_clip_caption(self._texts[i], float(row_T[i]), model=self._model) for i in order_best(row_T)[:top_k]]
            for row_T in similarities_BT
        ]


def rank_candidates(
    image_vectors_BD: NDArray[np.float32], texts: Sequence[str], encoder: Encoder, *, top_k: int
) -> list[list[Caption]]:
    """For each image, the `top_k` of the texts by cosine similarity, best first; equal ones in the order given."""
    return ListRanker(encoder, texts).rank(image_vectors_BD, top_k=top_k)


def order_best(similarities_T: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices from the highest similarity down, ties by index.

    Differences below 1e-6 count as ties: they depend on how a batch was cut, and captions must not.
    """
    return np.argsort(-similarities_T.round(6), kind="stable")


def make_clip_caption(text: str, similarity: float, *, model: str) -> Caption:
    """A ranked candidate as a Caption."""
    return Caption(text=text, source="clip", similarity=similarity, model=model)

"""Texts x pictures: how well each pair fits, as a model sees it.

Shape suffixes: T texts, B pictures, N of one of them, D joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.embedding import embed_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder

Kind = Literal["cosine", "probability"]
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class HeatmapPicture:
    """One picture of a heatmap."""

    name: str
    """What it is called at its column, such as a file name."""
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class SimilarityHeatmap:
    """The similarity of every text with every picture."""

    model: str
    kind: Kind
    """`cosine`, or `probability`: of each text for a picture, so that the columns add up to 1."""
    texts: tuple[str, ...]
    pictures: tuple[HeatmapPicture, ...]
    values_TB: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: a row of `values` for each text."""
        return {
            "model": self.model,
            "kind": self.kind,
            "texts": list(self.texts),
            "images": [picture.name for picture in self.pictures],
            "values": [[round(float(value), 6) for value in row] for row in self.values_TB],
        }


def make_similarity_heatmap(
    encoder: Encoder,
    pictures: Sequence[HeatmapPicture],
    texts: Sequence[str],
    *,
    probability: bool = False,
    cluster: bool = False,
) -> SimilarityHeatmap:
    """Embed texts and pictures and compare each with each.

    `probability` is the softmax over the texts of temperature x cosine, for each picture (Radford et al. 2021): which
    of these texts, if it were one of them. `cluster` puts texts that are alike side by side, and pictures too; else
    they stay in the order given. Raises InputError without pictures or texts, and for probabilities of a single text.
    """
    if not pictures or not texts:
        raise InputError(
            "A heatmap needs at least one picture and one text: sightline heatmap a.jpg b.jpg --text 'a dog'"
        )
    if probability and len(texts) < 2:
        raise InputError("The probability of one text among itself is 1; give two texts or more, or leave it out.")
    resize = encoder.card.preprocessing.resize
    pixels = [resize(picture.rgb) for picture in pictures]
    image_BD = np.concatenate(
        [encoder.encode_images(np.stack(pixels[start : start + _BATCH])) for start in range(0, len(pixels), _BATCH)]
    )
    text_TD = embed_texts(encoder, texts)
    cosine_TB = text_TD.astype(np.float64) @ image_BD.astype(np.float64).T
    heatmap = SimilarityHeatmap(
        model=encoder.card.name,
        kind="probability" if probability else "cosine",
        texts=tuple(texts),
        pictures=tuple(pictures),
        values_TB=softmax_over_texts(cosine_TB, temperature_of(encoder)) if probability else cosine_TB,
    )
    return reorder(heatmap, cluster_order(text_TD), cluster_order(image_BD)) if cluster else heatmap


def reorder(heatmap: SimilarityHeatmap, texts: Sequence[int], pictures: Sequence[int]) -> SimilarityHeatmap:
    """The same with its rows and columns in another order."""
    return replace(
        heatmap,
        texts=tuple(heatmap.texts[row] for row in texts),
        pictures=tuple(heatmap.pictures[column] for column in pictures),
        values_TB=heatmap.values_TB[np.ix_(texts, pictures)],
    )


def temperature_of(encoder: Encoder) -> float:
    """What multiplies cosines in a softmax: the weights' own where they tell it, else the card's."""
    return float(getattr(encoder, "temperature", None) or encoder.card.nats_per_cosine)


def softmax_over_texts(cosine_TB: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities of the texts for each picture (T, B); columns add up to 1."""
    shifted_TB = temperature * (cosine_TB - cosine_TB.max(axis=0, keepdims=True))
    share_TB = np.exp(shifted_TB)
    return np.asarray(share_TB / share_TB.sum(axis=0, keepdims=True))


def cluster_order(vectors_ND: NDArray[np.float32]) -> list[int]:
    """An order of unit vectors in which like lies beside like: average linkage, merged with the nearest ends inside."""
    cosine_NN = vectors_ND.astype(np.float64) @ vectors_ND.astype(np.float64).T
    groups = [[row] for row in range(len(vectors_ND))]
    linkage_NN = cosine_NN.copy()
    np.fill_diagonal(linkage_NN, -np.inf)
    while len(groups) > 1:
        first, second = sorted(divmod(int(linkage_NN.argmax()), len(groups)))
        one, other = groups[first], groups.pop(second)
        weights = np.array([len(one), len(other)]) / (len(one) + len(other))
        joined_N = weights @ linkage_NN[[first, second]]
        linkage_NN[first], linkage_NN[:, first] = joined_N, joined_N
        linkage_NN[first, first] = -np.inf
        linkage_NN = np.delete(np.delete(linkage_NN, second, axis=0), second, axis=1)
        turns = [(a, b) for a in (one, one[::-1]) for b in (other, other[::-1])]
        turns += [(b, a) for a, b in turns]
        before, after = max(turns, key=lambda turn: cosine_NN[turn[0][-1], turn[1][0]])
        groups[first] = [*before, *after]
    return groups[0] if groups else []

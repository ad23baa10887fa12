"""Retrieval in both directions, with any number of captions an image.

Shape suffixes: B images, T texts, D dimension of the joint space.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.embedding import CountProgress, EmbeddedDataset, EvalConfig, embed_dataset
from sightline.lab.evaluation.results import (
    EvalResult,
    Figures,
    Ranks,
    Statistic,
    mean_of,
    median_of,
    rank_embeddings,
    require_finite_rows,
)

Direction = Literal["image_retrieval", "text_retrieval"]
"""The kind that is found: `image_retrieval` is text to image."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvalConfig):
    """Settings of retrieval."""

    ks: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ks(self.ks)


class RetrievalEvaluator:
    """Text to image and image to text on a data set with captions."""

    def __init__(self, config: RetrievalConfig | None = None) -> None:
        self.config = config or RetrievalConfig()

    def run(self, encoder: Encoder, dataset: Dataset, *, progress: CountProgress | None = None) -> EvalResult:
        """Metrics as `RetrievalRanks.figures` names them. Raises InputError where an image has no caption."""
        started = time.perf_counter()
        embedded = self.embed(encoder, dataset, progress=progress)
        return replace(self.measure(encoder, dataset, embedded), took_s=time.perf_counter() - started)

    def embed(self, encoder: Encoder, dataset: Dataset, *, progress: CountProgress | None = None) -> EmbeddedDataset:
        """The vectors that `measure` takes. Raises InputError where an image has no caption."""
        if bare := next((pair.id for pair in dataset if not pair.captions), None):
            raise InputError(f"{dataset.name}: {bare} has no caption; retrieval needs at least one for each picture.")
        return embed_dataset(encoder, dataset, batch_size=self.config.batch_size, progress=progress)

    def measure(self, encoder: Encoder, dataset: Dataset, embedded: EmbeddedDataset) -> EvalResult:
        """The result of vectors that `embed` made; for those who need the vectors too."""
        ranks = rank_retrieval(embedded.image_BD, embedded.text_TD, embedded.owner_T)
        return self.config.make_result(
            encoder,
            dataset,
            ranks.figures(self.config.ks),
            n_images=len(embedded.image_BD),
            n_texts=len(embedded.texts),
            problems=embedded.problems,
        )


@dataclass(frozen=True, kw_only=True)
class RetrievalRanks:
    """Ranks at which every text finds its image, and every image its captions."""

    image_retrieval: Ranks
    """One query a text, the images as candidates."""
    text_retrieval: Ranks
    """One query an image, the texts as candidates; any caption of the image is relevant."""
    owner_T: NDArray[np.int64]

    def figures(self, ks: Sequence[int] = (1, 5, 10)) -> Figures:
        """For both directions `..._recall@k`, `..._median_rank`, `..._mean_rank` (from 1) and `..._mAP`.

        Groups are images with their captions.
        """
        n_images = len(self.text_retrieval)
        statistics: dict[str, Statistic] = {}
        for direction, ranks, group_Q in (
            ("image_retrieval", self.image_retrieval, self.owner_T),
            ("text_retrieval", self.text_retrieval, np.arange(n_images)),
        ):
            for k in check_ks(ks):
                statistics[f"{direction}_recall@{k}"] = mean_of(ranks.found_at(k), group_Q, n_images)
            statistics[f"{direction}_median_rank"] = median_of(ranks.expected_ranks, group_Q)
            statistics[f"{direction}_mean_rank"] = mean_of(ranks.expected_ranks, group_Q, n_images)
            statistics[f"{direction}_mAP"] = mean_of(ranks.average_precision_Q, group_Q, n_images)
        return Figures(statistics=statistics, n_groups=n_images)


def rank_retrieval(
    image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64]
) -> RetrievalRanks:
    """Ranks in both directions by dot product; `owner_T` is each text's image.

    Some ten megabytes of similarities are held at a time, so memory grows with the number of images and texts, not
    with their product. Raises InputError where a value isn't finite, an image has no text, or an owner is no image.
    """
    image_BD, text_TD = np.asarray(image_BD, np.float32), np.asarray(text_TD, np.float32)
    owner_T = check_owners(image_BD, text_TD, owner_T)
    order_T = np.argsort(owner_T, kind="stable")
    captions = np.split(order_T, np.cumsum(np.bincount(owner_T, minlength=len(image_BD)))[:-1])
    owners = list(owner_T[:, None])
    return RetrievalRanks(
        image_retrieval=rank_embeddings(text_TD, image_BD, owners),
        text_retrieval=rank_embeddings(image_BD, text_TD, captions),
        owner_T=owner_T,
    )


def retrieval_metrics(
    image_BD: NDArray[np.float32],
    text_TD: NDArray[np.float32],
    owner_T: NDArray[np.int64],
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Recall@k, median and mean rank and mean average precision, both ways; see `rank_retrieval` for the arguments.

    `image_retrieval_recall@k` is text to image: the share of texts whose image is among the first k. In
    `text_retrieval_recall@k` an image counts as found when its best-ranked caption is among the first k texts, as in
    CLIP_benchmark and big_vision. Ties count by their expectation over all orders.
    """
    return rank_retrieval(image_BD, text_TD, owner_T).figures(ks).metrics()


def check_owners(
    image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The owners as int64. Raises InputError for arrays that don't fit each other."""
    if image_BD.ndim != 2 or text_TD.ndim != 2 or image_BD.shape[1] != text_TD.shape[1]:
        raise InputError(
            f"Embeddings must be (images, D) and (texts, D) of one space; these are {image_BD.shape}, {text_TD.shape}."
        )
    if not len(image_BD):
        raise InputError("There are no images to measure.")
    owner_T = np.asarray(owner_T)
    if owner_T.shape != (len(text_TD),) or not np.issubdtype(owner_T.dtype, np.integer):
        raise InputError(
            f"owner_T must name the image of each of {len(text_TD)} texts; it is {owner_T.dtype} {owner_T.shape}."
        )
    if len(owner_T) and not (owner_T.min() >= 0 and owner_T.max() < len(image_BD)):
        raise InputError(f"owner_T must lie in 0 to {len(image_BD) - 1}; it goes {owner_T.min()} to {owner_T.max()}.")
    without_B = np.bincount(owner_T, minlength=len(image_BD)) == 0
    if without_B.any():
        raise InputError(
            f"Image {int(without_B.argmax())} has no text ({int(without_B.sum())} of {len(without_B)} have none); "
            "retrieval needs at least one for each image."
        )
    require_finite_rows(image_BD, what="image embeddings")
    require_finite_rows(text_TD, what="text embeddings")
    return owner_T.astype(np.int64)


def check_ks(ks: Sequence[int]) -> Sequence[int]:
    """Raises InputError where there are none, or one is below 1 or given twice."""
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise InputError(f"The k of recall@k must be different whole numbers from 1, got {list(ks)}.")
    return ks

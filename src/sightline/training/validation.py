"""Measuring the towers of a run on its val pairs, with the metrics that `sightline eval` uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.data.base import Dataset
from sightline.data.pixel_cache import PixelCache
from sightline.evaluation.embedding import embed_dataset, embed_images
from sightline.evaluation.prompts import default_templates
from sightline.evaluation.retrieval import retrieval_metrics
from sightline.evaluation.zeroshot import embed_classes, rank_classes
from sightline.models.base import Encoder

MEAN_RECALL = "mean_recall"
"""Mean of recall@1, @5 and @10 in both directions: one number that decides which weights are kept."""


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The val pairs with their pixels, decoded once."""

    dataset: Dataset
    pixels: PixelCache

    @property
    def quality(self) -> str:
        """Name of the metric that decides which weights are best: accuracy where the pairs have classes."""
        return MEAN_RECALL if self.dataset.class_names is None else "acc1"

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """Metrics by name, with `quality` among them."""
        if self.dataset.class_names is not None:
            return self._measure_classes(encoder)
        embedded = embed_dataset(encoder, self.dataset, pixels=self.pixels)
        metrics = retrieval_metrics(embedded.image_BD, embedded.text_TD, embedded.owner_T)
        recalls = [value for name, value in metrics.items() if "_recall@" in name]
        metrics[MEAN_RECALL] = float(np.mean(recalls))
        return metrics

    def _measure_classes(self, encoder: Encoder) -> dict[str, float]:
        assert self.dataset.class_names is not None
        embedded = embed_images(encoder, self.dataset, pixels=self.pixels)
        class_CD = embed_classes(encoder, self.dataset.class_names, default_templates())
        labels = np.array([pair.label for pair in self.dataset])[embedded.row_B]
        return rank_classes(embedded.image_BD, class_CD, labels).metrics()

"""Measuring the towers of a run on its val pairs, with the metrics that `sightline eval` uses.

Shape suffixes: B images, T texts, C classes, N pairs of a probe, D dimension of the joint space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.core.models.base import Encoder
from sightline.lab.data.base import Dataset
from sightline.lab.data.pixel_cache import PixelCache
from sightline.lab.evaluation.classification import default_templates, embed_classes, rank_classes
from sightline.lab.evaluation.embedding import EmbeddedDataset, embed_dataset, embed_images
from sightline.lab.evaluation.retrieval import retrieval_metrics
from sightline.lab.training.probe import PROBE_PAIRS, Probe

MEAN_RECALL = "mean_recall"
"""Mean of recall@1, @5 and @10 in both directions: one number that decides which weights are kept."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What the val pairs say of the weights at one step."""

    metrics: dict[str, float]
    """By name, with the validator's `quality` among them."""
    probe: Probe


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The val pairs with their pixels, decoded once."""

    dataset: Dataset
    pixels: PixelCache

    @property
    def quality(self) -> str:
        """Name of the metric that decides which weights are best: accuracy where the pairs have classes."""
        return MEAN_RECALL if self.dataset.class_names is None else "acc1"

    def measure(self, encoder: Encoder, *, step: int, temperature: float) -> Measurement:
        """Metrics and a probe of the weights that `encoder` has after `step` updates."""
        measure = self._measure_retrieval if self.dataset.class_names is None else self._measure_classes
        return measure(encoder, step, temperature)

    def _measure_retrieval(self, encoder: Encoder, step: int, temperature: float) -> Measurement:
        embedded = embed_dataset(encoder, self.dataset, pixels=self.pixels)
        metrics = retrieval_metrics(embedded.image_BD, embedded.text_TD, embedded.owner_T)
        recalls = [value for name, value in metrics.items() if "_recall@" in name]
        metrics[MEAN_RECALL] = float(np.mean(recalls))
        return Measurement(metrics=metrics, probe=_probe_of(embedded, step, temperature))

    def _measure_classes(self, encoder: Encoder, step: int, temperature: float) -> Measurement:
        assert self.dataset.class_names is not None
        embedded = embed_images(encoder, self.dataset, pixels=self.pixels)
        class_CD = embed_classes(encoder, self.dataset.class_names, default_templates())
        labels_B = np.array([pair.label for pair in self.dataset])[embedded.row_B]
        labels_N = labels_B[:PROBE_PAIRS]
        probe = Probe(
            image_ND=embedded.image_BD[:PROBE_PAIRS],
            text_ND=class_CD[labels_N],
            ids=tuple(self.dataset[int(row)].id for row in embedded.row_B[:PROBE_PAIRS]),
            texts=tuple(self.dataset.class_names[label][0] for label in labels_N),
            step=step,
            temperature=temperature,
        )
        return Measurement(metrics=rank_classes(embedded.image_BD, class_CD, labels_B).metrics(), probe=probe)


def _probe_of(embedded: EmbeddedDataset, step: int, temperature: float) -> Probe:
    """The first pictures, each with its first caption."""
    owners, first_T = np.unique(embedded.owner_T, return_index=True)  # pictures without captions have no place here
    owners, first_T = owners[:PROBE_PAIRS], first_T[:PROBE_PAIRS]
    return Probe(
        image_ND=embedded.image_BD[owners],
        text_ND=embedded.text_TD[first_T],
        ids=tuple(embedded.ids[owner] for owner in owners),
        texts=tuple(embedded.texts[place] for place in first_T),
        step=step,
        temperature=temperature,
    )

"""Choosing one caption from what CLIP ranked and what a generator wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sightline.core.captioning.bank import load_bank
from sightline.core.types import Caption
from sightline.errors import InputError, ModelError


@dataclass(frozen=True, kw_only=True)
class FusionWeights:
    """Weights of the two quantities. Only their ratio matters.

    The default is measured (`scripts/starter/fusion.py`), with the starter models, by the share of chosen captions
    whose head noun people use of the image: 0.68 of 500 images of Flickr8k train that no training saw and 0.46 of 500
    of Tiny ImageNet, where log_prob 1.5, all of the candidates taking part and no least gave 0.69 and 0.44. More weight
    looks better on both, since the captioner learned from their like; on COCO's the candidates know more.
    """

    similarity: float = 1.0
    """Weight of the CLIP similarity: does the sentence fit the image?"""
    log_prob: float = 2.0
    """Weight of the generator's mean log-probability: would it write this sentence for this image?"""
    least_log_prob: float = -3.0
    """Lower log-probabilities count as this: a generator that never heard of a thing can't rule it out."""

    def __post_init__(self) -> None:
        weights = (self.similarity, self.log_prob)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise InputError(
                f"Fusion weights must be finite, not negative and not both 0: similarity {self.similarity}, "
                f"log_prob {self.log_prob}."
            )
        if not self.least_log_prob < 0:
            raise InputError(f"least_log_prob is {self.least_log_prob}; it must be below 0 (-inf bounds nothing).")


def fuse(
    clip: Sequence[Caption],
    generated: Sequence[Caption],
    *,
    temperature: float,
    weights: FusionWeights | None = None,
    people_nats: float = 0.0,
) -> list[Caption]:
    """All captions of one image, best first; exactly the first has `best=True`.

    Both quantities are put in nats, so they add up whatever else is in the pool: `temperature` times the difference of
    two cosines is how much more probable CLIP finds one caption than the other for this image (Radford et al. 2021,
    arXiv:2103.00020, figure 3), and the mean log-probability for each token is the generator's word on the same. A
    caption without a value counts as average in it; a quantity that none has decides nothing. Ties go to the higher
    similarity, then to the order given. The same words from both sides are one caption, the generator's. `people_nats`,
    the log-odds that people are in the image, is added to captions that name people: a generator may see them anywhere.

    Raises InputError for an empty pool, ModelError for a value that is NaN or infinite.
    """
    pool = _merge(clip, generated)
    if not pool:
        raise InputError("There is no caption to choose from: give candidates, a captioner, or both.")
    weights = weights or FusionWeights()
    similarities = _filled([caption.similarity for caption in pool], what="similarity")
    log_probs = _filled([caption.log_prob for caption in pool], what="log-probability")
    added = [people_nats if people_nats and load_bank().names_people(one.text) else 0.0 for one in pool]
    # Rounded, so that sums that are equal on paper are ties here too.
    fused = [
        round(
            weights.similarity * temperature * similarity
            + weights.log_prob * max(log_prob, weights.least_log_prob)
            + people,
            6,
        )
        for similarity, log_prob, people in zip(similarities, log_probs, added, strict=True)
    ]
    order = sorted(range(len(pool)), key=lambda i: (-fused[i], -similarities[i]))
    ordered = [pool[i] for i in order]
    return [replace(ordered[0], best=True), *(replace(one, best=False) if one.best else one for one in ordered[1:])]


def _filled(values: Sequence[float | None], *, what: str) -> list[float]:
    """Values with the mean in place of missing ones. Raises ModelError for NaN or infinity, naming `what`."""
    known = [value for value in values if value is not None]
    if not all(math.isfinite(value) for value in known):
        raise ModelError(f"A caption has a {what} that isn't finite. Check the model's files with: sightline doctor")
    mean = fmean(known) if known else 0.0
    return [mean if value is None else value for value in values]


def _merge(clip: Sequence[Caption], generated: Sequence[Caption]) -> list[Caption]:
    """Both lists, generated first, without repeated sentences; what one copy lacks the other one fills in."""
    merged: dict[str, Caption] = {}
    for caption in (*generated, *clip):
        key = " ".join(caption.text.casefold().split()).rstrip(".")
        if (first := merged.get(key)) is not None:
            caption = replace(
                first,
                similarity=caption.similarity if first.similarity is None else first.similarity,
                log_prob=caption.log_prob if first.log_prob is None else first.log_prob,
            )
        merged[key] = caption
    return list(merged.values())

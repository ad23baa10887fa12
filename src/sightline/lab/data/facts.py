"""A data set in figures: images, captions, their lengths and words, sizes of a sample of images."""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sightline.errors import ImageError, InputError
from sightline.lab.data.base import Dataset, Pair

SAMPLE_IMAGES = 200
"""Whose sizes are looked at."""
_LONGEST = 60
"""Words: longer captions are counted together."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The range of some numbers."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        """`5 to 38, median 11`."""
        return f"{self.min:g} to {self.max:g}, median {self.median:g}"


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split in figures."""

    split: str
    pictures: int
    captions: int
    captions_per_picture: Spread
    words_per_caption: Spread | None
    """None where there are no captions."""
    vocabulary: int
    """Different words, upper and lower case alike."""
    caption_lengths: dict[int, int]
    """Words -> captions of so many; the last key stands for all longer ones too."""
    sampled: int
    """Images of the sample that could be read."""
    unreadable: dict[str, int]
    """Reason -> images of the sample."""
    width_px: Spread | None
    height_px: Spread | None
    classes: int
    hard_negatives: dict[str, int]
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe_split(dataset: Dataset, *, sample: int = SAMPLE_IMAGES, seed: int = 0) -> SplitFacts:
    """Figures of one split, sizes from a sample of images. Raises InputError for a split without images."""
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in {dataset.split}; there is nothing to describe.")
    per_image: list[int] = []
    lengths: Counter[int] = Counter()
    vocabulary: set[str] = set()
    negatives: Counter[str] = Counter()
    for pair in dataset:
        per_image.append(len(pair.captions))
        negatives.update(negative.kind for negative in pair.negatives)
        for caption in pair.captions:
            said = split_words(caption)
            lengths[len(said)] += 1
            vocabulary.update(said)
    gathered: Counter[int] = Counter()
    for words, captions in lengths.items():
        gathered[min(words, _LONGEST)] += captions
    widths, heights, unreadable = _measure(choose_sample(dataset, count=sample, seed=seed))
    return SplitFacts(
        split=dataset.split,
        pictures=len(dataset),
        captions=lengths.total(),
        captions_per_picture=_spread(per_image),
        words_per_caption=_spread(list(lengths.elements())) if lengths else None,
        vocabulary=len(vocabulary),
        caption_lengths=dict(sorted(gathered.items())),
        sampled=len(widths),
        unreadable=unreadable,
        width_px=_spread(widths) if widths else None,
        height_px=_spread(heights) if heights else None,
        classes=len(dataset.class_names or ()),
        hard_negatives=dict(negatives),
        fingerprint=dataset.fingerprint,
    )


def choose_sample(dataset: Dataset, *, count: int, seed: int = 0) -> list[Pair]:
    """Some pairs at random, in the data set's order; the same for the same seed."""
    rows = random.Random(seed).sample(range(len(dataset)), min(count, len(dataset)))
    return [dataset[row] for row in sorted(rows)]


def split_words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    return _WORD.findall(caption.lower())


def _measure(pairs: Sequence[Pair]) -> tuple[list[int], list[int], dict[str, int]]:
    widths: list[int] = []
    heights: list[int] = []
    unreadable: Counter[str] = Counter()
    for pair in pairs:
        try:
            height, width, _ = pair.image.read().shape
        except ImageError as error:
            unreadable[error.reason] += 1
            continue
        widths.append(width)
        heights.append(height)
    return widths, heights, dict(unreadable.most_common())


def _spread(values: Sequence[int]) -> Spread:
    return Spread(min=min(values), median=statistics.median(values), max=max(values))

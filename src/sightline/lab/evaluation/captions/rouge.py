"""ROUGE-L: the longest common subsequence of words (Lin 2004, ACL W04-1013), as pycocoevalcap computes it.

Precision and recall are each the best over the references, so they may come from different ones. Shape suffix: N
images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sightline.lab.evaluation.captions.ngrams import Words, check_captions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BETA = 1.2
"""Recall counts for more than precision by this factor."""
_NO_WORDS = ("",)
"""pycocoevalcap takes a caption without words as one empty word; two such captions are equal."""


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """ROUGE-L of one caption of each image (N,), in [0, 1]; the corpus's figure is the mean.

    Raises InputError for lists of different lengths, no images, or an image without references.
    """
    check_captions(captions, references)
    return np.array([_rouge_l(caption, texts) for caption, texts in zip(captions, references, strict=True)])


def _rouge_l(caption: Words, references: Sequence[Words]) -> float:
    caption = caption or _NO_WORDS
    places = _places(caption)
    precision = recall = 0.0
    for reference in references:
        common = _common_subsequence(places, len(caption), reference or _NO_WORDS)
        precision = max(precision, common / len(caption))
        recall = max(recall, common / len(reference or _NO_WORDS))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _places(words: Words) -> Mapping[str, int]:
    """For each word, a number whose bits are the places where it stands."""
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(words):
        places[word] |= 1 << place
    return places


def _common_subsequence(places: Mapping[str, int], length: int, other: Words) -> int:
    """Length of the longest common subsequence, a row of the usual table at a time in the bits of one number.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()

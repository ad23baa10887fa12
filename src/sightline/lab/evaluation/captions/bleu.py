"""BLEU-1 to BLEU-4 of a corpus, with the closest reference length (Papineni et al. 2002, ACL P02-1040).

Equal to pycocoevalcap's, down to the two small constants that keep its fractions defined. Shape suffixes: N images, K
lengths of n-gram (1 to 4), S resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.lab.evaluation.captions.ngrams import MAX_N, Ngram, Words, check_captions, count_ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TINY = 1e-15
"""Added to what matched and to the caption's length."""
_SMALL = 1e-9
"""Added to what could have matched and to the reference's length."""


@dataclass(frozen=True, kw_only=True)
class BleuCounts:
    """What BLEU is made of, for each image: counts add up, and the figure is that of the sums."""

    matched_NK: NDArray[np.float64]
    """N-grams of the caption that a reference has, each at most as often as the reference that has most of it."""
    total_NK: NDArray[np.float64]
    """N-grams of the caption."""
    length_N: NDArray[np.float64]
    """Words of the caption."""
    closest_N: NDArray[np.float64]
    """Words of the reference whose length is nearest, the shorter of two."""

    def corpus(self) -> NDArray[np.float64]:
        """BLEU-1 to BLEU-4 of all captions together (K,)."""
        bleu_K: NDArray[np.float64] = self.of(np.ones((1, len(self.length_N))))[0]
        return bleu_K

    def each(self) -> NDArray[np.float64]:
        """BLEU-1 to BLEU-4 of each caption alone (N, K)."""
        return _combine(self.matched_NK, self.total_NK, self.length_N, self.closest_N)

    def of(self, counts_SN: NDArray[np.float64]) -> NDArray[np.float64]:
        """BLEU-1 to BLEU-4 of corpora (S, K) in which each image occurs as often as counted."""
        return _combine(
            counts_SN @ self.matched_NK,
            counts_SN @ self.total_NK,
            counts_SN @ self.length_N,
            counts_SN @ self.closest_N,
        )


def count_bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> BleuCounts:
    """Count what one caption of each image shares with its references.

    Raises InputError for lists of different lengths, no images, or an image without references.
    """
    check_captions(captions, references)
    matched_NK, total_NK = np.zeros((len(captions), MAX_N)), np.zeros((len(captions), MAX_N))
    closest_N = np.zeros(len(captions))
    for row, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        most: Counter[Ngram] = Counter()
        for text in texts:
            most |= count_ngrams(text)
        for ngram, count in count_ngrams(caption).items():
            matched_NK[row, len(ngram) - 1] += min(count, most[ngram])
            total_NK[row, len(ngram) - 1] += count
        closest_N[row] = min((abs(len(text) - len(caption)), len(text)) for text in texts)[1]
    length_N = np.array([len(caption) for caption in captions], np.float64)
    return BleuCounts(matched_NK=matched_NK, total_NK=total_NK, length_N=length_N, closest_N=closest_N)


def _combine(
    matched_SK: NDArray[np.float64],
    total_SK: NDArray[np.float64],
    length_S: NDArray[np.float64],
    closest_S: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Geometric means of the precisions up to each n, times the penalty for being shorter than the references."""
    product_SK = np.cumprod((matched_SK + _TINY) / (total_SK + _SMALL), axis=1)
    mean_SK = product_SK ** (1 / np.arange(1, matched_SK.shape[1] + 1))
    ratio_S = (length_S + _TINY) / (closest_S + _SMALL)
    penalty_S = np.exp(np.minimum(0.0, 1 - 1 / ratio_S))
    bleu_SK: NDArray[np.float64] = mean_SK * penalty_S[:, None]
    return bleu_SK

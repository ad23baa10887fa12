"""What the metrics on words share: counts of n-grams, and what a set of captions with references must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sightline.errors import InputError

Words = Sequence[str]
"""A caption as its words, see `tokenize_caption`."""
Ngram = tuple[str, ...]
MAX_N = 4
"""Longest n-gram of BLEU and CIDEr."""


def count_ngrams(words: Words, max_n: int = MAX_N) -> Counter[Ngram]:
    """How often each n-gram of 1 to `max_n` words occurs."""
    counts: Counter[Ngram] = Counter()
    for n in range(1, max_n + 1):
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    return counts


def check_captions(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    """Raises InputError unless there is at least one image, and each has one caption and at least one reference."""
    if not captions or len(captions) != len(references):
        raise InputError(
            f"Each image needs one caption and its references; there are {len(captions)} captions and "
            f"{len(references)} sets of references."
        )
    if without := sum(not texts for texts in references):
        raise InputError(f"{without} of {len(references)} images have no reference caption to compare with.")

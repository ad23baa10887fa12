"""CIDEr as the field reports it: CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726, section 6), times 10.

pycocoevalcap's `Cider` computes CIDEr-D with sigma 6: counts are clipped to the reference's, and a difference in length
is punished. Shape suffix: N images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.captions.ngrams import MAX_N, Ngram, Words, check_captions, count_ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGMA = 6.0
"""Words of difference in length at which similarity falls to 61%."""


@dataclass(frozen=True, kw_only=True)
class DocumentFrequencies:
    """In how many images' references each n-gram occurs: what occurs everywhere says little."""

    images_with: Mapping[Ngram, int]
    n_images: int

    def __post_init__(self) -> None:
        """Raises InputError where an n-gram occurs in more images than there are."""
        if self.n_images < 1 or max(self.images_with.values(), default=0) > self.n_images:
            raise InputError(
                f"Document frequencies of {self.n_images} images can't be above that number, nor can it be below 1."
            )

    def weigh(self, ngram: Ngram) -> float:
        """log(images / images with it), 0 for one that all have; unknown ones count as being in one image."""
        return math.log(self.n_images) - math.log(max(1, self.images_with.get(ngram, 0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vector:
    """TF-IDF weights of all n-grams, with the norm for each n."""

    weights: Mapping[Ngram, float]
    norms: tuple[float, ...]
    length: int


def count_documents(references: Sequence[Sequence[Words]]) -> DocumentFrequencies:
    """Document frequencies of the references themselves, one document an image. Raises InputError for no images."""
    images_with: Counter[Ngram] = Counter()
    for texts in references:
        images_with.update({ngram for text in texts for ngram in count_ngrams(text)})
    return DocumentFrequencies(images_with=images_with, n_images=len(references))


def cider(
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
    *,
    frequencies: DocumentFrequencies | None = None,
) -> NDArray[np.float64]:
    """CIDEr-D of one caption of each image (N,), in [0, 10]; the corpus's figure is the mean.

    Without `frequencies` those of `references` are used, so a figure depends on the set: it is 0 for a single image,
    whose every n-gram occurs in all images. Raises InputError for lists of different lengths, no images, or an image
    without references.
    """
    check_captions(captions, references)
    frequencies = frequencies or count_documents(references)
    similarities = []
    for caption, texts in zip(captions, references, strict=True):
        own = _weigh(caption, frequencies)
        similarities.append(sum(_compare(own, _weigh(text, frequencies)) for text in texts) / len(texts))
    return 10 * np.array(similarities)


def _weigh(words: Words, frequencies: DocumentFrequencies) -> _Vector:
    weights = {ngram: count * frequencies.weigh(ngram) for ngram, count in count_ngrams(words).items()}
    squares = [0.0] * MAX_N
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    # the reference implementation measures length in bigrams: no words are as long as one
    return _Vector(weights=weights, norms=tuple(map(math.sqrt, squares)), length=max(0, len(words) - 1))


def _compare(own: _Vector, other: _Vector) -> float:
    """Clipped cosine for each n, averaged, less what the lengths differ."""
    products = [0.0] * MAX_N
    for ngram, weight in own.weights.items():
        if there := other.weights.get(ngram):
            products[len(ngram) - 1] += min(weight, there) * there
    cosines = (
        product / (own_norm * other_norm) if own_norm and other_norm else 0.0
        for product, own_norm, other_norm in zip(products, own.norms, other.norms, strict=True)
    )
    return sum(cosines) / MAX_N * math.exp(-((own.length - other.length) ** 2) / (2 * _SIGMA**2))

"""Caption metrics by name: BLEU, ROUGE-L and CIDEr equal to pycocoevalcap's, CLIPScore, and why others are not here.

Shape suffixes: N images, T reference captions, D dimension of the joint space, K lengths of n-gram (1 to 4), S
resamples.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption
from sightline.lab.evaluation.results import Figures

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
WORD_METRICS = (*BLEU, "ROUGE_L", "CIDEr")
"""Need nothing but words."""
CLIP_METRICS = ("CLIPScore", "RefCLIPScore")
"""Need an encoder."""
METRICS = (*WORD_METRICS, *CLIP_METRICS)
_INSTEAD = "Use CIDEr and ROUGE_L from words, or CLIPScore and RefCLIPScore, which follow people's judgements closer."
_ABSENT = {
    "meteor": "METEOR 1.5 matches synonyms of WordNet and a table of 60 MB of paraphrases, and is published as a Java "
    "program with them; what Python packages compute under this name is another metric, whose figures can't be "
    f"compared with published ones. {_INSTEAD}",
    "spice": "SPICE compares scene graphs that a Java program parses with Stanford's models, which no Python package "
    f"holds. {_INSTEAD}",
}
PROMPT = "A photo depicts "
"""Stands before every caption and reference, as in the paper."""
_SCALE = 2.5
"""The paper's w: ViT-B/32's cosines are rarely above 0.4, so this spreads them over [0, 1]."""


Words = Sequence[str]
"""A caption as its words, see `tokenize_caption`."""
Ngram = tuple[str, ...]
MAX_N = 4
"""Longest n-gram of BLEU and CIDEr."""
_TINY = 1e-15
"""Added to what matched and to the caption's length."""
_SMALL = 1e-9
"""Added to what could have matched and to the reference's length."""
_BETA = 1.2
"""Recall counts for more than precision by this factor."""
_NO_WORDS = ("",)
"""pycocoevalcap takes a caption without words as one empty word; two such captions are equal."""
_SIGMA = 6.0
"""Words of difference in length at which similarity falls to 61%."""


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, in the usual order.

    Raises InputError for an unknown name, for none, and for METEOR and SPICE with what to use instead.
    """
    for name in names:
        if reason := _ABSENT.get(name.lower()):
            raise InputError(f"{name} is not measured here. {reason}")
        if name not in METRICS:
            raise InputError(f"There is no caption metric {name!r}; the metrics are {', '.join(METRICS)}.")
    if not names:
        raise InputError(f"No caption metric was asked for; the metrics are {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in names)


def count_ngrams(words: Words, max_n: int = MAX_N) -> Counter[Ngram]:
    """The number of times that each n-gram of 1 to `max_n` words occurs."""
    counts: Counter[Ngram] = Counter()
    for n in range(1, max_n + 1):
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    return counts


@dataclass(frozen=True, kw_only=True)
class BleuCounts:
    """The counts that BLEU is made of, for each image: counts add up, and the figure is that of the sums."""

    matched_NK: NDArray[np.float64]
    """N-grams of the caption that a reference has, each at most as often as the reference that has most of it."""
    total_NK: NDArray[np.float64]
    """N-grams of the caption."""
    length_N: NDArray[np.float64]
    """Words of the caption."""
    closest_N: NDArray[np.float64]
    """Words of the reference whose length is nearest, the shorter of two."""

    def of(self, counts_SN: NDArray[np.float64], *, column: int | slice = slice(None)) -> NDArray[np.float64]:
        """BLEU-1 to BLEU-4 of corpora (S, K), or one of them (S,), in which each image occurs as often as counted.

        Geometric means of the precisions up to each n, times the penalty for being shorter than the references.
        """
        precision_SK = (counts_SN @ self.matched_NK + _TINY) / (counts_SN @ self.total_NK + _SMALL)
        mean_SK = np.cumprod(precision_SK, axis=1) ** (1 / np.arange(1, MAX_N + 1))
        ratio_S = (counts_SN @ self.length_N + _TINY) / (counts_SN @ self.closest_N + _SMALL)
        return np.asarray(mean_SK * np.exp(np.minimum(0.0, 1 - 1 / ratio_S))[:, None])[:, column]


def count_bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> BleuCounts:
    """Count what one caption of each image shares with its references, of which there is at least one."""
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


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """ROUGE-L of one caption of each image (N,), in [0, 1]; the corpus's figure is the mean."""
    return np.array([_rouge_l(caption, texts) for caption, texts in zip(captions, references, strict=True)])


def _rouge_l(caption: Words, references: Sequence[Words]) -> float:
    caption = caption or _NO_WORDS
    places: defaultdict[str, int] = defaultdict(int)  # for each word, a number whose bits are its places
    for place, word in enumerate(caption):
        places[word] |= 1 << place
    precision = recall = 0.0
    for reference in references:
        common = _common_subsequence(places, len(caption), reference or _NO_WORDS)
        precision = max(precision, common / len(caption))
        recall = max(recall, common / len(reference or _NO_WORDS))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


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


@dataclass(frozen=True, kw_only=True)
class DocumentFrequencies:
    """In how many images' references each n-gram occurs: what occurs everywhere says little."""

    images_with: Mapping[Ngram, int]
    n_images: int

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
    """Document frequencies of the references themselves, one document an image."""
    images_with: Counter[Ngram] = Counter()
    for texts in references:
        images_with.update({ngram for text in texts for ngram in count_ngrams(text)})
    return DocumentFrequencies(images_with=images_with, n_images=len(references))


def cider(
    captions: Sequence[Words], references: Sequence[Sequence[Words]], *, frequencies: DocumentFrequencies | None = None
) -> NDArray[np.float64]:
    """CIDEr-D of one caption of each image (N,), in [0, 10]; the corpus's figure is the mean.

    Without `frequencies` those of `references` are used, so a figure depends on the set: it is 0 for a single image,
    whose every n-gram occurs in all images.
    """
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


def score_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Figures:
    """`Bleu_1` to `Bleu_4` of the corpus, and the means of `ROUGE_L` and `CIDEr`, of one caption for each image.

    Captions and references are plain text. CIDEr's document frequencies are those of all these references, also in
    resamples. Groups are images. Raises InputError for lists of different lengths, no images, or an image without
    references.
    """
    if not captions or len(captions) != len(references):
        raise InputError(
            f"Each image needs one caption and its references; there are {len(captions)} captions and "
            f"{len(references)} sets of references."
        )
    if without := sum(not texts for texts in references):
        raise InputError(f"{without} of {len(references)} images have no reference caption to compare with.")
    words = [tokenize_caption(caption) for caption in captions]
    expected = [[tokenize_caption(text) for text in texts] for texts in references]
    bleu = count_bleu(words, expected)
    means = Figures.means({"ROUGE_L": rouge_l(words, expected), "CIDEr": cider(words, expected)})
    corpus = {name: partial(bleu.of, column=column) for column, name in enumerate(BLEU)}
    return Figures(statistics={**corpus, **means.statistics}, n_groups=means.n_groups)


def clip_score(image_ND: NDArray[np.float32], caption_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """2.5 times the cosine of each image and its caption (N,), at least 0. Rows must be L2-normalised."""
    cosine_N = np.einsum("nd,nd->n", image_ND.astype(np.float64), caption_ND.astype(np.float64))
    score_N: NDArray[np.float64] = _SCALE * np.maximum(cosine_N, 0)
    return score_N


def ref_clip_score(
    clip_score_N: NDArray[np.float64],
    caption_ND: NDArray[np.float32],
    reference_TD: NDArray[np.float32],
    owner_T: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Harmonic mean of CLIPScore and the caption's cosine to its nearest reference (N,), at least 0.

    `owner_T` is the image of each reference; every image has one.
    """
    cosine_T = np.einsum("td,td->t", reference_TD.astype(np.float64), caption_ND[owner_T].astype(np.float64))
    nearest_N = np.zeros(len(caption_ND))  # below 0 is 0
    np.maximum.at(nearest_N, owner_T, cosine_T)
    sum_N = clip_score_N + nearest_N
    harmonic_N: NDArray[np.float64] = np.divide(
        2 * clip_score_N * nearest_N, sum_N, out=np.zeros_like(sum_N), where=sum_N > 0
    )
    return harmonic_N

"""The caption metrics by name, CLIPScore, and the words that explain which are not here.

Shape suffixes: N images, T reference captions, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption
from sightline.lab.evaluation.captions.words import BleuCounts, cider, count_bleu, rouge_l
from sightline.lab.evaluation.results import Bootstrap, Mean, Statistic, bootstrap_intervals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.lab.evaluation.results import Interval

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


@dataclass(frozen=True, kw_only=True)
class WordScores:
    """Counts and figures of each image for the metrics on words. Shape suffix: N images."""

    bleu: BleuCounts
    rouge_l_N: NDArray[np.float64]
    cider_N: NDArray[np.float64]

    def metrics(self) -> dict[str, float]:
        """`Bleu_1` to `Bleu_4` of the corpus, and the means of `ROUGE_L` and `CIDEr`."""
        figures = dict(zip(BLEU, map(float, self.bleu.corpus()), strict=True))
        return figures | {"ROUGE_L": float(self.rouge_l_N.mean()), "CIDEr": float(self.cider_N.mean())}


def score_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> WordScores:
    """Score one caption of each image against its references, all as plain text.

    CIDEr's document frequencies are those of these references. Raises InputError for lists of different lengths, no
    images, or an image without references.
    """
    words = [tokenize_caption(caption) for caption in captions]
    expected = [[tokenize_caption(text) for text in texts] for texts in references]
    return WordScores(
        bleu=count_bleu(words, expected), rouge_l_N=rouge_l(words, expected), cider_N=cider(words, expected)
    )


def caption_intervals(
    scores: WordScores | None, means: Mapping[str, NDArray[np.float64]], *, config: Bootstrap
) -> dict[str, Interval]:
    """Bootstrap intervals from resampling images, of all word metrics and of other `means` (name -> (N,)).

    CIDEr's document frequencies stay those of the whole set.
    """
    statistics: dict[str, Statistic] = {}
    if scores is not None:
        statistics |= {name: _CorpusBleu(scores.bleu, n) for n, name in enumerate(BLEU)}
        means = {"ROUGE_L": scores.rouge_l_N, "CIDEr": scores.cider_N, **means}
    for name, values_N in means.items():
        statistics[name] = Mean(values_N, np.arange(len(values_N)), len(values_N))
    n_images = max((statistic.size for statistic in statistics.values()), default=0)
    return bootstrap_intervals(statistics, n_groups=n_images, config=config)


class _CorpusBleu:
    """BLEU of resampled corpora."""

    def __init__(self, counts: BleuCounts, column: int) -> None:
        self._counts = counts
        self._column = column
        self.size = len(counts.length_N)

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._counts.of(counts_SG)[:, self._column]


def clip_score(image_ND: NDArray[np.float32], caption_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """2.5 times the cosine of each image and its caption (N,), at least 0. Rows must be L2-normalised.

    Raises InputError for arrays that don't fit, and for values that aren't finite.
    """
    if image_ND.ndim != 2 or image_ND.shape != caption_ND.shape:
        raise InputError(f"Images and captions must be vectors of one space: {image_ND.shape}, {caption_ND.shape}.")
    if not len(image_ND):
        raise InputError("There are no images to measure.")
    cosine_N = np.einsum("nd,nd->n", image_ND.astype(np.float64), caption_ND.astype(np.float64))
    _require_finite(cosine_N)
    score_N: NDArray[np.float64] = _SCALE * np.maximum(cosine_N, 0)
    return score_N


def ref_clip_score(
    clip_score_N: NDArray[np.float64],
    caption_ND: NDArray[np.float32],
    reference_TD: NDArray[np.float32],
    owner_T: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Harmonic mean of CLIPScore and the caption's cosine to its nearest reference (N,), at least 0.

    `owner_T` is the image of each reference. Raises InputError where an image has no reference, for arrays that don't
    fit, and for values that aren't finite.
    """
    if owner_T.shape != (len(reference_TD),) or clip_score_N.shape != (len(caption_ND),):
        raise InputError("Each reference needs its image, and each caption its CLIPScore.")
    if len(np.unique(owner_T)) != len(caption_ND):
        raise InputError("Every image needs a reference caption, or RefCLIPScore is not defined.")
    cosine_T = np.einsum("td,td->t", reference_TD.astype(np.float64), caption_ND[owner_T].astype(np.float64))
    _require_finite(cosine_T)
    nearest_N = np.zeros(len(caption_ND))  # below 0 is 0
    np.maximum.at(nearest_N, owner_T, cosine_T)
    sum_N = clip_score_N + nearest_N
    harmonic_N: NDArray[np.float64] = np.divide(
        2 * clip_score_N * nearest_N, sum_N, out=np.zeros_like(sum_N), where=sum_N > 0
    )
    return harmonic_N


def _require_finite(cosines: NDArray[np.float64]) -> None:
    if not np.isfinite(cosines).all():
        raise InputError(f"{int((~np.isfinite(cosines)).sum())} of {len(cosines)} cosines are not finite.")

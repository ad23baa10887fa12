"""The caption metrics by name, CLIPScore, and the words that explain which are not here.

Shape suffixes: N images, T reference captions, D dimension of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.lab.evaluation.captions.tokenizing import tokenize_caption
from sightline.lab.evaluation.captions.words import BleuCounts, cider, count_bleu, rouge_l
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


def score_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Figures:
    """`Bleu_1` to `Bleu_4` of the corpus, and the means of `ROUGE_L` and `CIDEr`, of one caption for each image.

    Captions and references are plain text. CIDEr's document frequencies are those of all these references, also in
    resamples. Groups are images. Raises InputError for lists of different lengths, no images, or an image without
    references.
    """
    words = [tokenize_caption(caption) for caption in captions]
    expected = [[tokenize_caption(text) for text in texts] for texts in references]
    bleu = count_bleu(words, expected)
    means = Figures.means({"ROUGE_L": rouge_l(words, expected), "CIDEr": cider(words, expected)})
    corpus = {name: partial(_bleu_of, bleu, column) for column, name in enumerate(BLEU)}
    return Figures(statistics={**corpus, **means.statistics}, n_groups=means.n_groups)


def _bleu_of(counts: BleuCounts, column: int, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts.of(counts_SG)[:, column]


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

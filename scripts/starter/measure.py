"""Retrieval with several captions an image, and caption figures."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray


def retrieval(
    image_BD: NDArray[np.float32], text_TD: NDArray[np.float32], owner_T: NDArray[np.int64]
) -> dict[str, float]:
    """Recall@1, @5 and @10 both ways; `owner_T` names the image of each text.

    An image counts as found its text when the best of its texts is among the first k.
    """
    similarity_TB = text_TD @ image_BD.T
    own_T = similarity_TB[np.arange(len(owner_T)), owner_T]
    image_rank_T = (similarity_TB > own_T[:, None]).sum(1)
    best_B = np.full(len(image_BD), -np.inf, np.float32)
    np.maximum.at(best_B, owner_T, own_T)
    text_rank_B = (similarity_TB > best_B[None, :]).sum(0)
    figures: dict[str, float] = {}
    for k in (1, 5, 10):
        figures[f"image_retrieval_recall@{k}"] = round(float((image_rank_T < k).mean()), 4)
        figures[f"text_retrieval_recall@{k}"] = round(float((text_rank_B < k).mean()), 4)
    return figures


def caption_figures(captions: list[str], references: list[list[str]]) -> dict[str, float]:
    """CIDEr (the CIDEr-D that the field reports) and BLEU-4 of one caption an image against its references."""
    said = [_words(caption) for caption in captions]
    expected = [[_words(text) for text in texts] for texts in references]
    return {"CIDEr": round(float(cider(said, expected).mean()), 4), "Bleu_4": round(_bleu4(said, expected), 4)}


def cider(said: list[list[str]], expected: list[list[list[str]]], sigma: float = 6.0) -> NDArray[np.float64]:
    """CIDEr-D of each caption (Vedantam et al. 2015, arXiv:1411.5726, section 5), as pycocoevalcap computes it.

    Document frequencies come from the references themselves.
    """
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in expected:
        frequency.update({gram for text in texts for n in range(1, 5) for gram in _ngrams(text, n)})
    log_images = np.log(len(expected))

    def vector(text: list[str], n: int) -> tuple[dict[tuple[str, ...], float], float]:
        weights = {
            gram: count * (log_images - np.log(max(1, frequency[gram]))) for gram, count in _ngrams(text, n).items()
        }
        return weights, float(np.sqrt(sum(weight**2 for weight in weights.values())))

    scores = np.zeros(len(said))
    for index, (text, texts) in enumerate(zip(said, expected, strict=True)):
        for n in range(1, 5):
            own, own_norm = vector(text, n)
            for other_text in texts:
                other, other_norm = vector(other_text, n)
                overlap = sum(min(weight, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, weight in own.items())
                penalty = np.exp(-((len(text) - len(other_text)) ** 2) / (2 * sigma**2))
                if own_norm and other_norm:
                    scores[index] += 10.0 / 4 / len(texts) * penalty * overlap / (own_norm * other_norm)
    return scores


def _bleu4(said: list[list[str]], expected: list[list[list[str]]]) -> float:
    """Corpus BLEU-4 with the closest reference length (Papineni et al. 2002)."""
    matched, total = np.zeros(4), np.zeros(4)
    length = closest = 0
    for text, texts in zip(said, expected, strict=True):
        length += len(text)
        closest += min((abs(len(other) - len(text)), len(other)) for other in texts)[1]
        for n in range(1, 5):
            own = _ngrams(text, n)
            most: Counter[tuple[str, ...]] = Counter()
            for other in texts:
                most |= _ngrams(other, n)
            matched[n - 1] += sum((own & most).values())
            total[n - 1] += sum(own.values())
    if not matched.all():
        return 0.0
    return float(np.exp(np.log(matched / total).mean()) * min(1.0, np.exp(1 - closest / length)))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _ngrams(text: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(text[start:] for start in range(n)), strict=False))

"""Predicting a picture's words from its cells: what makes a small image tower see things within minutes.

A contrastive loss tells an image tower nothing that its text tower doesn't know yet, and the other way round; both are
slow to find out that colour and shape belong together. The words of the captions tell it at once: this is SuperClass
(Huang et al. 2024, arXiv:2411.03313), here with pairs of words too and with the largest cell's evidence.

Shape suffixes: N pictures of the set, B images, K words and pairs, H W cells, D joint space.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.lab.training.token_table import TokenTable

_COUNTED_TEXTS = 25_000
"""The most frequent words of so many texts are those of all."""

_RARE_LOGIT = -3.0


class FrequentWords:
    """Which of the most frequent words and word pairs the captions of each picture contain."""

    def __init__(self, captions: TokenTable, *, count: int) -> None:
        tokens = [ids[1 : length - 1].tolist() for ids, length in zip(captions.ids_CL, captions.length_C, strict=True)]
        counted = Counter(gram for ids in tokens[:_COUNTED_TEXTS] for gram in _grams(ids))
        place = {gram: k for k, (gram, _) in enumerate(counted.most_common(count))}
        self.count = len(place)
        own = [
            sorted({place[gram] for ids in tokens[first:last] for gram in _grams(ids) if gram in place})
            for first, last in zip(captions.first_N[:-1], captions.first_N[1:], strict=True)
        ]
        self._first_N = np.concatenate([[0], np.cumsum([len(words) for words in own])])
        self._words = np.array([word for words in own for word in words], np.int64)

    def labels(self, rows: NDArray[np.int64]) -> Tensor:
        """1 where a picture's captions contain a word or pair: (B, K) float32."""
        label_BK = torch.zeros(len(rows), self.count)
        for label_K, row in zip(label_BK, rows, strict=True):
            label_K[torch.from_numpy(self._words[self._first_N[row] : self._first_N[row + 1]])] = 1.0
        return label_BK


class WordsHead(nn.Module):
    """The image map -> a logit for each word: the evidence of the cell that shows it best."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, count)
        nn.init.constant_(self.linear.bias, _RARE_LOGIT)

    def forward(self, map_BHWD: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, K)."""
        logit_BK: Tensor = self.linear(map_BHWD).amax(dim=(1, 2))
        return logit_BK


def words_loss(logit_BK: Tensor, label_BK: Tensor) -> Tensor:
    """Binary cross-entropy, summed over words and averaged over pictures."""
    return F.binary_cross_entropy_with_logits(logit_BK.float(), label_BK, reduction="none").sum(1).mean()


def _grams(ids: list[int]) -> list[tuple[int, ...]]:
    return [*((i,) for i in ids), *pairwise(ids)]

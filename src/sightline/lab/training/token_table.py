"""The captions of a set as token ids, cut and padded once.

Shape suffixes: N pictures of the set, C captions of the set, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.inputs import Tokenizer

_TEXTS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """Token ids of all texts, cut and padded once; the texts of picture n are rows `first_N[n]` to `first_N[n + 1]`."""

    ids_CL: NDArray[np.uint16] | NDArray[np.int32]
    first_N: NDArray[np.int64]
    length_C: NDArray[np.int64]
    n_tokens: int
    """Tokens of all texts before cutting, with those that mark start and end."""
    n_lost: int
    """Tokens that were cut off."""

    def draw(
        self, rows: NDArray[np.int64], count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Up to `count` different texts of each picture: their places here, and that of each picture in `rows`."""
        n_texts = self.first_N[rows + 1] - self.first_N[rows]
        keys = rng.random((len(rows), int(n_texts.max(initial=1))))
        keys[np.arange(keys.shape[1]) >= n_texts[:, None]] = np.inf
        pick = keys.argsort(axis=1)[:, :count]
        owner, column = np.nonzero(np.arange(pick.shape[1]) < n_texts[:, None])
        return self.first_N[rows[owner]] + pick[owner, column], owner


def tokenize(texts_of: Sequence[Sequence[str]], tokenizer: Tokenizer) -> TokenTable:
    """All texts of all pictures as one table of ids."""
    spec = tokenizer.spec
    kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    first_N = np.concatenate([[0], np.cumsum([len(texts) for texts in texts_of])]).astype(np.int64)
    ids_CL = np.full((int(first_N[-1]), spec.context_length), spec.pad_id, kind)
    length_C = np.zeros(len(ids_CL), np.int64)
    n_tokens = n_lost = place = 0
    texts = (text for own in texts_of for text in own)
    while batch := list(islice(texts, _TEXTS_AT_ONCE)):
        for ids in tokenizer.ids_of(batch):
            cut = tokenizer.truncate(ids)
            n_tokens += len(ids)
            n_lost += len(ids) - len(cut)
            ids_CL[place, : len(cut)] = cut
            length_C[place] = len(cut)
            place += 1
    return TokenTable(ids_CL=ids_CL, first_N=first_N, length_C=length_C, n_tokens=n_tokens, n_lost=n_lost)

"""Captions for a model: a tokenizer of their own words, a table of token ids, and the frequent words of each image.

Shape suffixes: N images of the set, B images of a batch, C captions of the set, L tokens, K words and pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from sightline.core.models.cards import TextSpec
from sightline.core.models.inputs import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")
"""EOS isn't 2: transformers' CLIP takes an end id of 2 for the mark of its configurations of 2021."""

PAD_ID, BOS_ID, UNK_ID, EOS_ID = range(4)

_TEXTS_AT_ONCE = 10_000
_COUNTED_TEXTS = 25_000
"""The most frequent words of so many texts are those of all."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    """A lower-casing byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of at most `vocab_size` entries.

    Punctuation and accents are dropped, so "A dog." equals "a dog"; a small model can't afford two ways to say it.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK_ID]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace(Regex(r"[^\w\s']|_"), " "),
        ]
    )
    # A mark before each word, not a suffix after it: with suffixes the trainer's order, and so the ids, is random.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS_ID), ("[EOS]", EOS_ID)]
    )
    return tokenizer


def write_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` into a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def text_spec(context_length: int) -> TextSpec:
    """The way a model with such a tokenizer takes text."""
    return TextSpec(context_length=context_length, pad_id=PAD_ID, bos_id=BOS_ID, eos_id=EOS_ID)


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """Token ids of all texts, cut and padded once; the texts of image n are rows `first_N[n]` to `first_N[n + 1]`."""

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
        """Up to `count` different texts of each image: their places here, and that of each image in `rows`."""
        n_texts = self.first_N[rows + 1] - self.first_N[rows]
        keys = rng.random((len(rows), int(n_texts.max(initial=1))))
        keys[np.arange(keys.shape[1]) >= n_texts[:, None]] = np.inf
        pick = keys.argsort(axis=1)[:, :count]
        owner, column = np.nonzero(np.arange(pick.shape[1]) < n_texts[:, None])
        return self.first_N[rows[owner]] + pick[owner, column], owner


def tokenize(texts_of: Sequence[Sequence[str]], tokenizer: Tokenizer) -> TokenTable:
    """The table of all texts of all images."""
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


class FrequentWords:
    """The most frequent words and word pairs, and which of them each image's captions contain."""

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
        """1 where an image's captions contain a word or pair: (B, K) float32."""
        label_BK = torch.zeros(len(rows), self.count)
        for label_K, row in zip(label_BK, rows, strict=True):
            label_K[torch.from_numpy(self._words[self._first_N[row] : self._first_N[row + 1]])] = 1.0
        return label_BK


def _grams(ids: list[int]) -> list[tuple[int, ...]]:
    return [*((i,) for i in ids), *pairwise(ids)]

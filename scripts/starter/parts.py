"""What a training step takes of several sets at once: pictures with captions, and pictures with names.

Shape suffixes: N pictures of a set, B pictures of a step, T texts, L tokens, D joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.data.base import Dataset
from sightline.models.tokenizing import Tokenizer
from sightline.training.losses import softmax_contrastive
from sightline.training.token_table import TokenTable, tokenize

CAPTIONS_PER_IMAGE = 2

Look = Callable[[NDArray[np.int64], torch.Generator], Tensor]
"""Rows of a set -> what the towers are fed of these pictures, changed at random."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A set, `size` pictures of which a step takes. Pictures of one class fit each other's names."""

    look: Look
    texts: TokenTable
    group_N: NDArray[np.int64]
    size: int

    @classmethod
    def of(cls, dataset: Dataset, tokenizer: Tokenizer, look: Look, *, size: int) -> Part:
        """With the set's texts as token ids."""
        groups = [row if pair.label is None else pair.label for row, pair in enumerate(dataset)]
        texts = tokenize([pair.captions for pair in dataset], tokenizer)
        return cls(look=look, texts=texts, group_N=np.array(groups), size=size)


def shuffled_steps(parts: list[Part], rng: np.random.Generator) -> Iterator[list[NDArray[np.int64]]]:
    """An epoch of the first set: each step's rows of every set, small sets beginning again at their end."""
    orders = [rng.permutation(len(part.group_N)) for part in parts]
    for index in range(len(orders[0]) // parts[0].size):
        yield [
            np.take(order, range(index * part.size, (index + 1) * part.size), mode="wrap")
            for part, order in zip(parts, orders, strict=True)
        ]


def look_at(parts: list[Part], rows: list[NDArray[np.int64]], generator: torch.Generator) -> Tensor:
    """A step's pictures, those of the first set first."""
    return torch.cat([part.look(r, generator) for part, r in zip(parts, rows, strict=True)])


def contrast(
    parts: list[Part], rows: list[NDArray[np.int64]], image_BD: Tensor, encode_texts: Callable[[Tensor], Tensor],
    scale: Tensor, rng: np.random.Generator,
) -> Tensor:  # fmt: skip
    """The mean of the sets' contrastive losses, by their size; texts of one set say nothing of another's pictures."""
    total = 0.0 * scale
    for part, r, vectors_BD in zip(parts, rows, image_BD.split([part.size for part in parts]), strict=True):
        places, owner = part.texts.draw(r, CAPTIONS_PER_IMAGE, rng)
        groups_B = torch.from_numpy(part.group_N[r])
        text_TD = encode_texts(token_ids(part.texts, places))
        total = total + part.size * softmax_contrastive(vectors_BD, text_TD, groups_B, groups_B[owner], scale=scale)
    return total / sum(part.size for part in parts)


def token_ids(table: TokenTable, places: NDArray[np.int64]) -> Tensor:
    """Some rows of a table, as long as the longest of them."""
    longest = int(table.length_C[places].max())
    return torch.from_numpy(table.ids_CL[places, :longest].astype(np.int64))

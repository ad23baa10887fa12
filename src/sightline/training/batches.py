"""What one step trains on, as a pure function of seed, step and rank: a resumed run needs only the step's number.

Shape suffixes: B images, T texts, L tokens, S side in pixels, N pictures of the set, C captions of the set, D teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.data.base import Dataset
from sightline.data.order import batch_rows, step_seed
from sightline.errors import InputError
from sightline.images.preprocess import Preprocessing
from sightline.models.tokenizing import Tokenizer
from sightline.training.augment import Augmentation, Changes, augment, draw_changes

NO_GROUP = -1
"""Group of hard negatives: positives of no picture."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures and texts that are in memory at once; a step has one, or several with gradient caching.

    Image i and text t belong together where `group_B[i] == group_T[t]`.
    """

    image_B3SS: Tensor
    ids_TL: Tensor
    group_B: Tensor
    group_T: Tensor
    rows: NDArray[np.int64]
    teacher_BD: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a whole step; `owner_T` is the place in the batch of the picture that each was drawn for."""

    ids_TL: NDArray[np.uint16] | NDArray[np.int32]
    length_T: NDArray[np.int64]
    owner_T: NDArray[np.int64]
    group_T: NDArray[np.int64]


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
    for texts in texts_of:
        for text in texts:
            ids = tokenizer.ids(text)
            n_tokens += len(ids)
            n_lost += max(0, len(ids) - spec.context_length)
            cut = ids if len(ids) <= spec.context_length else [*ids[: spec.context_length - 1], ids[-1]]
            ids_CL[place, : len(cut)] = cut
            length_C[place] = len(cut)
            place += 1
    return TokenTable(ids_CL=ids_CL, first_N=first_N, length_C=length_C, n_tokens=n_tokens, n_lost=n_lost)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a step's batch is drawn; see `TrainConfig` for the fields."""

    batch_size: int
    seed: int
    captions_per_image: int
    negatives_per_image: int
    size_px: int
    augmentation: Augmentation
    chunk_size: int | None = None
    rank: int = 0
    world_size: int = 1


class Batches:
    """The batches of a run: `at(step)` gives those of one rank, whatever was asked before."""

    def __init__(
        self,
        dataset: Dataset,
        pixels_NSS3: NDArray[np.uint8],
        tokenizer: Tokenizer,
        *,
        preprocessing: Preprocessing,
        sampling: Sampling,
        usable_N: NDArray[np.bool_] | None = None,
        teacher_ND: NDArray[np.float32] | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampling = sampling
        self.usable = np.arange(len(dataset)) if usable_N is None else np.flatnonzero(usable_N)
        self.fixed = tokenizer.spec.padding == "fixed"
        self.captions = tokenize([pair.captions for pair in dataset], tokenizer)
        negatives = [[n.negative for n in p.negatives] for p in dataset] if sampling.negatives_per_image else []
        self.negatives = tokenize(negatives, tokenizer) if any(negatives) else None
        labels = [-1 if pair.label is None else pair.label for pair in dataset]
        # Pictures of one class share their names, so each is a positive of all the others' names.
        self.group_N = np.arange(len(dataset)) if -1 in labels else np.array(labels)
        self._pixels_NSS3 = pixels_NSS3
        self._teacher_ND = teacher_ND
        self._mean_std = [torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)]
        if len(self.usable) < sampling.batch_size:
            raise InputError(
                f"{dataset.name} has {len(self.usable):,} usable pictures, fewer than one batch of "
                f"{sampling.batch_size}. Set a smaller batch_size, or give more pictures."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of a pass is left out, another rest each time."""
        return len(self.usable) // self.sampling.batch_size

    def at(self, step: int, *, device: torch.device | str = "cpu") -> list[Batch]:
        """This rank's share of a step's batch, in chunks of at most `chunk_size` pictures.

        Everything random is drawn for the whole batch first, so that it doesn't depend on ranks and chunks.
        """
        s = self.sampling
        order = batch_rows(len(self.usable), seed=s.seed, step=step, batch_size=s.batch_size)
        rows, seed = self.usable[order], step_seed(s.seed, step)
        changes = draw_changes(len(rows), s.augmentation, torch.Generator().manual_seed(seed))
        texts = self._draw_texts(rows, np.random.default_rng(seed))
        share = len(rows) // s.world_size
        size = min(s.chunk_size or share, share)
        first, last = s.rank * share, (s.rank + 1) * share
        parts = [slice(start, min(start + size, last)) for start in range(first, last, size)]
        return [self._batch(rows, part, changes, texts, device) for part in parts]

    def ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Names of the pictures, for messages."""
        return [self.dataset[int(row)].id for row in rows]

    def _draw_texts(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Texts:
        s = self.sampling
        places, owner = self.captions.draw(rows, s.captions_per_image, rng)
        drawn = Texts(
            ids_TL=self.captions.ids_CL[places],
            length_T=self.captions.length_C[places],
            owner_T=owner,
            group_T=self.group_N[rows[owner]],
        )
        if self.negatives is None:
            return drawn
        places, owner = self.negatives.draw(rows, s.negatives_per_image, rng)
        return Texts(
            ids_TL=np.concatenate([drawn.ids_TL, self.negatives.ids_CL[places]]),
            length_T=np.concatenate([drawn.length_T, self.negatives.length_C[places]]),
            owner_T=np.concatenate([drawn.owner_T, owner]),
            group_T=np.concatenate([drawn.group_T, np.full(len(places), NO_GROUP)]),
        )

    def _batch(
        self, rows: NDArray[np.int64], part: slice, changes: Changes, texts: Texts, device: torch.device | str
    ) -> Batch:
        own = (texts.owner_T >= part.start) & (texts.owner_T < part.stop)
        ids_TL = texts.ids_TL[own].astype(np.int64)
        if not self.fixed:
            ids_TL = ids_TL[:, : int(texts.length_T[own].max())]
        rows = rows[part]
        return Batch(
            image_B3SS=self._image(rows, changes.part(part), device),
            ids_TL=torch.from_numpy(ids_TL).to(device),
            group_B=torch.from_numpy(self.group_N[rows]).to(device),
            group_T=torch.from_numpy(texts.group_T[own]).to(device),
            rows=rows,
            teacher_BD=None if self._teacher_ND is None else torch.from_numpy(self._teacher_ND[rows]).to(device),
        )

    def _image(self, rows: NDArray[np.int64], changes: Changes, device: torch.device | str) -> Tensor:
        # Rows in the file's order are read faster; the batch keeps its own order.
        ascending = np.argsort(rows)
        pixels = np.empty((len(rows), *self._pixels_NSS3.shape[1:]), np.uint8)
        pixels[ascending] = self._pixels_NSS3[rows[ascending]]
        s = self.sampling
        image_B3SS = augment(torch.from_numpy(pixels).to(device), s.size_px, s.augmentation, changes)
        mean, std = (value.to(device) for value in self._mean_std)
        return ((image_B3SS - mean) / std).contiguous(memory_format=torch.channels_last)

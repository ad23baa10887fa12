"""What one step trains on, as a pure function of seed, step and rank: a resumed run needs only the step's number.

Shape suffixes: B images, T texts, L tokens, S side in pixels, N pictures of the set, D teacher,
K frequent words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.inputs import Tokenizer
from sightline.errors import InputError
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.order import batch_rows, step_seed, steps_per_epoch
from sightline.lab.training.augment import Augmentation, Changes, FixedCrops, augment, draw_changes
from sightline.lab.training.token_table import tokenize
from sightline.lab.training.words import FrequentWords

NO_GROUP = -1
"""Group of hard negatives: positives of no picture."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures and texts that are in memory at once; a step has one, or several with gradient caching.

    Image i and text t belong together where `group_B[i] == group_T[t]`; whether they do is known only where
    `set_B[i] == set_T[t]`.
    """

    image_B3SS: Tensor
    ids_TL: Tensor
    group_B: Tensor
    group_T: Tensor
    set_B: Tensor
    set_T: Tensor
    caption_T: Tensor
    """A number for each caption; a hard negative has that of the caption it falsifies."""
    rows: NDArray[np.int64]
    teacher_BD: Tensor | None = None
    word_BK: Tensor | None = None
    """Which frequent words the captions of each picture contain."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a whole step; `owner_T` is the place in the batch of the picture that each was drawn for."""

    ids_TL: NDArray[np.uint16] | NDArray[np.int32]
    length_T: NDArray[np.int64]
    owner_T: NDArray[np.int64]
    group_T: NDArray[np.int64]
    set_T: NDArray[np.int64]
    caption_T: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a step's batch is drawn; see `TrainConfig` for the fields."""

    batch_size: int
    seed: int
    captions_per_image: int
    negatives_per_caption: int
    size_px: int
    augmentation: Augmentation
    words_count: int = 0
    repeats: int = 1
    """Of a joined dataset, how often an epoch takes each picture of the first part."""
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
        crops: FixedCrops | None = None,
        teacher_ND: NDArray[np.float16] | NDArray[np.float32] | None = None,
    ) -> None:
        """`teacher_ND` has a row for each picture, or with `crops` for each crop."""
        self.dataset = dataset
        self.sampling = sampling
        self.set_N = np.repeat(np.arange(max(1, len(dataset.sizes))), dataset.sizes or len(dataset))
        self.usable = np.arange(len(dataset)) if usable_N is None else np.flatnonzero(usable_N)
        first = self.usable[self.set_N[self.usable] == 0]
        self.order = np.concatenate([np.tile(first, sampling.repeats - 1), self.usable])
        self.fixed = tokenizer.spec.padding == "fixed"
        self.captions = tokenize([pair.captions for pair in dataset], tokenizer)
        negatives = [_negatives_of(pair) for pair in dataset] if sampling.negatives_per_caption else []
        falsified = [texts for by_caption in negatives for texts in by_caption]
        self.negatives = tokenize(falsified, tokenizer) if any(falsified) else None
        self.words = FrequentWords(self.captions, count=sampling.words_count) if sampling.words_count else None
        # Pictures of one class share their names, so each is a positive of all the others' names.
        groups = [row if pair.label is None else len(dataset) + pair.label for row, pair in enumerate(dataset)]
        self.group_N = np.array(groups)
        self._crops = crops
        self._pixels_NSS3 = pixels_NSS3
        self._teacher_ND = teacher_ND
        self._mean_std = [torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)]
        if len(self.order) < sampling.batch_size:
            raise InputError(
                f"{dataset.name} has {len(self.usable):,} usable pictures, fewer than one batch of "
                f"{sampling.batch_size}. Set a smaller batch_size, or give more pictures."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of a pass is left out, another rest each time."""
        return steps_per_epoch(len(self.order), batch_size=self.sampling.batch_size)

    def at(self, step: int, *, device: torch.device | str = "cpu") -> list[Batch]:
        """This rank's share of a step's batch, in chunks of at most `chunk_size` pictures.

        Everything random is drawn for the whole batch first, so that it doesn't depend on ranks and chunks.
        """
        s = self.sampling
        order = batch_rows(len(self.order), seed=s.seed, step=step, batch_size=s.batch_size)
        rows, seed = self.order[order], step_seed(s.seed, step)
        generator = torch.Generator().manual_seed(seed)
        changes, wanted = draw_changes(len(rows), s.augmentation, generator), rows
        if self._crops is not None:
            crop_B = self._crops.pick(torch.from_numpy(rows), generator)
            changes, wanted = replace(changes, affine_B23=self._crops.affine_C23[crop_B]), crop_B.numpy()
        texts = self._draw_texts(rows, np.random.default_rng(seed))
        share = len(rows) // s.world_size
        size = min(s.chunk_size or share, share)
        first, last = s.rank * share, (s.rank + 1) * share
        parts = [slice(start, min(start + size, last)) for start in range(first, last, size)]
        drawn = [self._batch(rows, part, changes, texts, device) for part in parts]
        if self._teacher_ND is None:
            return drawn
        teacher_BD = torch.from_numpy(self._teacher_ND[wanted]).float().to(device)
        return [replace(batch, teacher_BD=teacher_BD[part]) for batch, part in zip(drawn, parts, strict=True)]

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
            set_T=self.set_N[rows[owner]],
            caption_T=places,
        )
        if self.negatives is None:
            return drawn
        false_places, falsified = self.negatives.draw(places, s.negatives_per_caption, rng)
        return Texts(
            ids_TL=np.concatenate([drawn.ids_TL, self.negatives.ids_CL[false_places]]),
            length_T=np.concatenate([drawn.length_T, self.negatives.length_C[false_places]]),
            owner_T=np.concatenate([drawn.owner_T, owner[falsified]]),
            group_T=np.concatenate([drawn.group_T, np.full(len(false_places), NO_GROUP)]),
            set_T=np.concatenate([drawn.set_T, drawn.set_T[falsified]]),
            caption_T=np.concatenate([places, places[falsified]]),
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
            set_B=torch.from_numpy(self.set_N[rows]).to(device),
            set_T=torch.from_numpy(texts.set_T[own]).to(device),
            caption_T=torch.from_numpy(texts.caption_T[own]).to(device),
            rows=rows,
            word_BK=None if self.words is None else self.words.labels(rows).to(device),
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


def _negatives_of(pair: Pair) -> list[list[str]]:
    """For each caption of a pair, in order, the sentences that falsify it."""
    return [[n.negative for n in pair.negatives if n.caption == caption] for caption in pair.captions]

"""The batch of each step, a pure function of seed and step, and the plan of all steps with their learning rates.

Shape suffixes: B images, T texts, L tokens, S side in pixels, H W the cached pixels' sides, N images of the set,
C crops or captions of the set, D teacher, K frequent words and pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.inputs import Tokenizer
from sightline.errors import InputError
from sightline.lab.data.base import Dataset, batch_rows, fingerprint_of, step_seed, steps_per_epoch
from sightline.lab.data.pixel_cache import PixelCache
from sightline.lab.data.pixel_stream import PixelStream
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.losses import Targets
from sightline.lab.training.parallel import World

_TEXTS_AT_ONCE = 10_000
_COUNTED_TEXTS = 25_000
"""The most frequent words of so many texts are those of all."""
NO_GROUP = -1
"""Group of hard negatives: positives of no image."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The changes that an image may undergo between two steps; see `TrainConfig` for the fields."""

    crop_min: float = 0.7
    aspect_jitter: float = 1.0
    """Widest change of the aspect ratio: 2 squeezes and stretches by up to 2:1."""
    flip: bool = True
    colour_jitter: float = 0.2

    @property
    def changes_place(self) -> bool:
        """True where pixels move at all."""
        return self.flip or self.crop_min < 1 or self.aspect_jitter > 1

    def still(self) -> Augmentation:
        """The same without changes of colour."""
        return replace(self, colour_jitter=0.0)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes of each image of a batch. Drawn for the whole batch, so that ranks and chunks see their part."""

    affine_B23: Tensor
    colour_3B: Tensor
    """Factors on brightness, contrast and saturation."""

    def part(self, rows: slice) -> Changes:
        """The changes of some images."""
        return Changes(affine_B23=self.affine_B23[rows], colour_3B=self.colour_3B[:, rows])


@dataclass(frozen=True, kw_only=True)
class FixedCrops:
    """Crops that are drawn once: those of image n are rows `first_N[n]` to `first_N[n + 1]`, the first the whole."""

    affine_C23: Tensor
    first_N: Tensor
    augmentation: Augmentation

    @classmethod
    def draw(cls, counts_N: Tensor, augmentation: Augmentation, *, seed: int) -> FixedCrops:
        """`counts_N[n]` crops of image n, each at least 1."""
        first_N = F.pad(counts_N.cumsum(0), (1, 0))
        affine_C23 = _draw_affine(int(first_N[-1]), augmentation, torch.Generator().manual_seed(seed))
        affine_C23[first_N[:-1]] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        return cls(affine_C23=affine_C23, first_N=first_N, augmentation=augmentation)

    @property
    def fingerprint(self) -> str:
        """Changes with any crop, and with which image it is of."""
        return fingerprint_of(tensor.numpy().tobytes().hex() for tensor in (self.affine_C23, self.first_N))

    def pick(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        """One crop of each of these images, as rows of `affine_C23`."""
        first_B, last_B = self.first_N[rows_B], self.first_N[rows_B + 1]
        return first_B + (torch.rand(len(rows_B), generator=generator) * (last_B - first_B)).long()

    def owners(self) -> Tensor:
        """The image of each crop."""
        return torch.arange(len(self.first_N) - 1).repeat_interleave(self.first_N.diff())


def draw_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
    """Changes of `n` images, on the CPU, so that a seed gives the same ones on every device."""
    affine_B23 = _draw_affine(n, augmentation, generator)
    colour_3B = 1 + augmentation.colour_jitter * (2 * torch.rand(3, n, generator=generator) - 1)
    return Changes(affine_B23=affine_B23, colour_3B=colour_3B)


def _draw_affine(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """The places of `n` crops, as affine maps (n, 2, 3).

    A crop's area is that of a square whose side is uniform in [crop_min, 1] of the image's; its aspect ratio is
    log-uniform within the jitter; its place is uniform.
    """
    side_B = augmentation.crop_min + (1 - augmentation.crop_min) * torch.rand(n, generator=generator)
    stretch_B = augmentation.aspect_jitter ** (torch.rand(n, generator=generator) - 0.5)
    width_B, height_B = (side_B * stretch_B).clamp(max=1), (side_B / stretch_B).clamp(max=1)
    shift_B2 = 2 * torch.rand(n, 2, generator=generator) - 1
    mirrored_B = torch.rand(n, generator=generator) < (0.5 if augmentation.flip else 0.0)
    affine_B23 = torch.zeros(n, 2, 3)
    affine_B23[:, 0, 0], affine_B23[:, 1, 1] = width_B * torch.where(mirrored_B, -1.0, 1.0), height_B
    affine_B23[:, 0, 2], affine_B23[:, 1, 2] = (1 - width_B) * shift_B2[:, 0], (1 - height_B) * shift_B2[:, 1]
    return affine_B23


def augment(pixels_BHW3: Tensor, size_px: int, augmentation: Augmentation, changes: Changes) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, S, S) in [0, 1], each image changed on its own."""
    image_B3HW = pixels_BHW3.permute(0, 3, 1, 2).float().div_(255)
    if augmentation.changes_place:
        affine_B23 = changes.affine_B23.to(image_B3HW.device)
        grid_BSS2 = F.affine_grid(affine_B23, [len(image_B3HW), 3, size_px, size_px], align_corners=False)
        image_B3SS = F.grid_sample(
            image_B3HW, grid_BSS2, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    elif image_B3HW.shape[-1] == size_px:
        image_B3SS = image_B3HW
    else:
        image_B3SS = F.interpolate(image_B3HW, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
    return _recolour(image_B3SS, changes.colour_3B) if augmentation.colour_jitter else image_B3SS


def _recolour(image_B3SS: Tensor, colour_3B: Tensor) -> Tensor:
    brightness, contrast, saturation = colour_3B[:, :, None, None, None].to(image_B3SS.device)
    image_B3SS = image_B3SS * brightness
    mean_B111 = image_B3SS.mean(dim=(1, 2, 3), keepdim=True)
    image_B3SS = (image_B3SS - mean_B111) * contrast + mean_B111
    grey_B1SS = image_B3SS.mean(dim=1, keepdim=True)
    recoloured_B3SS: Tensor = ((image_B3SS - grey_B1SS) * saturation + grey_B1SS).clamp(0, 1)
    return recoloured_B3SS


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


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images and texts that are in memory at once."""

    image_B3SS: Tensor
    ids_TL: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's batch: this rank's part of it in chunks, one or with gradient caching several, and all ranks' targets.

    The targets' images and texts are in the order of the chunks' features, those of the first rank first.
    """

    chunks: list[Chunk]
    targets: Targets
    rows: NDArray[np.int64]
    """The places of all ranks' images in the set."""


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """The texts of a batch; `owner_T` is the place in the batch of the image that each was drawn for."""

    ids_TL: NDArray[np.uint16] | NDArray[np.int32]
    length_T: NDArray[np.int64]
    owner_T: NDArray[np.int64]
    group_T: NDArray[np.int64]
    set_T: NDArray[np.int64]
    caption_T: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> _Texts:
        return _Texts(**{name: values[places] for name, values in vars(self).items()})

    def followed_by(self, others: _Texts) -> _Texts:
        pairs = ((name, values, vars(others)[name]) for name, values in vars(self).items())
        return _Texts(**{name: np.concatenate([own, other]) for name, own, other in pairs})


def share_batch(config: TrainConfig, world: World) -> tuple[int, int]:
    """Images of each rank a step (what can't be shared evenly is left out), and into how many chunks they are cut."""
    share = config.batch_size // world.size
    return share, -(-share // min(config.chunk_size or share, share))


class Batches:
    """The batches of a run: `at(step)` gives those of one rank, whatever was asked before."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        pixels: PixelCache | PixelStream,
        tokenizer: Tokenizer,
        *,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        world: World,
        crops: FixedCrops | None = None,
        teacher_ND: NDArray[np.float16] | NDArray[np.float32] | None = None,
    ) -> None:
        """`teacher_ND` has a row for each image, or with `crops` for each crop."""
        self.config, self.dataset, self.augmentation, self.world = config, dataset, augmentation, world
        self.size_px = config.train_px or preprocessing.size_px
        self.set_N = np.repeat(np.arange(max(1, len(dataset.sizes))), dataset.sizes or len(dataset))
        self.usable = np.flatnonzero(pixels.readable_N)
        self._is_mixed = len(dataset.sizes) > 1
        first = self.usable[self.set_N[self.usable] == 0]
        self.order = np.concatenate([np.tile(first, config.data_repeats - 1), self.usable])
        self.fixed = tokenizer.spec.padding == "fixed"
        self.captions = tokenize([pair.captions for pair in dataset], tokenizer)
        falsified = [  # for each caption the sentences that falsify it
            [n.negative for n in pair.negatives if n.caption == caption]
            for pair in (dataset if config.negatives_per_caption else ())
            for caption in pair.captions
        ]
        self.negatives = tokenize(falsified, tokenizer) if any(falsified) else None
        self.words = FrequentWords(self.captions, count=config.words_count) if config.words_weight else None
        # Images of one class share their names, so each is a positive of all the others' names.
        groups = [row if pair.label is None else len(dataset) + pair.label for row, pair in enumerate(dataset)]
        self.group_N = np.array(groups)
        self._crops = crops
        self._pixels_NSS3 = pixels.pixels_NSS3
        self._stream = pixels if isinstance(pixels, PixelStream) else None
        self._teacher_ND = teacher_ND
        self._mean, self._std = (
            torch.tensor(v, device=world.device)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
        )
        if len(self.order) < config.batch_size:
            raise InputError(
                f"{dataset.name} has {len(self.usable):,} usable pictures, fewer than one batch of "
                f"{config.batch_size}. Set a smaller batch_size, or give more pictures."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of a pass is left out, another rest each time."""
        return steps_per_epoch(len(self.order), batch_size=self.config.batch_size)

    def at(self, step: int) -> Batch:
        """A step's batch; all that is random is drawn for the whole of it, so that ranks and chunks don't change it."""
        config, world = self.config, self.world
        rows = self._rows_of(step)
        seed = step_seed(config.seed, step)
        generator = torch.Generator().manual_seed(seed)
        changes, seen = draw_changes(len(rows), self.augmentation, generator), rows
        if self._crops is not None:
            crop_B = self._crops.pick(torch.from_numpy(rows), generator)
            changes, seen = replace(changes, affine_B23=self._crops.affine_C23[crop_B]), crop_B.numpy()
        texts = self._draw_texts(rows, np.random.default_rng(seed))

        # Parts of the batch in the order of their features: all chunks of the first rank, then of the next.
        share, n_chunks = share_batch(config, world)
        place_B = np.arange(share * world.size)
        part_B = place_B // share * n_chunks + place_B % share // (config.chunk_size or share)
        texts = texts.take(np.flatnonzero(texts.owner_T < len(place_B)))
        part_T = part_B[texts.owner_T]
        texts = texts.take(part_T.argsort(kind="stable"))
        n_parts = world.size * n_chunks
        images, captions = (part.searchsorted(np.arange(n_parts + 1)) for part in (part_B, np.sort(part_T)))
        rows = rows[place_B]
        chunks = []
        for part in range(world.rank * n_chunks, (world.rank + 1) * n_chunks):
            image, text = slice(*images[part : part + 2]), slice(*captions[part : part + 2])
            ids_TL = texts.ids_TL[text].astype(np.int64)
            if not self.fixed:
                ids_TL = ids_TL[:, : int(texts.length_T[text].max())]
            image_B3SS = self._image(rows[image], changes.part(image))
            chunks.append(Chunk(image_B3SS=image_B3SS, ids_TL=torch.from_numpy(ids_TL).to(world.device)))
        if self._stream is not None:  # the next step's images are decoded while this one is trained on
            next_rows = self._rows_of(step + 1)[world.rank * share : (world.rank + 1) * share]
            self._stream.begin(next_rows)
        return Batch(chunks=chunks, targets=self._targets(rows, seen[place_B], texts), rows=rows)

    def _rows_of(self, step: int) -> NDArray[np.int64]:
        """The places of all ranks' images of a step."""
        batch_size = self.config.batch_size
        return self.order[batch_rows(len(self.order), seed=self.config.seed, step=step, batch_size=batch_size)]

    def ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Names of the images, for messages."""
        return [self.dataset[int(row)].id for row in rows]

    def _draw_texts(self, rows: NDArray[np.int64], rng: np.random.Generator) -> _Texts:
        places, owner = self.captions.draw(rows, self.config.captions_per_image, rng)
        drawn = _Texts(
            ids_TL=self.captions.ids_CL[places],
            length_T=self.captions.length_C[places],
            owner_T=owner,
            group_T=self.group_N[rows[owner]],
            set_T=self.set_N[rows[owner]],
            caption_T=places,
        )
        if self.negatives is None:
            return drawn
        false_places, falsified = self.negatives.draw(places, self.config.negatives_per_caption, rng)
        false = replace(
            drawn.take(falsified),
            ids_TL=self.negatives.ids_CL[false_places],
            length_T=self.negatives.length_C[false_places],
            group_T=np.full(len(false_places), NO_GROUP),
        )
        return drawn.followed_by(false)

    def _targets(self, rows: NDArray[np.int64], seen: NDArray[np.int64], texts: _Texts) -> Targets:
        device, teacher_ND = self.world.device, self._teacher_ND
        return Targets(
            group_B=torch.from_numpy(self.group_N[rows]),
            group_T=torch.from_numpy(texts.group_T),
            caption_T=torch.from_numpy(texts.caption_T),
            set_B=torch.from_numpy(self.set_N[rows]) if self._is_mixed else None,
            set_T=torch.from_numpy(texts.set_T) if self._is_mixed else None,
            teacher_BD=None if teacher_ND is None else torch.from_numpy(teacher_ND[seen]).float().to(device),
            word_BK=None if self.words is None else self.words.labels(rows).to(device),
        )

    def _image(self, rows: NDArray[np.int64], changes: Changes) -> Tensor:
        # Rows in the file's order are read faster; the batch keeps its own order.
        ascending = np.argsort(rows)
        pixels = np.empty((len(rows), *self._pixels_NSS3.shape[1:]), np.uint8)
        pixels[ascending] = self._pixels_NSS3[rows[ascending]]
        image_B3SS = augment(torch.from_numpy(pixels).to(self.world.device), self.size_px, self.augmentation, changes)
        return ((image_B3SS - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Counts of optimiser steps."""

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    eval_steps: int
    checkpoint_steps: int

    @classmethod
    def make(cls, config: TrainConfig, steps_per_epoch: int) -> TrainPlan:
        """The plan of a config whose data gives so many whole batches an epoch."""
        if config.samples_seen is None:
            total, counted = max(1, round(config.epochs * steps_per_epoch)), float(steps_per_epoch)
        else:
            total = max(1, round(config.samples_seen / config.batch_size))
            counted = total / config.epochs
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=min(total, round(config.warmup_fraction * total)),
            eval_steps=max(1, round(config.eval_epochs * counted)),
            checkpoint_steps=max(1, round(config.checkpoint_epochs * counted)),
        )

    def learning_rate(self, step: int, *, peak: float) -> float:
        """The rate for the update number `step`, counted from 0.

        Warm-up is linear: `peak * (step + 1) / warmup_steps`, so the first update already moves. Then the rate falls to
        nothing (Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, without restarts):
        `peak * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2`.
        """
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return peak * 0.5 * (1.0 + math.cos(math.pi * progress))

    def measures_after(self, done: int) -> bool:
        """True where the val pairs are measured when so many updates are done."""
        return done % self.eval_steps == 0 or done == self.total_steps

    def keeps_after(self, done: int) -> bool:
        """True where a checkpoint is written when so many updates are done."""
        return done % self.checkpoint_steps == 0 or done == self.total_steps


def describe_plan(config: TrainConfig, plan: TrainPlan, batches: Batches, *, world_size: int) -> list[str]:
    """A line for each derived number, with its formula."""
    usable, total, taken = len(batches.usable), len(batches.dataset), len(batches.order)
    captions = batches.captions
    lost = captions.n_lost / max(1, captions.n_tokens)
    share = config.batch_size // world_size
    if config.samples_seen is None:
        steps = f"round({config.epochs:g} epochs x {plan.steps_per_epoch:,})"
    else:
        epochs = plan.total_steps / plan.steps_per_epoch
        steps = f"round({config.samples_seen:,} samples / batch of {config.batch_size:,}), {epochs:.3g} epochs"
    lines = [
        f"pictures: {usable:,} usable of {total:,}; captions: {len(captions.ids_CL):,}",
        f"tokens lost to truncation: {captions.n_lost:,} of {captions.n_tokens:,} ({lost:.2%}), "
        f"texts longer than {captions.ids_CL.shape[1]} tokens are cut",
        f"steps an epoch: {plan.steps_per_epoch:,} = floor({taken:,} pictures / batch of {config.batch_size:,}); "
        f"{taken - plan.steps_per_epoch * config.batch_size:,} pictures wait for another epoch's order",
        f"steps: {plan.total_steps:,} = {steps}",
        f"warm-up steps: {plan.warmup_steps:,} = round({config.warmup_fraction:g} x {plan.total_steps:,})",
        f"samples seen: {plan.total_steps * config.batch_size:,} = {plan.total_steps:,} steps x {config.batch_size:,}",
        f"measured every {plan.eval_steps:,} steps, kept every {plan.checkpoint_steps:,}",
    ]
    if batches.dataset.sizes:
        first, *others = batches.dataset.sizes
        lines.append(
            f"pictures an epoch: {taken:,} = {config.data_repeats} x {first:,} + {' + '.join(f'{n:,}' for n in others)}"
            f"{'' if usable == total else ', without those that cannot be read'}"
        )
    if world_size > 1:
        lines.append(f"pictures a rank and step: {share:,} = {config.batch_size:,} / {world_size} ranks")
    if config.chunk_size and config.chunk_size < share:
        chunks = -(-share // config.chunk_size)
        lines.append(
            f"chunks a step: {chunks} = ceil({share:,} / {config.chunk_size:,}) (gradient caching: two passes)"
        )
    if batches.negatives is not None:
        lines.append(
            f"hard negatives: up to {config.negatives_per_caption} a caption, {len(batches.negatives.ids_CL):,} in all"
        )
    return lines

"""Everything that a run needs before its first step: pairs, pixels, towers, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.convolutional import Saved
from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import InputError, TrainingError
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset, Pair, fingerprint_of, join_datasets
from sightline.lab.data.pixel_cache import PixelCache, open_pixel_cache
from sightline.lab.evaluation.zeroshot import default_templates, fill
from sightline.lab.training.adapters import add_lora
from sightline.lab.training.augment import Augmentation, FixedCrops
from sightline.lab.training.averaging import WeightAverage
from sightline.lab.training.batches import Batches, Sampling
from sightline.lab.training.checkpoint import Trained
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.distributed import World, any_rank, broadcast_from_first
from sightline.lab.training.gradient_cache import refuse_false_batch_statistics
from sightline.lab.training.objective import Objective
from sightline.lab.training.optimiser import (
    OptimiserConfig,
    freeze_batch_norms,
    freeze_tower,
    make_optimiser,
    set_training_mode,
)
from sightline.lab.training.teacher import TeacherRows, teacher_crops, teacher_rows
from sightline.lab.training.towers import TrainedModel, load_trained, make_towers
from sightline.lab.training.validation import Validator
from sightline.lab.training.vocabulary import train_tokenizer, write_tokenizer

Report = Callable[[str], None]
"""Takes one line for the user."""

_MOST_COPIED_BYTES = 2**30
"""Of the pixels of a part: those of a larger set are decoded for the part alone, and stay on the disk."""

_PROMPTS = 2
"""Sentences made of each name of a picture's class."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run before its first step."""

    config: TrainConfig
    world: World
    model: TrainedModel
    objective: Objective
    optimiser: torch.optim.AdamW
    average: WeightAverage | None
    batches: Batches
    validator: Validator

    @property
    def trained(self) -> Trained:
        """What a checkpoint holds."""
        average = None if self.average is None else self.average.state_dict()
        modules = {"model": self.model.towers.model, "objective": self.objective}
        return Trained(modules=modules, optimiser=self.optimiser, average=average)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def encoder(self) -> TorchEncoder:
        """The towers as they are at this moment, behind the contract that evaluators take."""
        return TorchEncoder(self.model.card, self.model.towers, self.model.tokenizer, weights_hash="in training")


def prepare(config: TrainConfig, output: Path, world: World, *, report: Report, resumed: bool) -> Prepared:
    """Load or make all of it. Raises InputError, ModelError or TrainingError for what can't be trained."""
    parts = load_train_parts(config)
    validation = load_dataset(config.val_data or config.data, split=config.val_split, limit=config.val_limit)
    for part in parts:
        _refuse_overlap(part, validation)
    train = parts[0] if len(parts) == 1 else join_datasets(parts)
    if config.init is None and not resumed and world.is_first:
        write_tokenizer(train_tokenizer(_texts(config, train), vocab_size=config.towers.vocab_size), output)
    any_rank(False, world)  # the others read the tokenizer that the first one writes
    model = load_trained(config.init) if config.init is not None else make_towers(config, output)
    _adapt(config, model, world)
    image = model.card.preprocessing
    cached = replace(image, size_px=config.cache_px or image.size_px)
    pixels = _open_part(config, train, cached, report) or _open_pixels(train, cached, report)
    val_pixels = _open_pixels(validation, image, report)
    sampling = _sampling(config, model, world)
    crops = _draw_crops(config, train, sampling.augmentation)
    teacher_ND = _open_teacher(config, train, pixels, crops, report)
    batches = Batches(
        train,
        pixels.pixels_NSS3,
        model.tokenizer,
        preprocessing=image,
        sampling=sampling,
        usable_N=pixels.readable_N,
        crops=crops,
        teacher_ND=teacher_ND,
    )
    model.towers.to(world.device)
    _order_channels_last(model.towers)
    objective = Objective(
        config,
        model.towers,
        teacher_dim=None if teacher_ND is None else teacher_ND.shape[1],
        words_count=0 if batches.words is None else batches.words.count,
    )
    objective.to(world.device)
    together = nn.ModuleDict({"model": model.towers.model, "objective": objective})
    broadcast_from_first(together, world)
    return Prepared(
        config=config,
        world=world,
        model=model,
        objective=objective,
        optimiser=make_optimiser(together, learning_rate=config.lr, config=_optimiser_config(config)),
        average=WeightAverage(model.towers.model, config.average_decay) if config.average_decay else None,
        batches=batches,
        validator=Validator(dataset=validation, pixels=val_pixels),
    )


def load_train_parts(config: TrainConfig) -> list[Dataset]:
    """What is trained on; the first set is `data`, as `limit`, `train_fraction` and `shuffle_captions` leave it."""
    train = load_dataset(config.data, split="train", limit=config.limit, seed=config.seed)
    train = replace(train, pairs=_taken_once(train.pairs))
    if config.train_fraction < 1:
        rows = _fraction_rows(config, len(train))
        train = train.take([int(row) for row in rows], why=f"fraction={config.train_fraction} seed={config.seed}")
    if config.shuffle_captions:
        train = _shuffled(train, config.seed)
    more = [load_dataset(address, split="train", limit=config.limit, seed=config.seed) for address in config.more_data]
    return [prompted(part) for part in (train, *more)]


def prompted(dataset: Dataset) -> Dataset:
    """Names of classes as sentences, each picture's in others of the prompts that zero-shot evaluation uses."""
    if dataset.class_names is None:
        return dataset
    templates = default_templates()

    def prompts(row: int, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            fill(templates[(_PROMPTS * row + k) % len(templates)], name) for name in names for k in range(_PROMPTS)
        )

    pairs = [replace(pair, captions=prompts(row, pair.captions)) for row, pair in enumerate(dataset)]
    return replace(dataset, pairs=pairs, fingerprint=fingerprint_of([dataset.fingerprint, "prompted", *templates]))


def _taken_once(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Pairs that are composed whenever they are taken, composed now: captions are asked for several times."""
    return pairs if isinstance(pairs, list | tuple) else list(pairs)


def _shuffled(dataset: Dataset, seed: int) -> Dataset:
    """Each picture with the captions of another: what a model learns from these is nothing."""
    order = np.random.default_rng([seed, 2]).permutation(len(dataset))
    pairs = [
        replace(pair, captions=dataset[int(other)].captions, negatives=dataset[int(other)].negatives)
        for pair, other in zip(dataset, order, strict=True)
    ]
    fingerprint = fingerprint_of([dataset.fingerprint, f"shuffled seed={seed}"])
    return replace(dataset, pairs=pairs, fingerprint=fingerprint)


def _refuse_overlap(train: Dataset, validation: Dataset) -> None:
    if train.name == validation.name and train.split == validation.split:
        raise InputError(
            f"{train.name} would be measured on what it is trained on ({train.split}). Set val_split, or val_data to "
            "other pairs."
        )


def _texts(config: TrainConfig, train: Dataset) -> list[str]:
    """All that the tokenizer of a new model shall know words of."""
    texts = [caption for pair in train for caption in pair.captions]
    texts += [negative.negative for pair in train for negative in pair.negatives]
    for address in config.vocabulary_from:
        texts += [caption for pair in load_dataset(address, split="train") for caption in pair.captions]
    return texts


def _adapt(config: TrainConfig, model: TrainedModel, world: World) -> None:
    """Freeze what shall not learn, and refuse what batch norm would make false."""
    inner = model.towers.model
    if config.lora_rank:
        add_lora(inner, rank=config.lora_rank, alpha=2.0 * config.lora_rank)
    if config.freeze_image:
        freeze_tower(inner, "image", projection=config.init is not None)
    if config.freeze_text:
        freeze_tower(inner, "text", projection=config.init is not None)
    if config.freeze_norm:
        freeze_batch_norms(inner)
    if config.gradient_checkpointing:
        if isinstance(inner, Saved):
            raise TrainingError(
                "gradient_checkpointing runs each layer twice, and batch norm would count each batch twice. It is for "
                "ViTs; here a smaller batch_size, or freeze_norm with chunk_size, saves memory."
            )
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable()
    set_training_mode(inner)
    share = config.batch_size // world.size
    chunks = -(-share // min(config.chunk_size or share, share))
    refuse_false_batch_statistics(inner, world_size=world.size, n_chunks=chunks)


def _sampling(config: TrainConfig, model: TrainedModel, world: World) -> Sampling:
    """How this rank's batches are drawn."""
    return Sampling(
        batch_size=config.batch_size,
        seed=config.seed,
        captions_per_image=config.captions_per_image,
        negatives_per_caption=config.negatives_per_caption,
        size_px=_train_px(config, model),
        augmentation=Augmentation(
            crop_min=config.crop_min,
            aspect_jitter=config.aspect_jitter,
            flip=config.flip,
            colour_jitter=config.colour_jitter,
        ),
        words_count=config.words_count if config.words_weight else 0,
        repeats=config.data_repeats,
        chunk_size=config.chunk_size,
        rank=world.rank,
        world_size=world.size,
    )


def _draw_crops(config: TrainConfig, train: Dataset, augmentation: Augmentation) -> FixedCrops | None:
    """So many of each picture as it is seen again and again."""
    if not config.crops:
        return None
    first, *others = train.sizes or (len(train),)
    fewer = -(-config.crops // config.data_repeats)
    counts_N = torch.cat([torch.full((first,), config.crops), torch.full((sum(others),), fewer)])
    return FixedCrops.draw(counts_N, augmentation, seed=config.seed)


def _open_teacher(
    config: TrainConfig, train: Dataset, pixels: PixelCache, crops: FixedCrops | None, report: Report
) -> TeacherRows | None:
    if config.teacher is None:
        return None
    if crops is None:
        return teacher_rows(config.teacher, train)
    return teacher_crops(config.teacher, train, pixels=pixels, crops=crops, report=report)


def _order_channels_last(module: nn.Module) -> None:
    """Convolutions run faster on CPUs and GPUs where the channels lie side by side."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _train_px(config: TrainConfig, model: TrainedModel) -> int:
    size_px = model.card.preprocessing.size_px
    if config.train_px not in (None, size_px) and not isinstance(model.towers.model, Saved):
        raise TrainingError(f"A ViT takes its own {size_px} pixels only; train_px is for convolutional towers.")
    return config.train_px or size_px


def _optimiser_config(config: TrainConfig) -> OptimiserConfig:
    return OptimiserConfig(
        weight_decay=config.weight_decay,
        betas=(0.9, config.beta2),
        image_lr_scale=config.image_lr_factor,
        text_lr_scale=config.text_lr_factor,
        layer_decay=config.layer_decay,
    )


def _fraction_rows(config: TrainConfig, n_pairs: int) -> NDArray[np.int64]:
    """Which pictures `train_fraction` leaves, in order."""
    count = max(1, round(config.train_fraction * n_pairs))
    return np.sort(np.random.default_rng([config.seed, 1]).permutation(n_pairs)[:count])


def _open_part(config: TrainConfig, train: Dataset, image: Preprocessing, report: Report) -> PixelCache | None:
    """The pixels of a part of a small set, from those of the whole: parts of all sizes and seeds are decoded once.

    None where there is no part, or the set is large.
    """
    if config.train_fraction == 1 or config.more_data:
        return None
    whole = load_dataset(config.data, split="train", limit=config.limit, seed=config.seed)
    if len(whole) * image.size_px**2 * 3 > _MOST_COPIED_BYTES:
        return None
    rows = _fraction_rows(config, len(whole))
    pixels = open_pixel_cache(whole, preprocessing=image)
    ids = {pair.id for pair in train}
    part = replace(
        pixels,
        pixels_NSS3=pixels.pixels_NSS3[rows],
        readable_N=pixels.readable_N[rows],
        problems=tuple(problem for problem in pixels.problems if problem.id in ids),
    )
    _tell_problems(part, train, report)
    return part


def _open_pixels(dataset: Dataset, preprocessing: Preprocessing, report: Report) -> PixelCache:
    pixels = open_pixel_cache(dataset, preprocessing=preprocessing)
    _tell_problems(pixels, dataset, report)
    return pixels


def _tell_problems(pixels: PixelCache, dataset: Dataset, report: Report) -> None:
    for problem in pixels.problems[:5]:
        report(f"left out {problem.id}: {problem.reason}")
    if len(pixels.problems) > 5:
        report(f"left out {len(pixels.problems):,} pictures of {dataset.name} that can't be read")

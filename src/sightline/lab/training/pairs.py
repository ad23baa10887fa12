"""The pairs of a run: what is trained and measured on, decoded once, and what a teacher says of it.

Shape suffixes: N images of the set, C crops of them, B images of a batch, S side in pixels, D dimension.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.errors import InputError
from sightline.kit.config import cache_dir
from sightline.kit.files import replacing
from sightline.kit.work import Notice
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.base import Dataset, fingerprint_of, join_datasets
from sightline.lab.data.pixel_cache import PixelCache, open_pixel_cache
from sightline.lab.data.pixel_stream import PixelStream
from sightline.lab.evaluation.classification import default_templates, fill
from sightline.lab.evaluation.embedding import embed_images
from sightline.lab.training.batches import Augmentation, Changes, FixedCrops, augment
from sightline.lab.training.config import TrainConfig

TeacherRows = NDArray[np.float16] | NDArray[np.float32]
_CROPS_AT_ONCE = 64
_REPORT_EVERY = 10_000
_MOST_COPIED_BYTES = 2**30
"""The most pixels of which a part is copied; those of a larger set are decoded for the part alone, and stay on disk."""
_MOST_KEPT_BYTES = 32 * 10**9
"""The most decoded pixels that are kept on the disk unasked."""
_PROMPTS = 2
"""Sentences made of each name of an image's class."""


def load_pairs(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """The pairs that a run is trained and measured on. Raises InputError where some are both."""
    parts = load_train_parts(config)
    validation = load_dataset(config.val_data or config.data, split=config.val_split, limit=config.val_limit)
    for part in parts:
        if part.name == validation.name and part.split == validation.split:
            raise InputError(
                f"{part.name} would be measured on what it is trained on ({part.split}). Set val_split, or val_data to "
                "other pairs."
            )
    return parts[0] if len(parts) == 1 else join_datasets(parts), validation


def load_train_parts(config: TrainConfig) -> list[Dataset]:
    """The sets that are trained on; the first is `data`, as `limit`, `train_fraction`, `shuffle_captions` leave it."""
    train = load_dataset(config.data, split="train", limit=config.limit, seed=config.seed)
    if not isinstance(train.pairs, list | tuple):  # composed whenever they are taken, and taken several times
        train = replace(train, pairs=list(train.pairs))
    if config.train_fraction < 1:
        rows = _fraction_rows(config, len(train))
        train = train.take([int(row) for row in rows], why=f"fraction={config.train_fraction} seed={config.seed}")
    if config.shuffle_captions:
        train = _shuffled(train, config.seed)
    more = [load_dataset(address, split="train", limit=config.limit, seed=config.seed) for address in config.more_data]
    return [prompted(part) for part in (train, *more)]


def prompted(dataset: Dataset) -> Dataset:
    """Names of classes as sentences, each image's in others of the prompts that zero-shot evaluation uses."""
    if dataset.class_names is None:
        return dataset
    templates = default_templates()

    def prompts(row: int, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            fill(templates[(_PROMPTS * row + k) % len(templates)], name) for name in names for k in range(_PROMPTS)
        )

    pairs = [replace(pair, captions=prompts(row, pair.captions)) for row, pair in enumerate(dataset)]
    return replace(dataset, pairs=pairs, fingerprint=fingerprint_of([dataset.fingerprint, "prompted", *templates]))


def texts_to_read(config: TrainConfig, train: Dataset) -> list[str]:
    """All texts whose words the tokenizer of a new model learns."""
    texts = [caption for pair in train for caption in pair.captions]
    texts += [negative.negative for pair in train for negative in pair.negatives]
    for address in config.vocabulary_from:
        texts += [caption for pair in load_dataset(address, split="train") for caption in pair.captions]
    return texts


def open_pixels(dataset: Dataset, preprocessing: Preprocessing, report: Notice) -> PixelCache:
    """The decoded pixels of a set; what can't be read is named."""
    return _tell_problems(open_pixel_cache(dataset, preprocessing=preprocessing, tell=report), dataset, report)


def open_train_pixels(
    config: TrainConfig, train: Dataset, preprocessing: Preprocessing, report: Notice
) -> PixelCache | PixelStream:
    """The pixels of the train pairs, decoded once or whenever they are taken, as `config.decode` has it.

    Those of a part of a small set are taken from those of the whole: parts of all sizes and seeds are decoded once.
    """
    if _decodes_anew(config, len(train) * preprocessing.size_px**2 * 3, report):
        return PixelStream(train, preprocessing=preprocessing)
    if config.train_fraction == 1 or config.more_data:
        return open_pixels(train, preprocessing, report)
    whole = load_dataset(config.data, split="train", limit=config.limit, seed=config.seed)
    if len(whole) * preprocessing.size_px**2 * 3 > _MOST_COPIED_BYTES:
        return open_pixels(train, preprocessing, report)
    rows = _fraction_rows(config, len(whole))
    pixels = open_pixel_cache(whole, preprocessing=preprocessing, tell=report)
    ids = {pair.id for pair in train}
    part = replace(
        pixels,
        pixels_NSS3=pixels.pixels_NSS3[rows],
        readable_N=pixels.readable_N[rows],
        problems=tuple(problem for problem in pixels.problems if problem.id in ids),
    )
    return _tell_problems(part, train, report)


def _decodes_anew(config: TrainConfig, kept_bytes: int, report: Notice) -> bool:
    if config.decode != "auto":
        return config.decode == "anew"
    place = cache_dir()
    place.mkdir(parents=True, exist_ok=True)
    most_bytes = min(_MOST_KEPT_BYTES, shutil.disk_usage(place).free // 2)
    if kept_bytes > most_bytes:
        report(
            f"images are decoded anew in every epoch: kept in {place}, they would take {kept_bytes / 1e9:,.1f} GB; at "
            f"most {most_bytes / 1e9:,.1f} GB are taken unasked (--set decode=once)"
        )
    return kept_bytes > most_bytes


def draw_crops(config: TrainConfig, train: Dataset, augmentation: Augmentation) -> FixedCrops | None:
    """The fixed crops of each image, where they aren't drawn anew each time."""
    if not config.crops:
        return None
    first, *others = train.sizes or (len(train),)
    fewer = -(-config.crops // config.data_repeats)
    counts_N = torch.cat([torch.full((first,), config.crops), torch.full((sum(others),), fewer)])
    return FixedCrops.draw(counts_N, augmentation, seed=config.seed)


def open_teacher(
    config: TrainConfig, train: Dataset, pixels: PixelCache | PixelStream, crops: FixedCrops | None, report: Notice
) -> TeacherRows | None:
    """A row of the teacher's for each image or each of its crops; None where nobody teaches."""
    if config.teacher is None:
        return None
    if crops is None:
        return teacher_rows(config.teacher, train)
    return teacher_crops(config.teacher, train, pixels=pixels, crops=crops, report=report)


def teacher_rows(teacher: str, dataset: Dataset) -> NDArray[np.float32]:
    """(N, D), one row of unit length for each pair of the dataset, in its order.

    `teacher` is a `.npy` file with such rows (of any length), or the name of an encoder. An image that can't be read
    has a row of zeros. Raises InputError for a file that doesn't fit, ModelError for an encoder that can't run.
    """
    if teacher.endswith(".npy"):
        given_ND = _read_rows(Path(teacher).expanduser(), len(dataset))
        return np.asarray(given_ND / np.linalg.norm(given_ND, axis=1, keepdims=True).clip(min=1e-12))
    encoder = load_encoder(teacher)
    path = _cache_file(dataset, encoder)
    if path.is_file():
        return _read_rows(path, len(dataset))
    embedded = embed_images(encoder, dataset)
    rows_ND = np.zeros((len(dataset), encoder.dim), np.float32)
    rows_ND[embedded.row_B] = embedded.image_BD
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        np.save(partial, rows_ND)
    return rows_ND


def teacher_crops(
    teacher: str, dataset: Dataset, *, pixels: PixelCache | PixelStream, crops: FixedCrops, report: Notice
) -> TeacherRows:
    """The teacher's embedding of each crop, (C, D), from the same cached pixels as its student.

    Of a `.npy` file an image's row counts for all its crops. Memory-mapped, and kept as it grows: an interrupted
    computation goes on with the next call. Raises as `teacher_rows`.
    """
    if teacher.endswith(".npy"):
        given_CD: NDArray[np.float32] = teacher_rows(teacher, dataset)[crops.owners().numpy()]
        return given_CD
    encoder = load_encoder(teacher)
    path = _cache_file(dataset, encoder, crops.fingerprint, str(pixels.pixels_NSS3.shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            partial = path.with_suffix(".partial.npy")
            _fill_crops(partial, encoder, pixels=pixels, crops=crops, report=report)
            partial.replace(path)
    rows_CD: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows_CD


def _fill_crops(
    partial: Path, encoder: Encoder, *, pixels: PixelCache | PixelStream, crops: FixedCrops, report: Notice
) -> None:
    """Rows are computed in order; those that aren't yet are zeros, as a new file is."""
    owner_C = crops.owners().numpy()
    mode: Literal["r+", "w+"] = "r+" if partial.is_file() else "w+"
    rows_CD = np.lib.format.open_memmap(partial, mode, np.float16, (len(owner_C), encoder.dim))
    done = int(np.count_nonzero(rows_CD.any(axis=1)))
    still = crops.augmentation.still()
    for start in range(done, len(owner_C), _CROPS_AT_ONCE):
        part = slice(start, min(start + _CROPS_AT_ONCE, len(owner_C)))
        changes = Changes(affine_B23=crops.affine_C23[part], colour_3B=torch.ones(3, part.stop - start))
        pixels_BSS3 = torch.from_numpy(pixels.pixels_NSS3[owner_C[part]])
        image_B3SS = augment(pixels_BSS3, encoder.card.preprocessing.size_px, still, changes)
        seen_BSS3 = (image_B3SS * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        rows_CD[part] = encoder.encode_images(seen_BSS3)
        if start // _REPORT_EVERY != part.stop // _REPORT_EVERY:
            rows_CD.flush()
            report(f"teacher: {part.stop:,} of {len(owner_C):,} crops seen")
    rows_CD.flush()


def _cache_file(dataset: Dataset, encoder: Encoder, *how: str) -> Path:
    key = fingerprint_of([dataset.fingerprint, repr(encoder.identity), encoder.precision, *how])
    return cache_dir() / "teachers" / f"{key}.npy"


def _read_rows(path: Path, n: int) -> NDArray[np.float32]:
    try:
        rows_ND = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The teacher's embeddings {path} can't be read: {error}.") from error
    if rows_ND.ndim != 2 or len(rows_ND) != n or not np.isfinite(rows_ND).all():
        raise InputError(
            f"{path} has shape {rows_ND.shape}; the teacher's embeddings must be ({n:,}, D), finite, a row for each "
            "pair of the train split in its order (without limit and train_fraction, or with the same)."
        )
    return np.asarray(rows_ND, np.float32)


def _shuffled(dataset: Dataset, seed: int) -> Dataset:
    """Each image with the captions of another: what a model learns from these is nothing."""
    order = np.random.default_rng([seed, 2]).permutation(len(dataset))
    pairs = [
        replace(pair, captions=dataset[int(other)].captions, negatives=dataset[int(other)].negatives)
        for pair, other in zip(dataset, order, strict=True)
    ]
    fingerprint = fingerprint_of([dataset.fingerprint, f"shuffled seed={seed}"])
    return replace(dataset, pairs=pairs, fingerprint=fingerprint)


def _fraction_rows(config: TrainConfig, n_pairs: int) -> NDArray[np.int64]:
    """The images that `train_fraction` leaves, in order."""
    count = max(1, round(config.train_fraction * n_pairs))
    return np.sort(np.random.default_rng([config.seed, 1]).permutation(n_pairs)[:count])


def _tell_problems(pixels: PixelCache, dataset: Dataset, report: Notice) -> PixelCache:
    for problem in pixels.problems[:5]:
        report(f"left out {problem.id}: {problem.reason}")
    if len(pixels.problems) > 5:
        report(f"left out {len(pixels.problems):,} pictures of {dataset.name} that can't be read")
    return pixels

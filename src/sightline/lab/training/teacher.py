"""The embeddings that a teacher gives the training pictures, computed once and kept.

Shape suffixes: N pictures of the set, C crops of them, B images of a batch, S side in pixels, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.errors import InputError
from sightline.kit.config import cache_dir
from sightline.lab.data.base import Dataset, fingerprint_of
from sightline.lab.data.locks import hold_lock
from sightline.lab.data.pixel_cache import PixelCache
from sightline.lab.evaluation.embedding import embed_images
from sightline.lab.training.augment import Changes, FixedCrops, augment

TeacherRows = NDArray[np.float16] | NDArray[np.float32]
_CROPS_AT_ONCE = 64
_REPORT_EVERY = 10_000


def teacher_rows(teacher: str, dataset: Dataset) -> NDArray[np.float32]:
    """(N, D), one row of unit length for each pair of the dataset, in its order.

    `teacher` is a `.npy` file with such rows (of any length), or the name of an encoder. A picture that can't be read
    has a row of zeros. Raises InputError for a file that doesn't fit, ModelError for an encoder that can't run.
    """
    if teacher.endswith(".npy"):
        return _unit_rows(_read_rows(Path(teacher).expanduser(), len(dataset)))
    encoder = load_encoder(teacher)
    path = _cache_file(dataset, encoder)
    if path.is_file():
        return _read_rows(path, len(dataset))
    embedded = embed_images(encoder, dataset)
    rows_ND = np.zeros((len(dataset), encoder.dim), np.float32)
    rows_ND[embedded.row_B] = embedded.image_BD
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, rows_ND)
    partial.replace(path)
    return rows_ND


def teacher_crops(
    teacher: str, dataset: Dataset, *, pixels: PixelCache, crops: FixedCrops, report: Callable[[str], None]
) -> TeacherRows:
    """What the teacher sees in each crop, (C, D), from the same cached pixels as its student.

    Of a `.npy` file a picture's row counts for all its crops. Memory-mapped, and kept as it grows: an interrupted
    computation goes on with the next call. Raises as `teacher_rows`.
    """
    if teacher.endswith(".npy"):
        given_CD: NDArray[np.float32] = teacher_rows(teacher, dataset)[crops.owners().numpy()]
        return given_CD
    encoder = load_encoder(teacher)
    path = _cache_file(dataset, encoder, crops.fingerprint, str(pixels.pixels_NSS3.shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path.with_suffix(".lock")):
        if not path.is_file():
            partial = path.with_suffix(".partial.npy")
            _fill_crops(partial, encoder, pixels=pixels, crops=crops, report=report)
            partial.replace(path)
    rows_CD: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows_CD


def _fill_crops(
    partial: Path, encoder: Encoder, *, pixels: PixelCache, crops: FixedCrops, report: Callable[[str], None]
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


def _unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    unit_ND: NDArray[np.float32] = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True).clip(min=1e-12)
    return unit_ND

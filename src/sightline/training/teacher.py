"""The embeddings that a teacher gives the training pictures, computed once and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.config import cache_dir
from sightline.data.base import Dataset, fingerprint_of
from sightline.errors import InputError
from sightline.evaluation.embedding import embed_images
from sightline.models.encoders import load_encoder


def teacher_rows(teacher: str, dataset: Dataset) -> NDArray[np.float32]:
    """(N, D), one row of unit length for each pair of the dataset, in its order.

    `teacher` is a `.npy` file with such rows (of any length), or the name of an encoder. A picture that can't be read
    has a row of zeros. Raises InputError for a file that doesn't fit, ModelError for an encoder that can't run.
    """
    if teacher.endswith(".npy"):
        return _unit_rows(_read_rows(Path(teacher).expanduser(), len(dataset)))
    encoder = load_encoder(teacher)
    key = fingerprint_of([dataset.fingerprint, repr(encoder.identity), encoder.precision])
    path = cache_dir() / "teachers" / f"{key}.npy"
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

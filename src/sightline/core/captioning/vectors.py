"""Text embeddings of fixed lists of captions, computed once for each model and kept in the cache folder.

A file is named by a hash of everything that its numbers depend on, so another model, precision or list simply has
another file, and none has to be invalidated. Shape suffixes: T texts, D dimension of the joint space.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import ModelError
from sightline.kit.config import cache_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder

_CHUNK = 256
"""Texts embedded at a time; bounds the memory of the text tower."""


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts -> (T, D), rows L2-normalised. Raises ModelError where a vector isn't finite."""
    chunks = [encoder.encode_texts(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
    vectors_TD = np.concatenate(chunks) if chunks else np.zeros((0, encoder.dim), np.float32)
    require_finite(vectors_TD, what=f"Text vectors of {encoder.card.name}")
    return vectors_TD


def load_or_embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """What `embed_texts` gives, from the cache where it is there. A cache that can't be written is done without."""
    path = cache_dir() / "banks" / f"{_hash_inputs(encoder, texts)}.npy"
    cached_TD = _read(path, shape=(len(texts), encoder.dim))
    if cached_TD is not None:
        return cached_TD
    vectors_TD = embed_texts(encoder, texts)
    with suppress(OSError):  # The cache only saves time: a read-only home or a full disk must not cost the captions.
        _write(path, vectors_TD)
    return vectors_TD


def require_finite(values: NDArray[np.float32], *, what: str) -> None:
    """Raise ModelError where a value is NaN or infinite: rankings with NaN are silently wrong."""
    if not np.isfinite(values).all():
        raise ModelError(f"{what} hold values that aren't finite. Check the model's files with: sightline doctor")


def _hash_inputs(encoder: Encoder, texts: Sequence[str]) -> str:
    inputs = [asdict(encoder.identity), encoder.precision, list(texts)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def _read(path: Path, *, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The cached matrix; None where there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            vectors_TD = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if vectors_TD.shape != shape or vectors_TD.dtype != np.float32:
        return None
    lengths_T = np.linalg.norm(vectors_TD, axis=1)
    return vectors_TD if np.allclose(lengths_T, 1.0, atol=1e-3) else None


def _write(path: Path, vectors_TD: NDArray[np.float32]) -> None:
    """Write beside and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.lib.format.write_array(file, vectors_TD, allow_pickle=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""The bank of a model: vectors of what people ask in general, beside which images and queries are judged.

Some images lie near to everything (hubs) and crowd every ranking. Nearest-neighbour normalisation (Chowdhury et al.,
Nearest Neighbor Normalization Improves Multimodal Retrieval, EMNLP 2024, arXiv:2410.24114) gives each image one number,
the mean of its k highest cosines to such a bank, and ranks by cosine less a part of it. `docs/search.md` has what that
gains, and of what the starter's bank is made.

A bank is a file of the model's folder, named in its card with its hash, and holds vectors, no texts. It belongs to the
weights that made it. Shape suffixes: N vectors, B texts and I images
of the bank, D joint space.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.core.models.files import local_source
from sightline.core.models.inputs import normalise_rows
from sightline.errors import ModelError
from sightline.kit.files import replacing

BANK_FILE = "bank.npz"
NEIGHBOURS = 5
"""Vectors of the bank whose mean cosine is an image's hubness. More blur it: `docs/search.md`."""
HUB_WEIGHT = 0.5
"""Part of the hubness that a sentence takes off an image's cosine, chosen on images that no training saw."""
SHORT_HUB_WEIGHT = 0.2
"""The same of a word or two, which ask for more of what everybody asks for: "a person" shall find persons."""
_SHORT_TOKENS, _LONG_TOKENS = 3, 8
_IMAGES_AT_ONCE = 2048


def hub_weight(tokens: int) -> float:
    """The part of its hubness that an image's cosine is lowered by, for words of so many word pieces."""
    sentence = min(max((tokens - _SHORT_TOKENS) / (_LONG_TOKENS - _SHORT_TOKENS), 0.0), 1.0)
    return SHORT_HUB_WEIGHT + (HUB_WEIGHT - SHORT_HUB_WEIGHT) * sentence


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Vectors of one model of texts that stand for all that is asked."""

    vectors_BD: NDArray[np.float32]
    """Of texts, L2-normalised."""
    images_ID: NDArray[np.float32]
    """Of images that no training saw, L2-normalised: a library of everything, beside which a query is judged."""
    weights_hash: str
    """Of the model that made them."""

    @cached_property
    def image_hubness_I(self) -> NDArray[np.float32]:
        """The hubness of the bank's own images (I,)."""
        return self.measure(self.images_ID)

    @cached_property
    def id(self) -> str:
        """What a library keeps with the numbers that this bank measured: they change with it alone."""
        digest = hashlib.sha256(_as_int8(self.vectors_BD).tobytes()).hexdigest()
        return f"{digest[:16]}-{NEIGHBOURS}"

    def measure(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """The hubness (N,) of vectors (N, D), of images say: mean of their highest cosines to the bank's texts."""
        hubness_N = np.empty(len(vectors_ND), dtype=np.float32)
        for start in range(0, len(vectors_ND), _IMAGES_AT_ONCE):
            chunk = slice(start, start + _IMAGES_AT_ONCE)
            nearest = np.partition(vectors_ND[chunk] @ self.vectors_BD.T, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
            hubness_N[chunk] = nearest.mean(axis=1)
        return hubness_N


def load_bank(encoder: Encoder) -> Bank | None:
    """The bank in a model's own folder, of the package or the user's; None where there is none.

    Raises ModelError where the file is damaged, or belongs to other weights in a folder of the user's.
    """
    folder = local_source(encoder.card)
    if folder is None or not (path := folder / BANK_FILE).is_file():
        return None
    bank = _read_known(path, path.stat().st_mtime_ns)
    identity = encoder.identity
    if bank.weights_hash != identity.weights_hash or bank.vectors_BD.shape[1] != identity.dim:
        if encoder.card.source == "package":  # other weights under the name of the package's own
            return None
        raise ModelError(
            f"{path} is the bank of another model (weights {bank.weights_hash[:12]}, {bank.vectors_BD.shape[1]} "
            f"dimensions; {identity.name} has {identity.weights_hash[:12]}, {identity.dim}). Delete it, and searches "
            "rank by cosine alone, or put the model's own there."
        )
    return bank


@lru_cache(maxsize=4)
def _read_known(path: Path, mtime_ns: int) -> Bank:
    return read_bank(path)


def read_bank(path: Path) -> Bank:
    """A bank from its file. Raises ModelError where that is no bank, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows_BD, rows_ID, weights_hash = arrays["texts"], arrays["images"], str(arrays["weights_hash"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(f"{path} can't be read as a bank: {error}. Restore it from where the model came.") from error
    for rows_ND in (rows_BD, rows_ID):
        if rows_ND.dtype != np.int8 or rows_ND.ndim != 2 or len(rows_ND) < NEIGHBOURS or not rows_ND.any(axis=1).all():
            raise ModelError(f"{path} is no bank: {rows_ND.dtype} {rows_ND.shape}; it holds int8 rows, at least 5.")
    texts_BD, images_ID = (normalise_rows(rows_ND.astype(np.float32)) for rows_ND in (rows_BD, rows_ID))
    return Bank(vectors_BD=texts_BD, images_ID=images_ID, weights_hash=weights_hash)


def write_bank(path: Path, texts_BD: NDArray[np.float32], images_ID: NDArray[np.float32], *, weights_hash: str) -> None:
    """Write vectors as a bank, each row scaled to int8: a file of (B + I) x D bytes, less what packing saves."""
    with replacing(path) as partial, partial.open("wb") as file:
        texts, images, made_by = _as_int8(texts_BD), _as_int8(images_ID), np.array(weights_hash)
        np.savez_compressed(file, texts=texts, images=images, weights_hash=made_by)


def _as_int8(vectors_BD: NDArray[np.float32]) -> NDArray[np.int8]:
    largest_B1 = np.abs(vectors_BD).max(axis=1, keepdims=True)
    rows_BD: NDArray[np.int8] = np.rint(vectors_BD * (127 / largest_B1)).astype(np.int8)
    return rows_BD

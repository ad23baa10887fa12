"""The starter's bank: what people ask, as vectors, and background images.

Its texts are the centres of captions that have no pictures here, and what classes are called.

See `sightline.core.models.bank` for what it is for, `docs/search.md` for what other choices gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from classes import Classes
from numpy.typing import NDArray

from sightline.core.models.bank import write_bank
from sightline.core.models.base import Encoder
from sightline.core.models.inputs import normalise_rows

N_CENTRES = 2000
_ROUNDS = 6
_SEED = 0


def make_bank(
    path: Path, encoder: Encoder, told: Sequence[Sequence[str]], classes: Classes, *, images_ND: NDArray[np.float32]
) -> None:
    """Write the bank of an encoder.

    `told` are captions, those of one picture together, of which one is taken; `images_ND` are vectors of images that
    no training saw, of which every other one is taken.
    """
    rng = np.random.default_rng(_SEED)
    captions = [group[int(rng.integers(len(group)))] for group in told]
    centres_CD = find_centres(encoder.encode_texts(captions), min(N_CENTRES, len(captions)), rng)
    names = [names[0] for names in classes.names] + list(classes.kinds)
    vectors_BD = np.concatenate([centres_CD, encoder.encode_texts(names)])
    write_bank(path, vectors_BD, images_ND[::2], weights_hash=encoder.identity.weights_hash)


def find_centres(vectors_ND: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors (C, D) each in the middle of those (N, D) that are nearest to it: spherical k-means."""
    centres_CD = vectors_ND[rng.permutation(len(vectors_ND))[:count]].copy()
    for _ in range(_ROUNDS):
        nearest_N = (vectors_ND @ centres_CD.T).argmax(axis=1)
        sums_CD = np.zeros_like(centres_CD)
        np.add.at(sums_CD, nearest_N, vectors_ND)
        is_empty_C = ~sums_CD.any(axis=1)
        centres_CD = np.where(is_empty_C[:, None], centres_CD, normalise_rows(sums_CD))
    return centres_CD

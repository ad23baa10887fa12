"""Whether an int8 tower may stand in for its fp32 original: the vectors of both, compared.

Shape suffixes: B rows of one tower, N rows among which neighbours are looked for, D joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError

_SUBJECTS = (
    "a dog",
    "two children",
    "an old woman with a red umbrella",
    "a white cat",
    "three men in suits",
    "a bicycle",
    "a birthday cake with candles",
    "a black horse",
    "a group of friends",
    "a small boat",
    "a bride and groom",
    "a yellow car",
    "birds",
    "a boy with a ball",
    "flowers in a vase",
    "a train",
)
_PLACES = (
    "",
    "in the snow",
    "on a beach at sunset",
    "in a crowded street at night",
    "next to a wooden table",
    "in front of a mountain lake",
    "in a kitchen",
    "under a tree in autumn",
    "on a football field",
    "in black and white",
    "in the rain, seen through a window",
    "at a party",
    "near an old stone bridge",
    "in tall grass",
    "on a white background",
    "in a museum",
)


@dataclass(frozen=True, kw_only=True)
class EncoderGate:
    """What int8 vectors must reach against fp32's, for each tower."""

    cosine_mean: float = 0.99
    """Mean cosine of a row in int8 to itself in fp32."""
    cosine_low: float = 0.98
    """The `low_percentile`-th percentile of these cosines."""
    neighbour_overlap: float = 0.9
    """Mean part of the `neighbours` nearest pictures that both agree on."""
    min_images: int = 256
    """Fewer say too little: with them the gate is not asked, and fp32 runs."""
    neighbours: int = 10
    low_percentile: float = 5.0
    min_int8_share: float = 0.5
    """Part of the weights that must be int8: with less there is little to gain."""

    def __post_init__(self) -> None:
        """Raises InputError for thresholds that nothing or everything reaches."""
        for name in ("cosine_mean", "cosine_low", "neighbour_overlap", "min_int8_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if not 0 < self.neighbours < self.min_images:
            raise InputError(f"neighbours must lie between 1 and min_images - 1, got {self.neighbours}.")
        if not 0 <= self.low_percentile <= 100:
            raise InputError(f"low_percentile must lie in [0, 100], got {self.low_percentile}.")

    @property
    def required(self) -> dict[str, float]:
        """The thresholds by the names of what is measured."""
        names = ("cosine_mean", "cosine_low", "neighbour_overlap")
        return {name: float(getattr(self, name)) for name in names}

    def passes(self, measured: Mapping[str, float]) -> bool:
        """Whether all thresholds are reached."""
        return all(measured[name] >= least for name, least in self.required.items())


def compare_vectors(
    int8_BD: NDArray[np.float32],
    fp32_BD: NDArray[np.float32],
    *,
    gate: EncoderGate,
    among_ND: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Cosines of unit rows to their originals, and the overlap of their nearest neighbours.

    Neighbours are looked for among the rows of `among_ND`, for both; without it each row's among the others of its own
    kind, the row itself left out.
    """
    cosine_B = (int8_BD * fp32_BD).sum(axis=1)
    nearest = [_nearest(rows_BD, among_ND, gate.neighbours) for rows_BD in (int8_BD, fp32_BD)]
    shared = [len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True)]
    return {
        "cosine_mean": float(cosine_B.mean()),
        "cosine_low": float(np.percentile(cosine_B, gate.low_percentile)),
        "neighbour_overlap": float(np.mean(shared)) / gate.neighbours,
    }


def gate_sentences() -> list[str]:
    """256 sentences of two to fourteen words, on which text towers are compared: their users' own aren't known yet."""
    return [f"{subject} {place}".strip() for subject in _SUBJECTS for place in _PLACES]


def _nearest(rows_BD: NDArray[np.float32], among_ND: NDArray[np.float32] | None, count: int) -> NDArray[np.intp]:
    similarity_BN = rows_BD @ (rows_BD if among_ND is None else among_ND).T
    if among_ND is None:
        np.fill_diagonal(similarity_BN, -np.inf)
    nearest: NDArray[np.intp] = np.argpartition(-similarity_BN, count, axis=1)[:, :count]
    return nearest

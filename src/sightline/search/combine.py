"""Several query vectors -> one. D is the dimension of the joint space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST_NORM = 1e-6


def combine(vectors_PD: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """Weighted parts (P, D), rows of any norm -> the query's direction (D,), L2-normalised.

    Every part is normalised first, so that only its weight says how much it counts. Positive parts add up to the
    subject. CLIP's vectors lie in a narrow cone: subtracting a whole vector takes away mostly what it shares with the
    subject and leaves noise. So a negative part first loses its component along the subject, and only the rest is
    subtracted: the query's cosine to its subject stays 1 / sqrt(1 + n^2), n being the norm of what is subtracted.
    Without positive parts the query points away from the negative ones. Raises InputError where parts cancel out.
    """
    weights_P = np.asarray(weights, dtype=np.float64)
    parts_PD = _normalise(vectors_PD.astype(np.float64))
    positive = weights_P > 0
    away_D = weights_P[~positive] @ parts_PD[~positive]
    if not positive.any():
        return _direction(away_D)
    subject_D = _direction(weights_P[positive] @ parts_PD[positive]).astype(np.float64)
    return _direction(subject_D + away_D - (away_D @ subject_D) * subject_D)


def _normalise(vectors_PD: NDArray[np.float64]) -> NDArray[np.float64]:
    norms_P1 = np.linalg.norm(vectors_PD, axis=1, keepdims=True)
    if not np.isfinite(norms_P1).all() or (norms_P1 < _SMALLEST_NORM).any():
        raise InputError("A part of the query has no direction (its vector is zero or not finite).")
    normalised: NDArray[np.float64] = vectors_PD / norms_P1
    return normalised


def _direction(vector_D: NDArray[np.float64]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector_D))
    if norm < _SMALLEST_NORM:
        raise InputError("The parts of the query cancel each other out. Change a part or its weight.")
    direction: NDArray[np.float32] = (vector_D / norm).astype(np.float32)
    return direction

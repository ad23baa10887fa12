"""What similarities in a library are compared with: the mean of its vectors and how they spread.

A cosine alone says little: vectors of images lie in a narrow cone, far from those of texts, and directions differ in
how much they tell images apart. Measured in standard deviations over the library, similarities with words, with
examples and with what is not wanted can be added up. Shape suffixes: N examples, S sampled rows, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store
    from sightline.core.types import ModelIdentity

SAMPLED_ROWS = 2000
_CHANGE = 0.1
_UNSURE_ROWS = 20
"""As many rows are imagined at zero, so that few images have no mean of their own making."""
_SMALLEST_VARIANCE = 1e-6
"""Least variance of a direction, of a unit vector: below lies rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Background:
    """Mean (D,) and covariance (D, D) of a library's vectors, float64."""

    mean_D: NDArray[np.float64]
    covariance_DD: NDArray[np.float64]

    @classmethod
    def measure(cls, store: Store, model: str) -> Background:
        """Those of a model's vectors, estimated from rows that are spread evenly over the library.

        It is kept while the store is open, until the library has grown or shrunk by a tenth. Raises StoreError for an
        unknown model.
        """
        ids, identity = store.ids(model=model), store.models()[model]
        kept = _kept.setdefault(store, {})
        count, background = kept.get(identity, (0, None))
        if background is None or abs(len(ids) - count) > _CHANGE * count:
            _, vectors_SD = store.vectors(model, ids[:: max(1, len(ids) // SAMPLED_ROWS)].tolist())
            background = cls.of(vectors_SD)
            kept[identity] = len(ids), background
        return background

    @classmethod
    def of(cls, vectors_SD: NDArray[np.float32]) -> Background:
        """That of unit vectors (S, D).

        The covariance is shrunk halfway to a sphere of the same size, further where rows are few compared with
        dimensions.
        """
        rows, dim = vectors_SD.shape
        sample_SD = vectors_SD.astype(np.float64)
        mean_D = sample_SD.sum(axis=0) / (rows + _UNSURE_ROWS)
        if rows:
            sample_SD -= sample_SD.mean(axis=0)
        spread_DD = sample_SD.T @ sample_SD / max(rows - 1, 1)
        variance = max(float(np.trace(spread_DD)) / dim, _SMALLEST_VARIANCE)
        sphere = 0.5 + 0.5 * dim / (dim + rows)
        return cls(mean_D=mean_D, covariance_DD=(1 - sphere) * spread_DD + sphere * variance * np.eye(dim))

    def spread(self, direction_D: NDArray[np.float64]) -> float:
        """The standard deviation of the library's similarities with a direction (D,) of any length."""
        return float(np.sqrt(direction_D @ self.covariance_DD @ direction_D))

    def scale(self, direction_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """A direction (D,) at the length at which the library's similarities with it have a standard deviation of 1."""
        scaled_D: NDArray[np.float64] = direction_D / self.spread(direction_D)
        return scaled_D

    def remove(self, direction_D: NDArray[np.float64], subject_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """A direction (D,) less what the similarities with a subject (D,), which is scaled, already tell of it."""
        rest_D: NDArray[np.float64] = direction_D - (direction_D @ self.covariance_DD @ subject_D) * subject_D
        return rest_D

    def discriminate(self, vectors_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """The direction (D,), scaled, that best tells images like some examples (N, D) from the library's others.

        Linear discriminant analysis with the library for the other class. Source: Hariharan, Malik and Ramanan,
        Discriminative decorrelation for clustering and classification, ECCV 2012.
        """
        difference_D = vectors_ND.astype(np.float64).mean(axis=0) - self.mean_D
        return self.scale(np.linalg.solve(self.covariance_DD, difference_D))

    def typicality(self, vectors_ND: NDArray[np.floating], direction_D: NDArray[np.float64]) -> float:
        """By how many standard deviations of the library examples (N, D) are nearer to a direction (D,) than others."""
        difference_D = vectors_ND.astype(np.float64).mean(axis=0) - self.mean_D
        return float(difference_D @ direction_D) / self.spread(direction_D)


_kept: WeakKeyDictionary[Store, dict[ModelIdentity, tuple[int, Background]]] = WeakKeyDictionary()
"""Of open stores: by model the number of vectors when it was measured, and the measurement."""

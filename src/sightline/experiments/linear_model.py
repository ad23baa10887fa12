"""The additive model of a metric over settings, by least squares: what all tests of a report rest on.

In a full grid with as many runs in each cell, its means of a level are the plain means over the cells of the others;
where cells are missing or unequal they are the least-squares means (Searle, Speed and Milliken 1980).

Shape suffixes: R runs, C columns (contrasts) of a design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import TrainingError, install_advice
from sightline.experiments.factors import Factor

_TINY = 1e-9

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """A least-squares fit; `design_RC` may have columns that depend on each other."""

    design_RC: Array
    value_R: Array

    @cached_property
    def inverse_CR(self) -> Array:
        """The pseudo-inverse of the design."""
        return np.asarray(np.linalg.pinv(self.design_RC, rcond=_TINY), dtype=np.float64)

    @cached_property
    def coefficient_C(self) -> Array:
        """The coefficients, the shortest ones that fit."""
        return self.inverse_CR @ self.value_R

    @cached_property
    def rank(self) -> int:
        """Columns that don't depend on others."""
        return int(
            np.linalg.matrix_rank(self.design_RC, tol=_TINY * max(1.0, float(np.abs(self.design_RC).max(initial=0.0))))
        )

    @property
    def residual_df(self) -> int:
        """Degrees of freedom that are left."""
        return len(self.value_R) - self.rank

    @cached_property
    def residual_squares(self) -> float:
        """Sum of squared residuals."""
        return float(np.sum((self.value_R - self.design_RC @ self.coefficient_C) ** 2))

    def estimate(self, contrast_C: Array) -> tuple[float, float] | None:
        """The value of a combination of coefficients, and its variance in units of the noise's.

        None where the runs don't determine it.
        """
        weight_R = contrast_C @ self.inverse_CR
        if np.abs(weight_R @ self.design_RC - contrast_C).max() > 1e-6:
            return None
        return float(weight_R @ self.value_R), float(weight_R @ weight_R)


def contrast_columns(factor: Factor) -> Array:
    """(R, levels - 1): sum-to-zero coding, so that the intercept is the mean over levels, each counting the same."""
    coding = _level_coding(len(factor.levels))
    return np.asarray(coding[factor.level_R], dtype=np.float64)


def level_contrast(factor: Factor, level: int) -> Array:
    """The weights of a level in the columns of its factor."""
    return np.asarray(_level_coding(len(factor.levels))[level], dtype=np.float64)


def additive_design(factors: Sequence[Factor], n_runs: int) -> Array:
    """The intercept, then the columns of each factor."""
    return np.column_stack([np.ones(n_runs), *(contrast_columns(factor) for factor in factors)])


def interaction_columns(first: Factor, second: Factor) -> Array:
    """Products of the columns of two factors."""
    first_RC, second_RC = contrast_columns(first), contrast_columns(second)
    return (first_RC[:, :, None] * second_RC[:, None, :]).reshape(len(first_RC), -1)


def f_test(squares: float, df: int, *, noise_variance: float, noise_df: int) -> tuple[float, float]:
    """F and its p-value: whether `squares` on `df` degrees of freedom exceed the noise (Fisher 1925)."""
    special = load_special()
    if squares <= 0 or df < 1:
        return 0.0, 1.0
    if noise_variance <= 0:
        return float("inf"), 0.0
    f = squares / df / noise_variance
    return f, float(special.fdtrc(df, noise_df, f))


def t_factor(df: int, *, confidence: float = 0.95) -> float:
    """Half the width of a t-interval in standard errors."""
    return float(load_special().stdtrit(df, 0.5 + confidence / 2))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p-values for several tests at once, in the same order (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def load_special() -> Any:
    """SciPy's special functions. Raises TrainingError where it isn't installed."""
    try:
        return import_module("scipy.special")
    except ImportError as error:
        raise TrainingError(
            f"A report's statistics need SciPy, of the extra train: {install_advice('train')}"
        ) from error


def _level_coding(levels: int) -> Array:
    """(levels, levels - 1); the last level is minus the sum of the others."""
    return np.vstack([np.eye(levels - 1), -np.ones((1, levels - 1))])

"""Effects of settings on a metric, each with the others averaged out, and whether they are more than noise.

All tests rest on the additive model of a metric over settings, by least squares. In a full grid with as many runs in
each cell, its means of a level are the plain means over the cells of the others; where cells are missing or unequal
they are the least-squares means (Searle, Speed and Milliken 1980).

Shape suffixes: R runs, C columns (contrasts) of a design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.errors import TrainingError
from sightline.lab.experiments.results import Factor, Study
from sightline.lab.training.log import import_train

ALPHA = 0.05
LEAST_NOISE_DF = 3
"""Degrees of freedom below which an estimate of the noise is none."""
NoiseSource = Literal["seeds", "residual", "none"]
Verdict = Literal["matters", "within noise", "can't tell"]
_NO_NOISE = "too few runs to know the noise"
_TINY = 1e-9
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The variation of the metric where no setting changes."""

    source: NoiseSource
    """`seeds`: runs that differ in their seed alone; `residual`: what a model of the settings leaves over."""
    sd: float = 0.0
    df: int = 0

    @property
    def is_known(self) -> bool:
        """True where there is an estimate that tests can rest on."""
        return self.source != "none"


@dataclass(frozen=True, kw_only=True)
class LevelMean:
    """The metric at one level of a setting, with the others averaged out."""

    label: str
    mean: float
    """Mean of the plain runs where `adjusted` is false."""
    n_runs: int
    half_width: float | None = None
    """Half the 95% t-interval; None where the noise isn't known."""
    adjusted: bool = True
    """True where every combination of the others counts the same."""


@dataclass(frozen=True, kw_only=True)
class _Tested:
    verdict: Verdict = "can't tell"
    why: str = ""
    """Reason of a verdict that couldn't be given."""
    f: float | None = None
    df: int = 0
    p: float | None = None
    p_holm: float | None = None
    """Corrected for testing every setting, or every pair."""


@dataclass(frozen=True, kw_only=True)
class Effect(_Tested):
    """One setting."""

    factor: Factor
    means: tuple[LevelMean, ...]
    difference_half_width: float | None = None
    """Half the 95% interval of the difference between the best and the worst level."""

    @property
    def spread(self) -> float:
        """From the lowest to the highest mean of a level."""
        means = [level.mean for level in self.means]
        return max(means) - min(means)


@dataclass(frozen=True, kw_only=True)
class Interaction(_Tested):
    """The dependence of one setting's effect on another."""

    first: Factor
    second: Factor
    size: float
    """The furthest that a cell lies from the sum of both effects."""

    @property
    def name(self) -> str:
        """Both settings: `lr x batch_size`."""
        return f"{self.first.name} x {self.second.name}"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that is said of the settings of a study."""

    noise: Noise
    """Main effects are tested against it."""
    pair_noise: Noise
    """Interactions are tested against it."""
    effects: tuple[Effect, ...]
    """The largest first."""
    interactions: tuple[Interaction, ...]
    """The largest first; empty with fewer than two settings."""


def analyse(study: Study) -> Analysis:
    """Effects of all settings and of their pairs, each family of tests corrected by Holm's method.

    Noise comes from runs that differ in their seed alone, where these give 3 degrees of freedom; else from what an
    additive model leaves over, which counts interactions as noise (for interactions: what a model with all pairs
    leaves over).
    """
    data = _Data(study)
    seeds = seed_noise(study)
    noise = seeds if seeds.is_known else data.residual_noise(data.additive)
    pair_noise = seeds if seeds.is_known else data.residual_noise(data.with_pairs)
    effects = [data.effect(factor, noise) for factor in study.factors]
    pairs = [data.interaction(one, other, pair_noise) for one, other in combinations(study.factors, 2)]
    return Analysis(
        noise=noise,
        pair_noise=pair_noise,
        effects=tuple(sorted(_judge(effects), key=lambda effect: -effect.spread)),
        interactions=tuple(sorted(_judge(pairs), key=lambda pair: -pair.size)),
    )


def seed_noise(study: Study) -> Noise:
    """The pooled standard deviation within groups of runs that differ in their seed alone."""
    squares, df = 0.0, 0
    for number in np.unique(study.replicate_R):
        value_N = study.value_R[study.replicate_R == number]
        squares += float(((value_N - value_N.mean()) ** 2).sum())
        df += len(value_N) - 1
    return Noise(source="seeds", sd=math.sqrt(squares / df), df=df) if df >= LEAST_NOISE_DF else Noise(source="none")


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
        largest = float(np.abs(self.design_RC).max(initial=0.0))
        return int(np.linalg.matrix_rank(self.design_RC, tol=_TINY * max(1.0, largest)))

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
    return _level_coding(len(factor.levels))[factor.level_R]


def additive_design(factors: Sequence[Factor], n_runs: int) -> Array:
    """The intercept, then the columns of each factor."""
    return np.column_stack([np.ones(n_runs), *(contrast_columns(factor) for factor in factors)])


def interaction_columns(first: Factor, second: Factor) -> Array:
    """Products of the columns of two factors."""
    first_RC, second_RC = contrast_columns(first), contrast_columns(second)
    return (first_RC[:, :, None] * second_RC[:, None, :]).reshape(len(first_RC), -1)


def f_test(squares: float, df: int, *, noise_variance: float, noise_df: int) -> tuple[float, float]:
    """F and its p-value: whether `squares` on `df` degrees of freedom exceed the noise (Fisher 1925)."""
    if squares <= 0 or df < 1:
        return 0.0, 1.0
    if noise_variance <= 0:
        return float("inf"), 0.0
    f = squares / df / noise_variance
    return f, float(_special().fdtrc(df, noise_df, f))


def t_factor(df: int) -> float:
    """Half the width of a 95% t-interval in standard errors."""
    return float(_special().stdtrit(df, 0.975))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p-values for several tests at once, in the same order (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _special() -> Any:
    return import_train("scipy.special", "A report's statistics need SciPy", error=TrainingError)


class _Data:
    """The models of a study, each fitted once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.total = float(((study.value_R - study.value_R.mean()) ** 2).sum()) if len(study.runs) else 0.0

    @cached_property
    def additive(self) -> LinearModel:
        return self._fit(additive_design(self.study.factors, len(self.study.runs)))

    @cached_property
    def with_pairs(self) -> LinearModel:
        pairs = [interaction_columns(one, other) for one, other in combinations(self.study.factors, 2)]
        return self._fit(np.column_stack([self.additive.design_RC, *pairs]))

    def _fit(self, design_RC: Array) -> LinearModel:
        return LinearModel(design_RC=design_RC, value_R=self.study.value_R)

    def residual_noise(self, model: LinearModel) -> Noise:
        df = model.residual_df
        if df < LEAST_NOISE_DF:
            return Noise(source="none")
        return Noise(source="residual", sd=math.sqrt(self._squares(model.residual_squares) / df), df=df)

    def _squares(self, squares: float) -> float:
        # Of the total sum of squares: what is smaller is rounding.
        return 0.0 if squares < 1e-16 * max(self.total, 1.0) else squares

    def effect(self, factor: Factor, noise: Noise) -> Effect:
        """The cost of leaving a factor out of the additive model."""
        others = [other for other in self.study.factors if other is not factor]
        without = self._fit(additive_design(others, len(self.study.runs)))
        df = self.additive.rank - without.rank
        means = tuple(self._level_mean(factor, level, noise) for level in range(len(factor.levels)))
        effect = Effect(factor=factor, means=means, df=df)
        if df < len(factor.levels) - 1:
            return replace(effect, why="its levels and those of other settings changed together")
        if not noise.is_known:
            return replace(effect, why=_NO_NOISE)
        squares = self._squares(without.residual_squares - self.additive.residual_squares)
        f, p = f_test(squares, df, noise_variance=noise.sd**2, noise_df=noise.df)
        level_means = [level.mean for level in means]
        high, low = (level_means.index(end(level_means)) for end in (max, min))
        found = self.additive.estimate(self._contrast(factor, high) - self._contrast(factor, low))
        half_width = None if found is None else t_factor(noise.df) * noise.sd * math.sqrt(found[1])
        return replace(effect, f=f, p=p, difference_half_width=half_width)

    def interaction(self, first: Factor, second: Factor, noise: Noise) -> Interaction:
        """The gain of the additive model by the products of two factors."""
        product_RC = interaction_columns(first, second)
        model = self._fit(np.column_stack([self.additive.design_RC, product_RC]))
        df = model.rank - self.additive.rank
        own_C = model.coefficient_C[-product_RC.shape[1] :]
        pair = Interaction(first=first, second=second, df=df, size=float(np.abs(product_RC @ own_C).max(initial=0.0)))
        if df < product_RC.shape[1]:
            return replace(pair, why="combinations of their levels are missing")
        if not noise.is_known:
            return replace(pair, why=_NO_NOISE)
        squares = self._squares(self.additive.residual_squares - model.residual_squares)
        f, p = f_test(squares, df, noise_variance=noise.sd**2, noise_df=noise.df)
        return replace(pair, f=f, p=p)

    def _level_mean(self, factor: Factor, level: int, noise: Noise) -> LevelMean:
        value_N = self.study.value_R[factor.level_R == level]
        label, n_runs = factor.levels[level], len(value_N)
        contrast_C = self._contrast(factor, level)
        contrast_C[0] = 1.0
        found = self.additive.estimate(contrast_C)
        if found is None:
            return LevelMean(label=label, mean=float(value_N.mean()), n_runs=n_runs, adjusted=False)
        mean, variance = found
        half_width = t_factor(noise.df) * noise.sd * math.sqrt(variance) if noise.is_known else None
        return LevelMean(label=label, mean=mean, n_runs=n_runs, half_width=half_width)

    def _contrast(self, factor: Factor, level: int) -> Array:
        """The columns of one level, without the intercept."""
        contrast_C = np.zeros(self.additive.design_RC.shape[1])
        start = 1
        for other in self.study.factors:
            end = start + len(other.levels) - 1
            if other is factor:
                contrast_C[start:end] = _level_coding(len(factor.levels))[level]
            start = end
        return contrast_C


Test = TypeVar("Test", Effect, Interaction)


def _judge(tests: Sequence[Test]) -> list[Test]:
    """Verdicts, corrected for the number of tests that could be made."""
    places = [place for place, test in enumerate(tests) if test.p is not None]
    corrected = adjust_holm([test.p for test in tests if test.p is not None])
    judged = list(tests)
    for place, p_holm in zip(places, corrected, strict=True):
        verdict: Verdict = "matters" if p_holm < ALPHA else "within noise"
        judged[place] = replace(tests[place], p_holm=p_holm, verdict=verdict)
    return judged


def _level_coding(levels: int) -> Array:
    """(levels, levels - 1); the last level is minus the sum of the others."""
    return np.vstack([np.eye(levels - 1), -np.ones((1, levels - 1))])

"""What runs came to: the final metric of each combination of settings over its seeds, and the law of data.

The law says how the error falls with the number of training pictures: a power law, and how sure its exponent is.

Shape suffixes: R runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.lab.experiments.effects import LEAST_NOISE_DF, Array, LinearModel, additive_design, f_test, t_factor
from sightline.lab.experiments.results import RunResult
from sightline.lab.experiments.study import Study, format_value, run_settings

SCALED = ("train_fraction", "limit")
"""Settings that decide how many pictures are trained on."""
_FOLLOW_THE_DATA = {"epochs", "samples_seen", "eval_epochs", "checkpoint_epochs", *SCALED}
"""Settings that may change with the amount of data without hiding its effect: they keep the compute equal."""
_SHARE_WORDS = ("recall", "acc", "mAP", "compose")


@dataclass(frozen=True, kw_only=True)
class Final:
    """Runs that differ in their seed alone."""

    label: str
    """The settings that differ from those of other groups."""
    runs: tuple[RunResult, ...]
    values: tuple[float, ...]
    half_width: float | None
    """Of the mean's 95% t-interval; None where no two runs of the study differ in their seed alone."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))


def summarise_finals(study: Study) -> list[Final]:
    """All groups, the best first.

    The interval's standard deviation is pooled over all groups: that of two or three seeds would be too uncertain.
    """
    groups = [np.flatnonzero(study.replicate_R == number) for number in np.unique(study.replicate_R)]
    df = len(study.runs) - len(groups)
    squares = sum(float(((study.value_R[rows] - study.value_R[rows].mean()) ** 2).sum()) for rows in groups)
    labels = _labels(study, [study.runs[rows[0]] for rows in groups])
    finals = [
        Final(
            label=label,
            runs=tuple(study.runs[row] for row in rows),
            values=tuple(study.value_R[rows].tolist()),
            half_width=t_factor(df) * math.sqrt(squares / df / len(rows)) if df else None,
        )
        for label, rows in zip(labels, groups, strict=True)
    ]
    return sorted(finals, key=lambda final: final.mean if study.lower_is_better else -final.mean)


def short_name(setting: str) -> str:
    """A setting without what it lies in: `towers.dim` -> `dim`."""
    return setting.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """error = factor x amount ^ -exponent (Hestness et al. 2017, arXiv:1712.00409).

    The other settings are averaged out on the logarithm.
    """

    amount_R: NDArray[np.float64]
    """Training pictures of each run, or its fraction of them."""
    error_R: NDArray[np.float64]
    """1 - metric for shares; the metric itself where lower is better. Adjusted for the other settings."""
    in_pictures: bool
    error_name: str
    exponent: float
    factor: float
    half_width: float | None
    """Of the exponent's 95% t-interval; None with fewer than 3 degrees of freedom."""
    df: int
    bends: bool | None
    """Whether the levels lie off a straight line by more than noise; None where that can't be told."""
    at_equal_compute: bool
    """Whether every run saw about as many pictures in all, so that more data doesn't mean more steps."""

    def predict(self, amount: float) -> float:
        """The error that the fitted law gives."""
        return self.factor * math.pow(amount, -self.exponent)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the exponent's 95% interval."""
        return None if self.half_width is None else (self.exponent - self.half_width, self.exponent + self.half_width)

    @property
    def is_beyond_noise(self) -> bool | None:
        """Whether the interval leaves out 0; None where there is no interval."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def fit_scaling(study: Study) -> Scaling | None:
    """The law over the runs of a study.

    None where the amount of data doesn't vary, where other settings change with it, or errors aren't above 0.
    """
    scaled = [factor for factor in study.factors if factor.name in SCALED]
    if not scaled or not all(set(factor.together_with) <= _FOLLOW_THE_DATA for factor in scaled):
        return None
    counts = [_count_pictures(run) for run in study.runs]
    in_pictures = all(count is not None for count in counts)
    amounts = counts if in_pictures else [float(run_settings(run).get("train_fraction", 1.0)) for run in study.runs]
    amount_R = np.array(amounts, dtype=np.float64)
    error_R, error_name = errors_of(study)
    if len(np.unique(amount_R)) < 2 or error_R.min() <= 0:
        return None
    return _fit(study, amount_R, error_R, error_name=error_name, in_pictures=in_pictures)


def errors_of(study: Study) -> tuple[Array, str]:
    """What falls when a model gets better, and what it is called."""
    is_share = any(word in study.metric for word in _SHARE_WORDS) and not study.lower_is_better
    return (1 - study.value_R, f"1 - {study.metric}") if is_share else (study.value_R, study.metric)


def _labels(study: Study, runs: Sequence[RunResult]) -> list[str]:
    names = [factor.name for factor in study.planned or study.factors]
    if not names:
        return ["all runs" if len(study.runs) > 1 and len(runs) == 1 else run.name for run in runs]
    labels = [
        ", ".join(f"{short_name(name)} {format_value(run_settings(run).get(name))}" for name in names) for run in runs
    ]
    return labels if len(set(labels)) == len(labels) else [run.name for run in runs]


def _fit(study: Study, amount_R: Array, error_R: Array, *, error_name: str, in_pictures: bool) -> Scaling | None:
    n_runs = len(study.runs)
    # Settings that change with the amount of data can't be averaged out beside it.
    others = [factor for factor in study.factors if factor.name not in SCALED]
    base_RC = additive_design(others, n_runs)
    log_amount_R, log_error_R = np.log(amount_R), np.log(error_R)
    model = LinearModel(design_RC=np.column_stack([base_RC, log_amount_R]), value_R=log_error_R)
    last_C = np.zeros(model.design_RC.shape[1])
    last_C[-1] = 1.0
    found = model.estimate(last_C)
    if found is None:
        return None
    slope, variance = found
    df = model.residual_df
    half_width = None
    if df >= LEAST_NOISE_DF:
        half_width = t_factor(df) * math.sqrt(model.residual_squares / df * variance)
    offset_R = base_RC[:, 1:] @ model.coefficient_C[1:-1]
    return Scaling(
        amount_R=amount_R,
        error_R=np.exp(log_error_R - offset_R),
        in_pictures=in_pictures,
        error_name=error_name,
        exponent=-slope,
        factor=math.exp(model.coefficient_C[0]),
        half_width=half_width,
        df=df,
        bends=_bends(model, base_RC, amount_R),
        at_equal_compute=_saw_as_many([run.images_seen for run in study.runs]),
    )


def _bends(line: LinearModel, base_RC: Array, amount_R: Array) -> bool | None:
    """Whether a mean for each amount fits better than a straight line, by more than noise."""
    levels, level_R = np.unique(amount_R, return_inverse=True)
    if len(levels) < 3:
        return None
    free = LinearModel(design_RC=np.column_stack([base_RC, np.eye(len(levels))[level_R]]), value_R=line.value_R)
    if free.residual_df < LEAST_NOISE_DF:
        return None
    squares = line.residual_squares - free.residual_squares
    if squares < 1e-16 * len(amount_R):  # rounding
        return False
    variance = free.residual_squares / free.residual_df
    _, p = f_test(squares, free.rank - line.rank, noise_variance=variance, noise_df=free.residual_df)
    return p < 0.05


def _count_pictures(run: RunResult) -> float | None:
    """Pictures that a run trained on; None where only its share of them is known."""
    settings = run_settings(run)
    limit = settings.get("limit")
    return None if limit is None else limit * settings.get("train_fraction", 1.0)


def _saw_as_many(seen: list[int]) -> bool:
    """Within a few percent: batches of different sizes don't divide the same number."""
    return min(seen) > 0.95 * max(seen)

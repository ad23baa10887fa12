"""The runs of a report, sorted into those that can be compared and those that are left out.

Shape suffixes: R runs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.experiments.factors import Factor, find_factors, find_replicates
from sightline.experiments.results import RunResult

_USUAL_METRICS = ("mean_recall", "acc1")
_LOWER_IS_BETTER = ("_rank", "loss")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that are compared by one metric. `runs`, `value_R` and the factors' levels are in the same order."""

    metric: str
    runs: tuple[RunResult, ...]
    """Those that came to their end and have the metric."""
    value_R: NDArray[np.float64]
    factors: tuple[Factor, ...]
    """What differs between the runs."""
    planned: tuple[Factor, ...]
    """The same with the levels of runs that are left out: over the compared runs, then others of known settings."""
    replicate_R: NDArray[np.int64]
    """Runs of the same number differ in their seed alone."""
    left_out: tuple[RunResult, ...] = ()
    """Failed, pruned, stopped, still running, or without the metric."""

    @property
    def everything(self) -> tuple[RunResult, ...]:
        """Compared runs and those that are left out."""
        return (*self.runs, *self.left_out)

    @property
    def lower_is_better(self) -> bool:
        """Whether small values of the metric are good."""
        return self.metric.endswith(_LOWER_IS_BETTER)

    @property
    def best(self) -> int | None:
        """Index of the best run; None where there is none to compare."""
        if not self.runs:
            return None
        return int(self.value_R.argmin() if self.lower_is_better else self.value_R.argmax())

    @classmethod
    def of(cls, runs: Sequence[RunResult], *, metric: str | None = None) -> Study:
        """Sort runs. Raises InputError where there are none, or none has the metric."""
        if not runs:
            raise InputError("There is no run to report on. Give the folders of runs or sweeps.")
        name = choose_metric(runs, metric)
        value = {run.name: run.metrics.get(name, math.nan) for run in runs}
        compared = [run for run in runs if run.state == "complete" and math.isfinite(value[run.name])]
        left_out = [run for run in runs if run not in compared]
        return cls(
            metric=name,
            runs=tuple(compared),
            value_R=np.array([value[run.name] for run in compared], dtype=np.float64),
            factors=tuple(find_factors(compared)),
            planned=tuple(find_factors([*compared, *_with_known_settings(left_out, runs)])),
            replicate_R=find_replicates(compared),
            left_out=tuple(left_out),
        )


def _with_known_settings(left_out: Sequence[RunResult], runs: Sequence[RunResult]) -> list[RunResult]:
    """All where only what sweeps varied counts; else those with a config, which a trial that failed early lacks."""
    by_sweeps = all(run.settings for run in runs)
    return [run for run in left_out if by_sweeps or run.config is not None]


def choose_metric(runs: Sequence[RunResult], metric: str | None) -> str:
    """The metric asked for, else mean recall or accuracy. Raises InputError where no run has it, naming those known."""
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if metric is None:
        return next((name for name in _USUAL_METRICS if name in known), known[0] if known else _USUAL_METRICS[0])
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=2)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        listed = f"The runs have {', '.join(known)}." if known else "No run has any yet."
        raise InputError(f"No run measured {metric!r}. {hint}{listed}")
    return metric

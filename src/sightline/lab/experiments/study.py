"""The runs of a report, sorted into those that can be compared and those left out, and what differs between them.

Factors with levels are the settings of a sweep, or those that set single runs apart. Shape suffixes: R runs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.lab.experiments.results import RunResult

_USUAL_METRICS = ("mean_recall", "acc1")
SEED = "seed"
"""The setting whose change is noise: runs that differ in it alone are replicates."""
MOST_LEVELS = 6
"""Numbers of more levels than this were drawn from a range, and are taken together in thirds."""
_THIRDS = 3
_WITHOUT_EFFECT = ("keep_checkpoints", "log_steps", "checkpoint_epochs")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that are compared by one metric. `runs`, `value_R` and the factors' levels are in the same order."""

    metric: str
    runs: tuple[RunResult, ...]
    """Those that came to their end and have the metric."""
    value_R: NDArray[np.float64]
    factors: tuple[Factor, ...]
    """The settings that differ between the runs."""
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
        """True where small values of the metric are good."""
        return self.metric.endswith(("_rank", "loss"))

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
        by_sweeps = all(run.settings for run in runs)
        return cls(
            metric=name,
            runs=tuple(compared),
            value_R=np.array([value[run.name] for run in compared], dtype=np.float64),
            factors=tuple(find_factors(compared)),
            # All where only what sweeps varied counts; else those with a config, which a trial that failed early lacks.
            planned=tuple(find_factors([*compared, *(run for run in left_out if by_sweeps or run.config is not None)])),
            replicate_R=find_replicates(compared),
            left_out=tuple(left_out),
        )


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


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One setting with the levels that it took."""

    name: str
    levels: tuple[str, ...]
    """As they are written, the smallest first."""
    level_R: NDArray[np.int64]
    """Index of each run's level."""
    grouped: bool = False
    """True where a level is a range of values."""
    together_with: tuple[str, ...] = ()
    """Settings that changed whenever this one did, so that nothing tells them apart."""


def find_factors(runs: Sequence[RunResult]) -> list[Factor]:
    """The settings that differ between runs besides the seed; those that change together become one factor.

    Runs of sweeps differ in what the sweeps varied; others in whatever their configs say.
    """
    values = [run_settings(run) for run in runs]
    if runs and all(run.settings for run in runs):
        names = list(dict.fromkeys(name for run in runs for name in run.settings))
    else:
        names = list(dict.fromkeys(name for settings in values for name in settings))
    factors: list[Factor] = []
    for name in names:
        column = [settings.get(name) if name in settings else "not set" for settings in values]
        if name == SEED or name in _WITHOUT_EFFECT or len({_key(value) for value in column}) < 2:
            continue
        factor = _make_factor(name, column)
        for place, other in enumerate(factors):
            own, others = factor.level_R.tolist(), other.level_R.tolist()
            if len(set(zip(own, others, strict=True))) == len(set(own)) == len(set(others)):
                factors[place] = replace(other, together_with=(*other.together_with, name))
                break
        else:
            factors.append(factor)
    return factors


def run_settings(run: RunResult) -> dict[str, Any]:
    """All settings of a run by their names in `--set`: `lr`, `towers.dim`."""
    flat: dict[str, Any] = {}
    if run.config is not None:
        for name, value in run.config.to_dict().items():
            if isinstance(value, Mapping):
                flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
            else:
                flat[name] = value
    return flat | dict(run.settings)


def find_replicates(runs: Sequence[RunResult]) -> NDArray[np.int64]:
    """A number for each run (R,): runs with the same one have the same settings but for the seed."""
    numbers: dict[str, int] = {}
    group_R = []
    for run in runs:
        settings = {name: value for name, value in run_settings(run).items() if name not in (SEED, *_WITHOUT_EFFECT)}
        key = "\0".join(f"{name}={_key(settings[name])}" for name in sorted(settings))
        group_R.append(numbers.setdefault(key, len(numbers)))
    return np.array(group_R, dtype=np.int64)


def count_cells(factors: Sequence[Factor]) -> tuple[int, int]:
    """The number of combinations of levels, and of those that some run has."""
    if not factors:
        return 1, 1
    present = {tuple(int(factor.level_R[run]) for factor in factors) for run in range(len(factors[0].level_R))}
    return math.prod(len(factor.levels) for factor in factors), len(present)


def format_value(value: Any) -> str:
    """A setting's value as it is shown: short, and paths by their last part."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(format_value, value))
    text = str(value)
    return text if len(text) <= 24 else PurePath(text).name[-24:]


def _make_factor(name: str, column: Sequence[Any]) -> Factor:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)
    distinct = {_key(value): value for value in column}
    if numeric and len(distinct) > MOST_LEVELS:
        value_R = np.array(column, dtype=np.float64)
        edges = np.unique(np.quantile(value_R, np.linspace(0, 1, _THIRDS + 1)))
        level_R = np.clip(np.searchsorted(edges, value_R, side="right") - 1, 0, len(edges) - 2)
        labels = tuple(f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges))
        return Factor(name=name, levels=labels, level_R=level_R.astype(np.int64), grouped=True)
    order = sorted(
        distinct, key=lambda key: (not isinstance(distinct[key], int | float), distinct[key] if numeric else key)
    )
    labels = tuple(format_value(distinct[key]) for key in order)
    if len(set(labels)) < len(labels):  # paths with the same last part
        labels = tuple(str(distinct[key]) for key in order)
    level_R = np.array([order.index(_key(value)) for value in column], dtype=np.int64)
    return Factor(name=name, levels=labels, level_R=level_R)


def _key(value: Any) -> str:
    """Equal for equal values: 1 and 1.0, (1, 2) and [1, 2]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return repr(list(value)) if isinstance(value, tuple) else repr(value)
    return repr(float(value))

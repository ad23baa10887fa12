"""The final metric of each combination of settings, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.experiments.factors import format_value, run_settings
from sightline.experiments.linear_model import t_factor
from sightline.experiments.results import RunResult
from sightline.experiments.study import Study


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


def _labels(study: Study, runs: Sequence[RunResult]) -> list[str]:
    names = [factor.name for factor in study.planned or study.factors]
    if not names:
        return ["all runs" if len(study.runs) > 1 and len(runs) == 1 else run.name for run in runs]
    labels = [
        ", ".join(f"{short_name(name)} {format_value(run_settings(run).get(name))}" for name in names) for run in runs
    ]
    return labels if len(set(labels)) == len(labels) else [run.name for run in runs]


def short_name(setting: str) -> str:
    """A setting without what it lies in: `towers.dim` -> `dim`."""
    return setting.rpartition(".")[2]

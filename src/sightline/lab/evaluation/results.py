"""What every evaluator gives: figures with their bootstrap intervals, and what they were measured on.

Intervals come from resampling images, each with all that belongs to it: captions of one image are not independent, so
an interval from resampled captions would be too narrow. The candidates of a ranking stay the whole set: what is
resampled are the queries' results, so no similarity is computed twice. Percentile intervals: Efron and Tibshirani 1993,
"An Introduction to the Bootstrap", chapter 13. Shape suffixes: N results, G groups (images), S resamples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Interval = tuple[float, float]
_DECIMALS = 6
"""Of figures in JSON: finer than any difference that a data set can show."""
_CHUNK_CELLS = 4_000_000
"""Counts held at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A picture that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The figures of one model on one split. Rates are fractions in [0, 1]."""

    model: str
    data: str
    """Address of the data set: `flickr8k:PATH`."""
    split: str
    n_images: int
    n_texts: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Metric -> the ends of its bootstrap interval, where one was made."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else decides the figures or helps to read them, as JSON values: prompts, the C that was chosen."""
    problems: tuple[Problem, ...] = ()
    """Pictures that were left out."""
    took_s: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a figure that isn't finite, and for an interval of no metric."""
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise InputError(f"{name} of {self.model} on {self.data} is {value}, which is no result.")
        if strangers := sorted(set(self.intervals) - set(self.metrics)):
            raise InputError(f"Intervals of unknown metrics: {', '.join(strangers)}.")

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: plain JSON values, the fixed keys first, the others only where there is something."""
        values: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "n_images": self.n_images,
            "n_texts": self.n_texts,
            "metrics": {name: round(value, _DECIMALS) for name, value in self.metrics.items()},
        }
        if self.intervals:
            values["intervals"] = {
                name: [round(low, _DECIMALS), round(high, _DECIMALS)] for name, (low, high) in self.intervals.items()
            }
        if self.details:
            values["details"] = dict(self.details)
        if self.problems:
            values["left_out"] = [{"id": problem.id, "reason": problem.reason} for problem in self.problems]
        if self.took_s is not None:
            values["took_s"] = round(self.took_s, 2)
        return values


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made; no resamples, no intervals."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for settings that make no interval."""
        if self.resamples < 0:
            raise InputError(f"resamples must be 0 (no intervals) or more, got {self.resamples}.")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence must lie between 0 and 1, got {self.confidence}.")
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}.")


class Statistic(Protocol):
    """A figure that can be computed again for any resample."""

    size: int
    """The most numbers that it needs for one resample."""

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        """How often each group was drawn (S, G) -> the figure of each resample (S,)."""
        ...


class Mean:
    """Mean of the results of all drawn groups."""

    def __init__(self, result_N: NDArray[np.float64], group_N: NDArray[np.int64], n_groups: int) -> None:
        self._sum_G = np.bincount(group_N, weights=result_N, minlength=n_groups)
        self._count_G = np.bincount(group_N, minlength=n_groups).astype(np.float64)
        self.size = n_groups

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean (S,), NaN where no group with a result was drawn."""
        count_S = counts_SG @ self._count_G
        means_S = np.full(len(count_S), np.nan)
        np.divide(counts_SG @ self._sum_G, count_S, out=means_S, where=count_S > 0)
        return means_S


class Median:
    """Median of the results of all drawn groups: the lower of the two middle ones where they are two."""

    def __init__(self, result_N: NDArray[np.float64], group_N: NDArray[np.int64]) -> None:
        order_N = np.argsort(result_N, kind="stable")
        self._result_N, self._group_N = result_N[order_N], group_N[order_N]
        self.size = len(result_N)

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        """The median (S,)."""
        reached_SN = np.cumsum(counts_SG[:, self._group_N], axis=1)
        middle_S: NDArray[np.intp] = (reached_SN >= reached_SN[:, -1:] / 2).argmax(axis=1)
        return self._result_N[middle_S]


class MeanOfClasses:
    """Mean over classes of the mean result in each; every group has one result and one class."""

    def __init__(self, result_G: NDArray[np.float64], class_G: NDArray[np.int64]) -> None:
        self._order_G = np.argsort(class_G, kind="stable")
        self._result_G = result_G[self._order_G]
        _, self._start_C = np.unique(class_G[self._order_G], return_index=True)
        self.size = len(result_G)

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over the classes that were drawn at all (S,)."""
        ordered_SG = counts_SG[:, self._order_G]
        count_SC = np.add.reduceat(ordered_SG, self._start_C, axis=1)
        sum_SC = np.add.reduceat(ordered_SG * self._result_G, self._start_C, axis=1)
        means_S: NDArray[np.float64] = (sum_SC / np.maximum(count_SC, 1)).sum(axis=1) / (count_SC > 0).sum(axis=1)
        return means_S


def bootstrap_intervals(
    statistics: Mapping[str, Statistic], *, n_groups: int, config: Bootstrap
) -> dict[str, Interval]:
    """For each figure, the interval that holds the middle `confidence` of its resamples; same seed, same intervals.

    One group says nothing of how groups vary, so there is no interval then, nor without resamples.
    """
    if config.resamples == 0 or n_groups < 2 or not statistics:
        return {}
    size = max(n_groups, *(statistic.size for statistic in statistics.values()))
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in statistics}
    for counts_SG in _draw(n_groups, config, at_once=max(1, _CHUNK_CELLS // size)):
        for name, statistic in statistics.items():
            drawn[name].append(statistic.of(counts_SG))
    tail = (1 - config.confidence) / 2
    intervals = {}
    for name, parts in drawn.items():
        figures_S = np.concatenate(parts)
        known_S = figures_S[~np.isnan(figures_S)]
        if len(known_S):
            low, high = np.quantile(known_S, (tail, 1 - tail))
            intervals[name] = (float(low), float(high))
    return intervals


def _draw(n_groups: int, config: Bootstrap, *, at_once: int) -> Iterator[NDArray[np.float64]]:
    """Resamples in chunks: how often each group was drawn in `n_groups` draws with replacement."""
    rng = np.random.default_rng(config.seed)
    for start in range(0, config.resamples, at_once):
        rows = min(at_once, config.resamples - start)
        drawn = [np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups) for _ in range(rows)]
        yield np.stack(drawn).astype(np.float64)

"""What every evaluator gives: figures with their intervals, and what they were measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import InputError

Interval = tuple[float, float]
_DECIMALS = 6
"""Of figures in JSON: finer than any difference that a data set can show."""


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

"""What decides a sweep, checked before the first trial."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline.errors import InputError
from sightline.experiments.grid import Axis, Choices, cells_of, setting_text, short_text
from sightline.training.recipes import make_config

if TYPE_CHECKING:
    from sightline.experiments.results import RunResult
    from sightline.experiments.trial_queue import PrunerName, SamplerName

SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("none", "median", "halving")
_DIRECTIONS = ("image_retrieval", "text_retrieval")
_RECALLS = tuple(f"{direction}_recall@{k}" for direction in _DIRECTIONS for k in (1, 5, 10))
_LOWER_IS_BETTER = tuple(f"{direction}_{name}" for direction in _DIRECTIONS for name in ("median_rank", "mean_rank"))
METRICS = (
    "mean_recall", *_RECALLS, *(f"{direction}_mAP" for direction in _DIRECTIONS), *_LOWER_IS_BETTER,
    "acc1", "acc5", "mean_per_class_recall",
)  # fmt: skip
"""What trials can be compared by; the last three of pairs with classes."""

_MOST_SMOKE_PICTURES = 4096
DEFAULT_TRIALS = 20
"""Of a sweep that draws its trials."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Everything that decides a sweep."""

    recipe: str
    grid: tuple[str, ...]
    """`key=value,value` or, for samplers that draw, `key=low..high`."""
    settings: tuple[str, ...] = ()
    """`key=value` that all trials share."""
    sampler: SamplerName = "grid"
    trials: int | None = None
    """How many; None takes all cells of a grid, and 20 of what is drawn."""
    pruner: PrunerName = "none"
    metric: str = "mean_recall"
    budget_s: float | None = None
    """Seconds after which this process begins no further trial, nor one that would take longer by the median so far."""
    storage: str | None = None
    """Address of a database that several machines share; None keeps Optuna's journal in the sweep's folder."""
    smoke: bool = False
    extend: bool = False
    """Add the grid's values to those of the sweep that is in the folder."""
    retry_failed: bool = False
    seed: int = 0
    """Of what samplers draw; the runs' own is a setting."""

    def __post_init__(self) -> None:
        """Raises InputError for settings that can't be met."""
        for name, value, allowed in (("sampler", self.sampler, SAMPLERS), ("prune", self.pruner, PRUNERS)):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
        if self.metric not in METRICS:
            near = difflib.get_close_matches(self.metric, METRICS, n=3)
            hint = f"Did you mean {', '.join(near)}? " if near else ""
            raise InputError(f"There is no metric {self.metric!r}. {hint}The metrics are {', '.join(METRICS)}.")
        if self.trials is not None and self.trials < 1:
            raise InputError(f"The number of trials must be at least 1, got {self.trials}.")
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            raise InputError(f"The budget must be more than 0 seconds, got {self.budget_s:g}.")
        both = {setting.partition("=")[0] for setting in self.settings} & {text.partition("=")[0] for text in self.grid}
        if both:
            raise InputError(f"{', '.join(sorted(both))} can't be both varied (--grid) and set (--set).")

    @property
    def maximise(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric not in _LOWER_IS_BETTER

    def identity(self) -> dict[str, Any]:
        """What must be the same for two commands to work on one sweep, beside the grid."""
        return {
            "recipe": self.recipe,
            "settings": list(self.settings),
            "sampler": self.sampler,
            "pruner": self.pruner,
            "metric": self.metric,
            "smoke": self.smoke,
            "seed": self.seed,
        }


def best_first(results: Sequence[RunResult], metric: str) -> list[RunResult]:
    """Whole trials by their metric, then those cut short, then failed ones."""
    sign = 1.0 if metric in _LOWER_IS_BETTER else -1.0

    def place(result: RunResult) -> tuple[int, bool, float, str]:
        whole = {"complete": 0, "failed": 2}.get(result.state, 1)
        return whole, metric not in result.metrics, sign * result.metrics.get(metric, 0.0), result.name

    return sorted(results, key=place)


def refuse_impossible(config: SweepConfig, axes: tuple[Axis, ...]) -> None:
    """What no trial can have is said before the first: the recipe, the settings, or a value that never fits."""
    make_config(config.recipe, config.settings, smoke=config.smoke)
    if config.sampler != "grid":
        return
    possible: dict[str, list[Any]] = {axis.key: [] for axis in axes}
    refused: dict[str, list[tuple[Any, InputError]]] = {axis.key: [] for axis in axes}
    for cell in cells_of(axes):
        try:
            make_config(
                config.recipe,
                [*config.settings, *(setting_text(key, value) for key, value in cell.items())],
                smoke=config.smoke,
            )
        except InputError as error:
            for key, value in cell.items():
                refused[key].append((value, error))
        else:
            for key, value in cell.items():
                possible[key].append(value)
    for key, errors in refused.items():
        for value, why in errors:
            if value not in possible[key]:
                raise InputError(f"--grid {key}={short_text(value)}: {why}")


def smoke_settings(config: SweepConfig, axes: Sequence[Axis]) -> list[str]:
    """A smoke run has 32 pictures; here some more where a batch or a part of the grid needs them, the same for all."""
    if not config.smoke:
        return []
    base = make_config(config.recipe, config.settings, smoke=True)
    largest, smallest = base.batch_size, base.train_fraction
    for axis in axes:
        values = axis.values if isinstance(axis, Choices) else (axis.low, axis.high)
        largest = max(values) if axis.key == "batch_size" else largest
        smallest = min(values) if axis.key == "train_fraction" else smallest
    needed = min(math.ceil(largest / smallest) + 1, _MOST_SMOKE_PICTURES)
    return [f"limit={needed}"] if base.limit is not None and needed > base.limit else []

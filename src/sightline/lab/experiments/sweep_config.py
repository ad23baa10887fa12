"""The request of a sweep: what it varies, what else decides it, checked before the first trial, and its folder.

Settings have the values they take, or the range that they are drawn from. The folder keeps what was asked, and what is
known of each trial, as JSON that any reader understands.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from sightline.errors import InputError, TrainingError
from sightline.kit.files import explained
from sightline.lab.experiments.results import SWEEP_FILE, TRIALS_FOLDER, RunResult, RunStateName, is_run
from sightline.lab.training.config import did_you_mean, parse_setting
from sightline.lab.training.log import TRIAL_FILE
from sightline.lab.training.recipes import make_config
from sightline.lab.training.run_folder import read_object, write_json

SamplerName = Literal["grid", "random", "tpe"]
PrunerName = Literal["none", "median", "halving"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
PRUNERS: tuple[PrunerName, ...] = get_args(PrunerName)
_DIRECTIONS = ("image_retrieval", "text_retrieval")
_RECALLS = tuple(f"{direction}_recall@{k}" for direction in _DIRECTIONS for k in (1, 5, 10))
_LOWER_IS_BETTER = tuple(f"{direction}_{name}" for direction in _DIRECTIONS for name in ("median_rank", "mean_rank"))
METRICS = (
    "mean_recall", *_RECALLS, *(f"{direction}_mAP" for direction in _DIRECTIONS), *_LOWER_IS_BETTER,
    "acc1", "acc5", "mean_per_class_recall",
)  # fmt: skip
"""Metrics that trials can be compared by; the last three of pairs with classes."""
_MOST_SMOKE_IMAGES = 4096
DEFAULT_TRIALS = 20
"""Trials of a sweep that draws them."""
MOST_CELLS = 10_000
"""A grid of more would not end; samplers draw from such."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_LOG_RATIO = 10.0
"""A range of positive numbers that is at least so wide is drawn from by order of magnitude."""
_LOCK_FILE = "sweep.lock"
ADVICE = "Make room, and run the same command again."
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


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
    """Their number; None takes all cells of a grid, and 20 of what is drawn."""
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
    """Seed of what samplers draw; the runs' own is a setting."""

    def __post_init__(self) -> None:
        for name, value, allowed in (("sampler", self.sampler, SAMPLERS), ("prune", self.pruner, PRUNERS)):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
        if self.metric not in METRICS:
            hint = did_you_mean(self.metric, METRICS)
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
        """True where more of the metric is better."""
        return self.metric not in _LOWER_IS_BETTER

    def identity(self) -> dict[str, Any]:
        """Settings that must be the same for two commands to work on one sweep, beside the grid."""
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
    """Refuse what no trial can have before the first: the recipe, the settings, or a value that never fits."""
    make_config(config.recipe, config.settings, smoke=config.smoke)
    if config.sampler != "grid":
        return
    possible: dict[str, list[Any]] = {axis.key: [] for axis in axes}
    refused: dict[str, list[tuple[Any, InputError]]] = {axis.key: [] for axis in axes}
    for cell in cells_of(axes):
        settings = [*config.settings, *(setting_text(key, value) for key, value in cell.items())]
        try:
            make_config(config.recipe, settings, smoke=config.smoke)
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
    """A smoke run has 32 images; here some more where a batch or a part of the grid needs them, the same for all."""
    if not config.smoke:
        return []
    base = make_config(config.recipe, config.settings, smoke=True)
    largest, smallest = base.batch_size, base.train_fraction
    for axis in axes:
        values = axis.values if isinstance(axis, Choices) else (axis.low, axis.high)
        largest = max(values) if axis.key == "batch_size" else largest
        smallest = min(values) if axis.key == "train_fraction" else smallest
    needed = min(math.ceil(largest / smallest) + 1, _MOST_SMOKE_IMAGES)
    return [f"limit={needed}"] if base.limit is not None and needed > base.limit else []


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Some values, in the order in which they were given."""

    key: str
    values: tuple[Any, ...]

    def to_json(self) -> list[Any]:
        """The values as JSON has them, which knows no tuples."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    is_whole: bool

    @property
    def is_log(self) -> bool:
        """True where orders of magnitude are equally likely, instead of values."""
        return self.low > 0 and self.high / self.low >= _LOG_RATIO

    def to_json(self) -> dict[str, float]:
        """The ends of the range."""
        return {"low": self.low, "high": self.high}


Axis = Choices | Range


def parse_grid(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Axes from `key=value,value` and `key=low..high`, of the types that the settings have.

    Values that hold commas themselves are told apart by semicolons: `towers.image_blocks=1,1;2,2`.
    Raises InputError for an unknown setting, a value of another type, one that stands there twice.
    """
    axes: dict[str, Axis] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise InputError(f"{text!r} is no part of a grid; write key=value,value as in lr=3e-4,1e-3.")
        if key in axes:
            raise InputError(f"{key} stands in the grid twice; write all its values behind one {key}=.")
        axes[key] = _parse_axis(key, values)
    if not axes:
        raise InputError("A sweep needs settings to vary: --grid lr=3e-4,1e-3 batch_size=64,256")
    return tuple(axes.values())


def cells_of(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """All combinations, the last setting changing fastest. Raises InputError for ranges, and for too many."""
    for axis in axes:
        if isinstance(axis, Range):
            raise InputError(
                f"{axis.key}={axis.low:g}..{axis.high:g} is a range, which has no last value: take --sampler random or "
                "tpe with --trials N, or list the values."
            )
    choices = [axis for axis in axes if isinstance(axis, Choices)]
    count = math.prod(len(axis.values) for axis in choices)
    if count > MOST_CELLS:
        raise InputError(
            f"This grid has {count:,} cells, more than {MOST_CELLS:,}. Vary less, or take --sampler random with "
            "--trials N."
        )
    for values in itertools.product(*(axis.values for axis in choices)):
        yield dict(zip((axis.key for axis in choices), values, strict=True))


def merge_axes(before: Sequence[Axis], now: Sequence[Axis]) -> tuple[Axis, ...]:
    """The values of both: what `--extend` makes of a sweep. Raises InputError where they vary other settings.

    A range becomes the new one.
    """
    if sorted(axis.key for axis in before) != sorted(axis.key for axis in now):
        raise InputError(
            f"--extend adds values to the settings that the sweep varies ({', '.join(axis.key for axis in before)}); "
            "to vary others, start another sweep."
        )
    wanted = {axis.key: axis for axis in now}
    merged: list[Axis] = []
    for old in before:
        new = wanted[old.key]
        if isinstance(old, Choices) and isinstance(new, Choices):
            new = Choices(key=old.key, values=tuple(dict.fromkeys((*old.values, *new.values))))
        elif type(old) is not type(new):
            raise InputError(f"{old.key}: values can't become a range, nor a range values; start another sweep.")
        merged.append(new)
    return tuple(merged)


def flat_value(value: Any) -> Any:
    """A value without structure: several numbers as words, as Optuna's choices and settings are written."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else value


def setting_text(key: str, value: Any) -> str:
    """`key=value` as `TrainConfig.changed` reads it, to the bit."""
    return f"{key}={flat_value(value)}"


def short_text(value: Any) -> str:
    """A value for a table or a name: floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(flat_value(value))


def axes_from_json(grid: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes of what their `to_json` gave for each setting."""
    axes: list[Axis] = []
    for key, values in grid.items():
        if isinstance(values, dict):
            low, high = values["low"], values["high"]
            axes.append(Range(key=key, low=low, high=high, is_whole=isinstance(low, int)))
        else:
            typed = tuple(tuple(value) if isinstance(value, list) else value for value in values)
            axes.append(Choices(key=key, values=typed))
    return tuple(axes)


@dataclass(frozen=True, kw_only=True)
class SweepFolder:
    """`sweep.json`, `trials/NUMBER-NAME/` and the locks that let several processes work in it."""

    path: Path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the folder, for moments. Raises InputError where it can't be made or holds something else."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --output must name a folder.")
        if is_run(self.path):
            raise InputError(f"{self.path} holds a run of `sightline train`. Give another --output.")
        with explained(f"The sweep's folder {self.path}", "Give another --output.", error=InputError):
            self.path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
        # Where there is a lock, another process may be writing the sweep's file just now: what lies here is told then.
        strangers = f"{self.path} isn't empty and holds no sweep. Give a new folder as --output."
        if names and not names & {_LOCK_FILE, SWEEP_FILE}:
            raise InputError(strangers)
        with FileLock(self.path / _LOCK_FILE):
            names = {entry.name for entry in self.path.iterdir()} - {_LOCK_FILE}
            if names and SWEEP_FILE not in names:
                raise InputError(strangers)
            yield

    def trial_path(self, number: int, cell: Mapping[str, Any]) -> Path:
        """The folder of a trial's run: its number and its settings, as far as a name can hold them."""
        name = "-".join(f"{key.removeprefix('towers.')}={short_text(value)}" for key, value in cell.items())
        return self.path / TRIALS_FOLDER / f"{number:03d}-{_UNSAFE.sub('_', name)[:60].rstrip('-_.')}"


class TrialNote:
    """`trial.json` of one trial: what the sweep knows of it, written anew whenever that changes."""

    def __init__(self, folder: Path, known: Mapping[str, Any]) -> None:
        """Go on with what earlier sessions took; `known` is what doesn't change. Raises TrainingError as `write`."""
        self._path, self._known = folder / TRIAL_FILE, known
        self._before_s = float(read_object(self._path).get("took_s") or 0.0) if self._path.is_file() else 0.0
        self._started_s = time.monotonic()
        with explained(folder, ADVICE, error=TrainingError):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def took_s(self) -> float:
        """Seconds of all sessions until now."""
        return round(self._before_s + time.monotonic() - self._started_s, 2)

    def write(self, state: RunStateName, *, reason: str | None = None, value: float | None = None, **more: Any) -> None:
        """Write it, whole or not at all. Raises TrainingError where the disk is full."""
        now = {"state": state, "reason": reason, "value": value, "took_s": self.took_s}
        write_json(self._path, {**self._known, **now, **more}, advice=ADVICE)


def _parse_axis(key: str, text: str) -> Axis:
    if match := _RANGE.fullmatch(text.strip()):
        return _parse_range(key, match[1], match[2])
    parts = text.split(";") if ";" in text else text.split(",")
    values = tuple(parse_setting(key, part.strip()) for part in parts)
    if any(isinstance(value, tuple) for value in values) and ";" not in text:
        values = (parse_setting(key, text),)  # its commas are the value's own
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise InputError(f"{key}: {short_text(twice[0])} stands there twice; each value is trained once.")
    return Choices(key=key, values=values)


def _parse_range(key: str, low: str, high: str) -> Range:
    ends = [parse_setting(key, end) for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise InputError(f"{key}={low}..{high}: only numbers have ranges; list the values instead.")
    if not ends[0] < ends[1]:
        raise InputError(f"{key}={low}..{high}: the lower end comes first.")
    return Range(key=key, low=ends[0], high=ends[1], is_whole=isinstance(ends[0], int))

"""Results of runs and sweeps, read from their folders (without PyTorch or Optuna), and sorted into a study.

A study has the runs that can be compared, those left out, and what differs between them: factors with levels are the
settings of a sweep, or those that set single runs apart. Shape suffixes: R runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.lab.training.config import TrainConfig, did_you_mean
from sightline.lab.training.log import LOG_FILE, RESULT_FILE, RUN_FILE, TRIAL_FILE, Row, read_log
from sightline.lab.training.run_folder import PROBE_BEST_FILE, PROBE_START_FILE, Probe, read_object, read_probe

RunStateName = Literal["complete", "pruned", "stopped", "failed", "running"]

SWEEP_FILE = "sweep.json"
TRIALS_FOLDER = "trials"

_QUALITIES = ("mean_recall", "acc1")
"""The metrics that decide which weights are kept."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One training run, finished or not."""

    name: str
    """Unique among the runs that are read together."""
    path: Path
    config: TrainConfig | None
    """None where a trial failed before it had one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the sweep varied, as typed values; empty for a run of its own."""
    state: RunStateName = "complete"
    reason: str | None = None
    """The reason why it failed, was pruned or stopped."""
    rows: Sequence[Row] = ()
    """Rows of its log."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the weights that were kept, on the val pairs."""
    images_seen: int = 0
    took_s: float | None = None

    @property
    def quality(self) -> str | None:
        """Name of the metric that decided which weights were kept; None where nothing was measured."""
        return next((name for name in _QUALITIES if name in self.metrics), None)

    def probe(self, when: Literal["start", "best"]) -> Probe | None:
        """Vectors before the first update, or of the weights that were kept; None where the run has none.

        Raises InputError where the file is damaged.
        """
        path = self.path / (PROBE_START_FILE if when == "start" else PROBE_BEST_FILE)
        return read_probe(path) if path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A sweep: what it was asked, and its trials by number."""

    path: Path
    asked: Mapping[str, Any]
    """The content of `sweep.json`: `recipe`, `settings`, `grid`, `sampler`, `pruner`, `metric`, `budget_s`, ..."""
    trials: tuple[RunResult, ...]


def is_run(path: Path) -> bool:
    """True where a folder holds a run."""
    return (path / RUN_FILE).is_file()


def is_sweep(path: Path) -> bool:
    """True where a folder holds a sweep."""
    return (path / SWEEP_FILE).is_file()


def read_results(paths: Sequence[Path]) -> list[RunResult]:
    """All runs of these folders of runs and sweeps, with names that tell them apart.

    Raises InputError for a folder that is neither, or that is damaged.
    """
    found: list[RunResult] = []
    for path in dict.fromkeys(path.expanduser().resolve() for path in paths):
        found += read_sweep(path).trials if is_sweep(path) else [read_run(path)]
    counts = Counter(result.name for result in found)
    for place, result in enumerate(found):
        if counts[result.name] > 1:  # with the folder that it lies in, or the sweep's
            above = result.path.parent
            above = above.parent if above.name == TRIALS_FOLDER else above
            found[place] = replace(result, name=f"{above.name}/{result.path.name}")
    return found


def read_run(path: Path) -> RunResult:
    """A run of its own. Raises InputError where there is none, or one of its files is damaged."""
    if not is_run(path):
        raise InputError(
            f"{path} holds neither a run ({RUN_FILE}) nor a sweep ({SWEEP_FILE}). Give the --output of `sightline "
            "train` or `sightline sweep`."
        )
    try:
        config = TrainConfig.from_dict(read_object(path / RUN_FILE))
    except (InputError, TypeError) as error:
        raise InputError(f"{path / RUN_FILE} is damaged, or of another version of Sightline: {error}") from error
    rows = read_log(path) if (path / LOG_FILE).is_file() else []
    bare = RunResult(name=path.resolve().name, path=path, config=config, rows=rows)
    if (path / RESULT_FILE).is_file():
        return _with_result(bare, read_object(path / RESULT_FILE))
    return _from_log(bare, config)


def read_sweep(path: Path) -> SweepResult:
    """A sweep with all trials that were begun. Raises InputError where there is none, or a file is damaged."""
    if not is_sweep(path):
        raise InputError(f"{path} holds no sweep ({SWEEP_FILE} is missing); give the --output of `sightline sweep`.")
    asked = read_object(path / SWEEP_FILE)
    files = (path / TRIALS_FOLDER).glob(f"*/{TRIAL_FILE}")
    known = sorted(((read_object(file), file.parent) for file in files), key=lambda trial: trial[0].get("number", 0))
    return SweepResult(path=path, asked=asked, trials=tuple(read_trial(folder, values) for values, folder in known))


def read_trial(folder: Path, values: Mapping[str, Any] | None = None) -> RunResult:
    """One trial's folder; `values` is its `trial.json`, where that was read already."""
    values = read_object(folder / TRIAL_FILE) if values is None else values
    state: RunStateName | None = next((name for name in get_args(RunStateName) if name == values.get("state")), None)
    if state is None or not isinstance(values.get("settings"), dict):
        raise InputError(
            f"{folder / TRIAL_FILE} is damaged: a `state` ({', '.join(get_args(RunStateName))}) and `settings` are "
            "expected. Delete the folder, and run the sweep again."
        )
    run = read_run(folder) if is_run(folder) else RunResult(name=folder.name, path=folder, config=None)
    settings = dict(values["settings"])
    if run.config is not None:  # as the config has them: JSON knows no tuples
        for key, value in settings.items():
            owner: Any = run.config.towers if key.startswith("towers.") else run.config
            settings[key] = getattr(owner, key.removeprefix("towers."), value)
    took_s = run.took_s if run.took_s is not None else values.get("took_s")
    return replace(run, settings=settings, state=state, reason=values.get("reason"), took_s=took_s)


def _with_result(run: RunResult, values: Mapping[str, Any]) -> RunResult:
    try:
        return replace(
            run,
            state="stopped" if values["interrupted"] else "complete",
            reason=values["stopped"],
            metrics={str(name): float(value) for name, value in values["metrics"].items()},
            images_seen=int(values["images_seen"]),
            took_s=float(values["took_s"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run.path / RESULT_FILE} is damaged ({error!r}). Delete it and go on with --resume."
        ) from error


def _from_log(run: RunResult, config: TrainConfig) -> RunResult:
    """A run without a result, as it goes on or as versions before results left it."""
    trained = [row for row in run.rows if row["kind"] == "train"]
    last: Row = trained[-1] if trained else {"step": 0, "epoch": 0.0}
    is_done = config.samples_seen is None and last.get("epoch", 0.0) >= config.epochs * (1 - 1e-3) > 0
    return replace(
        run,
        state="complete" if is_done else "running",
        reason=None if is_done else "it is running, or its process died; go on with it (--resume)",
        metrics=_best_of(run.rows, from_start=config.init is not None),
        images_seen=last["step"] * config.batch_size,
    )


def _best_of(rows: Sequence[Row], *, from_start: bool) -> dict[str, float]:
    """The measurement of the weights that were kept: the first of the best ones."""
    measured = [row for row in rows if row["kind"] == "val" and (row["step"] > 0 or from_start)]
    quality = next((name for name in _QUALITIES if measured and name in measured[0]), None)
    if quality is None:
        return {}
    best = max(measured, key=lambda row: row[quality] if row[quality] is not None else -1.0)
    return {name: float(value) for name, value in best.items() if name not in ("step", "kind") and value is not None}


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
        listed = f"The runs have {', '.join(known)}." if known else "No run has any yet."
        raise InputError(f"No run measured {metric!r}. {did_you_mean(metric, known)}{listed}")
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

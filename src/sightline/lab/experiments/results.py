"""Results of runs and sweeps, read from their folders: neither PyTorch nor Optuna is needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sightline.errors import InputError
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.log import LOG_FILE, RESULT_FILE, RUN_FILE, TRIAL_FILE, Row, read_log
from sightline.lab.training.run_folder import PROBE_BEST_FILE, PROBE_START_FILE, Probe, read_probe

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


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises InputError where it is missing or damaged."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: an object is expected, not {type(values).__name__}.")
    return values

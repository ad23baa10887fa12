"""Training runs: what their folders hold, read anew each time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from sightline.errors import InputError, NotFoundError
from sightline.faces.service.job_work import is_text
from sightline.faces.service.schemas import RunAnswer, RunDetailAnswer
from sightline.lab.training.log import LOG_FILE, RESULT_FILE, RUN_FILE, Row, read_log

_MAX_TRAIN_ROWS = 2000


def list_runs(folder: Path) -> list[RunAnswer]:
    """Training runs, the one that wrote last first. One whose files are broken is listed without figures."""
    return [_show_run(name, run) for name, run in find_runs(folder).items()]


def show_run(folder: Path, name: str, *, after: int = 0) -> RunDetailAnswer:
    """One run with its settings and the rows of its log after the first `after`; of many, every n-th is given.

    Raises NotFoundError for an unknown one, InputError for one whose files are broken.
    """
    run = find_runs(folder).get(name)
    if run is None:
        raise NotFoundError(f"There is no training run {name!r} in {folder}.", kind="unknown-run")
    rows = read_rows(run)
    return RunDetailAnswer(
        name=name, **describe(run, rows), config=read_config(run), rows=thin(rows[after:]), next=len(rows)
    )


def _show_run(name: str, run: Path) -> RunAnswer:
    try:
        return RunAnswer(name=name, **describe(run, read_rows(run)))
    except InputError:
        return RunAnswer(name=name, modified_at=modified_text(run))


def find_runs(folder: Path) -> dict[str, Path]:
    """Name -> folder of each training run below a folder, and of that one itself if it is a run; newest first.

    A run's name is its path below the folder. Links are not followed.
    """
    found = {folder.name: folder} if (folder / RUN_FILE).is_file() else {}
    found |= {path.relative_to(folder).as_posix(): path for path in _below(folder, depth=3)}
    return dict(sorted(found.items(), key=lambda run: (-modified_at(run[1]), run[0])))


def _below(folder: Path, depth: int) -> list[Path]:
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:  # a folder that may not be read holds no run to show
        return []
    runs = []
    for path in inner:
        if path.name.startswith(".") or not is_text(path):
            continue
        if (path / RUN_FILE).is_file():
            runs.append(path)
        elif depth > 1:
            runs += _below(path, depth - 1)
    return runs


def modified_at(run: Path) -> float:
    """Time a run last wrote something, in seconds."""
    times = [path.stat().st_mtime for name in (LOG_FILE, RUN_FILE) if (path := run / name).is_file()]
    return max(times, default=0.0)


def modified_text(run: Path) -> str:
    """Time a run last wrote something, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(modified_at(run), UTC).isoformat(timespec="seconds")


def read_config(run: Path) -> dict[str, Any]:
    """A run's settings, of whatever version. Raises InputError where they can't be read."""
    path = run / RUN_FILE
    try:
        if path.stat().st_size > 2**20:
            raise InputError(f"{path} is too large for the settings of a run.")
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: None)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings of a run: an object is expected.")
    return config


def read_rows(run: Path) -> list[Row]:
    """The rows of a run's log so far; none where it hasn't begun. Raises InputError for a broken one."""
    return [_finite(row) for row in read_log(run)] if (run / LOG_FILE).is_file() else []


def describe(run: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Last write of a run, how far it is, and the newest of every number that was measured on held-out pairs."""
    return {
        "modified_at": modified_text(run),
        "step": max((row["step"] for row in rows), default=None),
        "steps": _planned_steps(read_config(run), rows),
        "ended": (run / RESULT_FILE).is_file(),
        "metrics": _newest_metrics(rows),
    }


def thin(rows: Sequence[Row]) -> list[Row]:
    """At most some thousand rows: all but those of kind `train`, of which every n-th and the last stay."""
    train = [index for index, row in enumerate(rows) if row["kind"] == "train"]
    every = math.ceil(len(train) / _MAX_TRAIN_ROWS)
    kept = set(train[:: every or 1]) | set(train[-1:])
    return [row for index, row in enumerate(rows) if row["kind"] != "train" or index in kept]


def _newest_metrics(rows: Sequence[Row]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "val":
            metrics |= {
                f"val_{name}" if "loss" in name else name: float(value)
                for name, value in row.items()
                if name != "step" and _is_number(value)
            }
    return metrics


def _planned_steps(config: Mapping[str, Any], rows: Sequence[Row]) -> int | None:
    """Number of steps the run will have: by its samples, else by its epochs, whose length the log's last row tells."""
    samples, batch_size = config.get("samples_seen"), config.get("batch_size")
    if _is_number(samples) and _is_number(batch_size) and batch_size > 0:
        return max(1, round(samples / batch_size))
    epochs = config.get("epochs")
    for row in reversed(rows):
        epoch = row.get("epoch")
        if row["kind"] == "train" and _is_number(epoch) and epoch > 0 and _is_number(epochs):
            return max(int(row["step"]), round(float(epochs * row["step"] / epoch)))
    return None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(row: Mapping[str, Any]) -> Row:
    """JSON has no NaN and no infinity, though Python reads them."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }

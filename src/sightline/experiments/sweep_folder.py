"""The folder of a sweep: what it was asked, and what it knows of each trial, as JSON that any reader understands."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.locks import hold_lock
from sightline.errors import InputError, TrainingError
from sightline.experiments.grid import short_text
from sightline.experiments.results import SWEEP_FILE, TRIALS_FOLDER, RunStateName, is_run, read_object
from sightline.training.journal import TRIAL_FILE
from sightline.training.run_folder import write_json

_LOCK_FILE = "sweep.lock"
_LONGEST_NAME = 60
_ADVICE = "Make room, and run the same command again."
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = [entry.name for entry in self.path.iterdir() if entry.name not in (_LOCK_FILE, SWEEP_FILE)]
        except OSError as error:
            raise InputError(f"The sweep's folder {self.path} can't be written: {error.strerror}.") from error
        if others and not (self.path / SWEEP_FILE).is_file():
            raise InputError(f"{self.path} isn't empty and holds no sweep. Give a new folder as --output.")
        with hold_lock(self.path / _LOCK_FILE):
            yield

    def read(self) -> dict[str, Any] | None:
        """What the sweep was asked; None where it is new."""
        path = self.path / SWEEP_FILE
        return read_object(path) if path.is_file() else None

    def write(self, asked: Mapping[str, Any]) -> None:
        """Write down what the sweep is asked. Raises TrainingError where the disk is full."""
        write_json(self.path / SWEEP_FILE, asked, advice=_ADVICE)

    @contextlib.contextmanager
    def undone_on_error(self, *, new: bool) -> Iterator[None]:
        """A new sweep whose storage can't be opened leaves nothing behind, so that it can be tried again."""
        try:
            yield
        except BaseException:
            if new:
                (self.path / SWEEP_FILE).unlink(missing_ok=True)
            raise

    def trial_path(self, number: int, cell: Mapping[str, Any]) -> Path:
        """Where a trial's run lies: its number and its settings, as far as a name can hold them."""
        name = "-".join(f"{key.removeprefix('towers.')}={short_text(value)}" for key, value in cell.items())
        return self.path / TRIALS_FOLDER / f"{number:03d}-{_UNSAFE.sub('_', name)[:_LONGEST_NAME].rstrip('-_.')}"


def make_identity() -> str:
    """What tells this folder's trials from those of another folder in the same storage."""
    return uuid.uuid4().hex


class TrialNote:
    """`trial.json` of one trial: what the sweep knows of it, written anew whenever that changes."""

    def __init__(self, folder: Path, known: Mapping[str, Any]) -> None:
        """Go on with what earlier sessions took; `known` is what doesn't change. Raises TrainingError as `write`."""
        self._path, self._known = folder / TRIAL_FILE, known
        self._before_s = float(read_object(self._path).get("took_s") or 0.0) if self._path.is_file() else 0.0
        self._started_s = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{folder} can't be made: {error.strerror}. Then run the same command again."
            ) from error

    @property
    def took_s(self) -> float:
        """Seconds of all sessions until now."""
        return round(self._before_s + time.monotonic() - self._started_s, 2)

    def write(self, state: RunStateName, *, reason: str | None = None, value: float | None = None, **more: Any) -> None:
        """Write it, whole or not at all. Raises TrainingError where the disk is full."""
        now = {"state": state, "reason": reason, "value": value, "took_s": self.took_s}
        write_json(self._path, {**self._known, **now, **more}, advice=_ADVICE)

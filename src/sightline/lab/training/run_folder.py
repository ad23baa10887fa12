"""The folder of a run: its config, what it may be resumed with, and the model that it is at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import InputError, TrainingError
from sightline.lab.training.checkpoint import newest_checkpoint
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.journal import RESULT_FILE, RUN_FILE, TRIAL_FILE

CURVES_FILE = "curves.png"

_FREE = ("keep_checkpoints", "log_steps", "patience")
"""Settings that a resumed run may change: they don't decide its weights."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """`run.json` and `checkpoints/`, a log, curves, and beside them a model folder with the best weights so far."""

    path: Path

    def start(self, config: TrainConfig) -> None:
        """Write the config of a new run. Raises InputError where the folder holds something already."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; --output must name a folder.")
        if (self.path / RUN_FILE).is_file():
            raise InputError(
                f"{self.path} holds a run already. Go on with it: --resume. Or give another --output; a run is never "
                "overwritten."
            )
        if self.path.is_dir() and any(entry.name != TRIAL_FILE for entry in self.path.iterdir()):
            raise InputError(f"{self.path} isn't empty and holds no run. Give a new folder as --output.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config.to_dict(), indent=2) + "\n"
            (self.path / RUN_FILE).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"The run's folder {self.path} can't be written: {error.strerror}.") from error

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """A run that can't be prepared leaves nothing behind, so that it can be tried again."""
        try:
            yield
        except BaseException:
            for name in (RUN_FILE, "tokenizer.json"):
                (self.path / name).unlink(missing_ok=True)
            raise

    def read_config(self) -> TrainConfig:
        """The config of the run that is here. Raises InputError where there is none."""
        path = self.path / RUN_FILE
        if not path.is_file():
            raise InputError(f"{self.path} holds no run ({RUN_FILE} is missing); leave --resume out to start one.")
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}.") from error
        return TrainConfig.from_dict(values)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Write what came of the run, whole or not at all. Raises TrainingError where the disk is full."""
        advice = "The weights are whole: make room and go on with --resume."
        write_json(self.path / RESULT_FILE, values, advice=advice)

    def forget_result(self) -> None:
        """What is written there holds no more: the run goes on."""
        (self.path / RESULT_FILE).unlink(missing_ok=True)

    def check_resumable(self, config: TrainConfig) -> Path | None:
        """The newest checkpoint of the run that is here, None where it was stopped before its first.

        Raises TrainingError where `config` isn't the run's own.
        """
        before, now = self.read_config().to_dict(), config.to_dict()
        changed = [key for key in now if now[key] != before[key] and key not in _FREE]
        if changed:
            listed = ", ".join(f"{key} was {before[key]!r}, is now {now[key]!r}" for key in changed[:3])
            raise TrainingError(
                f"A run goes on with the settings it began with; {listed}. Only {', '.join(_FREE)} may change. Start "
                f"another run with --init dir:{self.path} to train these weights further in another way."
            )
        return newest_checkpoint(self.path)


def write_json(path: Path, values: Mapping[str, Any], *, advice: str) -> None:
    """Write a file of a run or a sweep, whole or not at all. Raises TrainingError, with advice, where it can't be."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} can't be written: {error.strerror}. {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)

"""What a run writes down while it goes on: JSON lines that outlive a crash, and TensorBoard beside them."""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sightline.errors import InputError, TrainingError, install_advice

LOG_FILE = "log.jsonl"
RUN_FILE = "run.json"
"""The run's settings, which stand beside its log; named here, where those that only look at runs need no PyTorch."""
RESULT_FILE = "result.json"
"""What came of the run, beside them; missing while it goes on."""
TRIAL_FILE = "trial.json"
"""What a sweep knows of the run; there before it."""
TENSORBOARD_FOLDER = "tensorboard"
TENSORBOARD_MISSING = f"No TensorBoard log: it needs the extra train ({install_advice('train')}); log.jsonl has all."

Row = dict[str, Any]
"""One line of the log: `step` and `kind` (`train`, `val`, `alarm`, ...) and what they showed."""


class Journal:
    """The log of one run: `log.jsonl` and `tensorboard/` in its folder. Close it, or use it as a context manager.

    `step` counts updates done, so the row of the first update has step 1 and what was measured before it step 0.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Begin a log, or go on with one after `resume_step`: later rows, of steps that will come again, are cut off.

        Raises:
            TrainingError: the folder has a log already and nothing is resumed, or it can't be written.
            InputError: the log to go on with is broken.
        """
        self.path = folder / LOG_FILE
        with _explained(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            if resume_step is not None:
                _cut(self.path, resume_step)
            elif self.path.exists() and self.path.stat().st_size:
                raise TrainingError(
                    f"{self.path} holds the log of another run. Go on with it (--resume), or take another --output."
                )
            self._file = self.path.open("a", encoding="utf-8")
        self._board = _open_board(folder / TENSORBOARD_FOLDER, resume_step, notice) if tensorboard else None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One row, on disk when this returns; numbers go to TensorBoard too, as `kind/name`.

        A number that isn't finite becomes null, since JSON has none such. Raises TrainingError where the disk is full.
        """
        if taken := {"step", "kind"} & set(values):
            raise InputError(f"{', '.join(sorted(taken))} can't be a value of a row; every row has its own.")
        row = {"step": step, "kind": kind, **{name: _as_json(value) for name, value in values.items()}}
        with _explained(self.path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if _is_number(value):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write out what is left."""
        with _explained(self.path):
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[Row]:
    """The rows of a run's folder, or of its log file; a last line that a crash broke off is left out.

    Raises:
        InputError: there is no log, or a line before the last isn't a row.
    """
    path = path / LOG_FILE if path.is_dir() else path
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}. A run's folder has a {LOG_FILE}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise InputError(
                f"{path}:{number} isn't a row of a log: an object with an integer `step` and a `kind` is expected."
            )
    return rows


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    good = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return row if good else None


def _cut(path: Path, resume_step: int) -> None:
    """Keep the rows up to a step; the file is replaced whole, so that a crash here leaves the old one."""
    if not path.exists():
        return
    kept = [row for row in read_journal(path) if row["step"] <= resume_step]
    _replace(path, (json.dumps(row) + "\n" for row in kept))


def _replace(path: Path, lines: Iterable[str]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A disk's refusal as an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} can't be written: {error.strerror}. Make room or correct its permissions; go on with --resume."
        ) from error


def _open_board(folder: Path, resume_step: int | None, notice: Callable[[str], None]) -> Any:
    """TensorBoard's writer, which hides its rows after `resume_step`; None, with a notice, where it isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        notice(TENSORBOARD_MISSING)
        return None
    writer: Any = SummaryWriter  # not typed
    return writer(str(folder), purge_step=None if resume_step is None else resume_step + 1, flush_secs=30)


def _is_number(value: Any) -> bool:
    """Also numpy's numbers, but no truth values."""
    return isinstance(value, numbers.Real) and value is not True and value is not False


def _as_json(value: Any) -> Any:
    """Numbers of numpy become Python's, and what isn't finite None."""
    if not _is_number(value):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None

"""Progress of long runs, on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_EVERY_S = 10.0
_FORMAT = "{desc}: {n_fmt}/{total_fmt} |{bar}| "
"""The note follows, with rate and time left: those who count know what the time is spent on."""


class ProgressBar:
    """Counts things done, with rate and time left. Quiet where nobody asked for progress."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._total: int | None = None
        self._bar: tqdm[None] | None = None
        self._next_line_s = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Say how far it is: `done` of `total`, with a few words."""
        self._total = total if total is not None else self._total
        if sys.stderr.isatty():
            self._draw(done, note)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LINE_EVERY_S
            of = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self._what}: {done:,}{of} {note}".rstrip(), file=sys.stderr, flush=True)

    def _draw(self, done: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._what, total=self._total, leave=False, dynamic_ncols=True)
        self._bar.total = self._total
        self._bar.bar_format = _FORMAT + note.replace("{", "").replace("}", "")
        self._bar.update(done - self._bar.n)

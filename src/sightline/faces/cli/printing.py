"""The output of commands: data on stdout as JSON or tables, notices and progress on stderr, figures in files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from sightline.errors import InputError
from sightline.kit.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

    from sightline.lab.evaluation.results import Problem

_NAMED = 5
"""Pictures that were left out and are named one by one."""
_LINE_EVERY_S = 10.0
_FORMAT = "{desc}: {n_fmt}/{total_fmt} |{bar}| "
"""The note follows, with rate and time left: those who count know what the time is spent on."""


def print_json(value: object) -> None:
    """One object on one line; bytes of file names that are not UTF-8 come out as \\udcXX escapes."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(value, default=str)
    click.echo(line)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, line: tuple[str, int] | None = None) -> None:
    """Columns aligned to the left, numbers to the right; the last column is never padded.

    `line` is a text that stands between rows, and after how many of them.
    """
    lines = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(headings, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:])) for column in columns]
    for number, cells in enumerate((headings, *lines)):
        if line is not None and number == line[1] + 1:
            click.echo(click.style(f"-- {line[0]} --", dim=True))
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        shown = "  ".join(padded).rstrip()
        click.echo(click.style(shown, bold=True) if cells is headings else shown)


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("-+").replace(".", "", 1).replace(",", "").rstrip("%").isdecimal()


def notice(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def write_figures(path: Path, values: Mapping[str, Any]) -> None:
    """Figures as JSON. Raises InputError with the figures themselves where the file can't be written."""
    try:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}. The figures: {json.dumps(values)}") from error


def end_by_problems(problems: Sequence[Problem]) -> None:
    """Name pictures that were left out, and end with exit code 1 where there are some."""
    for problem in problems[:_NAMED]:
        notice(f"left out {printable(problem.id)}: {problem.reason}")
    if len(problems) > _NAMED:
        notice(f"... and {len(problems) - _NAMED:,} more")
    if problems:
        notice(f"{len(problems):,} pictures could not be read and are not in these figures.")
        raise SystemExit(1)


class ProgressBar:
    """Progress of a long run on stderr: a bar at a terminal, a line now and then elsewhere."""

    def __init__(self, what: str = "") -> None:
        self.what = what
        self._total: int | None = None
        self._bar: tqdm[None] | None = None
        self._next_line_s = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, what: str) -> None:
        """Go over to a bar for another thing; nothing where it is this one already."""
        if what != self.what:
            self.__exit__()
            self.what, self._total, self._bar = what, None, None
            self._next_line_s = time.monotonic() + _LINE_EVERY_S

    def show(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far it is: `done` of `total`, with a few words."""
        self._total = total if total is not None else self._total
        if sys.stderr.isatty():
            self._draw(done, note)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LINE_EVERY_S
            of = f" of {self._total:,}" if self._total is not None else ""
            print(f"{self.what}: {done:,}{of} {note}".rstrip(), file=sys.stderr, flush=True)

    def _draw(self, done: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self.what, total=self._total, leave=False, dynamic_ncols=True)
        self._bar.total = self._total
        self._bar.bar_format = _FORMAT + note.replace("{", "").replace("}", "")
        self._bar.update(done - self._bar.n)

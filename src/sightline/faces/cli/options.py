"""The common parts of commands: groups, options, printing, progress, and the telling of figures and what they lack."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from sightline.kit.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

    from sightline.lab.evaluation.results import Problem

Command = TypeVar("Command", bound=Callable[..., Any])
Settings = TypeVar("Settings")

_PRECISION = "SIGHTLINE_PRECISION"
_NAMED = 5
"""Pictures that were left out and are named one by one."""
_WHOLE = 1_000
"""More characters than any summary has."""

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)
NUMBER = click.IntRange(min=0)


class CommandGroup(click.Group):
    """A group whose help shows each command's summary whole, wrapped where it is long, by sections if it has some."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sections: dict[str, tuple[click.Command, ...]] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Commands that stand together in the help, in this order."""
        self._sections[heading] = commands
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, their columns aligned with each other."""
        sections = self._sections or {"Commands": tuple(self.commands[name] for name in self.list_commands(ctx))}
        width = max(len(name) for name in self.commands)
        for heading, commands in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(str(c.name).ljust(width), c.get_short_help_str(_WHOLE)) for c in commands])


library_option = click.option(
    "--library",
    "library_dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The library's folder [default: $SIGHTLINE_LIBRARY, else one in your data folder].",
)
model_option = click.option(
    "--model", metavar="NAME", help="The model, such as starter, ViT-B-32/openai or dir:PATH [default: the library's]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
where_option = click.option(
    "--where", metavar="FILTER", help="Only these images, as in: taken_at > '2024-01-01' and path like '%holiday%'"
)
chat_url_option = click.option(
    "--chat-url", metavar="URL", help="Of a chat endpoint, as in https://host/v1 [default: $SIGHTLINE_CHAT_URL]."
)
figures_option = click.option("-o", "--output", type=FILE, metavar="FILE", help="Keep the JSON.")
captioner_option = click.option(
    "--captioner", metavar="NAME", help="The generator of captions [default: blip-base or the starter]."
)


def _set_precision(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Hand the option to `config.precision()`, for this command and the processes that it starts."""
    if value is None:
        return
    before = os.environ.get(_PRECISION)
    os.environ[_PRECISION] = value
    context.call_on_close(
        lambda: os.environ.pop(_PRECISION) if before is None else os.environ.update({_PRECISION: before})
    )


precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "int8"]),
    expose_value=False,
    callback=_set_precision,
    help="Of models: auto is int8 where it passed a gate on your pictures [default: $SIGHTLINE_PRECISION, else auto].",
)


def choice_option(name: str, *values: str, default: str | None = None, **facts: Any) -> Callable[[Command], Command]:
    """One of some values; the first where none is given, unless another is the default."""
    return click.option(name, type=click.Choice(values), default=default or values[0], show_default=True, **facts)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def take_fields(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """A dataclass made of the options that are called as its fields are."""
    return kind(**{name: options[name] for name in inspect.signature(kind).parameters if name in options})


def print_json(value: object) -> None:
    """One object on one line; bytes of file names that are not UTF-8 come out as \\udcXX escapes."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(value, default=str)
    click.echo(line)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns aligned to the left, numbers to the right; the last column is never padded."""
    lines = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(headings, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:])) for column in columns]
    for cells in (headings, *lines):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        line = "  ".join(padded).rstrip()
        click.echo(click.style(line, bold=True) if cells is headings else line)


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("-+").replace(".", "", 1).replace(",", "").rstrip("%").isdecimal()


def notice(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def require_folder_of(path: Path | None, *, option: str) -> None:
    """Refuse a file whose folder isn't there, before hours are spent on what it is to hold."""
    if path is not None and not path.parent.is_dir():
        raise click.UsageError(f"{option}: the folder {path.parent} doesn't exist.")


def write_figures(path: Path, values: Mapping[str, Any]) -> None:
    """Figures as JSON. Raises InputError with the figures themselves where the file can't be written."""
    from sightline.errors import InputError

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


_LINE_EVERY_S = 10.0
_FORMAT = "{desc}: {n_fmt}/{total_fmt} |{bar}| "
"""The note follows, with rate and time left: those who count know what the time is spent on."""


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

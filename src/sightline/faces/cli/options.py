"""What commands share: options, the two ways of printing, and how figures and what they leave out are told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.evaluation.results import Problem

Command = TypeVar("Command", bound=Callable[..., Any])

_PRECISION = "SIGHTLINE_PRECISION"
_NAMED = 5
"""Pictures that were left out and are named one by one."""

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


def top_option(default: int) -> Callable[[Command], Command]:
    """`-t/--top`, the number of results."""
    return click.option(
        "-t", "--top", type=click.IntRange(min=1), default=default, show_default=True, help="Number of results."
    )


def print_json(value: object) -> None:
    """One object on one line; bytes of file names that are not UTF-8 come out as \\udcXX escapes."""
    click.echo(json.dumps(value, ensure_ascii=not _is_plain(value), default=str))


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns aligned to the left, numbers to the right; the last column is never padded."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *lines, strict=True)]
    click.echo(click.style(_line(headings, widths, lines), bold=True))
    for line in lines:
        click.echo(_line(line, widths, lines))


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


def _line(cells: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[str]]) -> str:
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(cells))]
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("-+").replace(".", "", 1).replace(",", "").rstrip("%").isdecimal()

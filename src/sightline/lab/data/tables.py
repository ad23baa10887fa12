"""CSV and TSV tables of image paths and captions, with open_clip's column names `filepath` and `title`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, Split
from sightline.lab.data.captioned_files import (
    CaptionedFiles,
    ImageFolder,
    check_name,
    find_split_paths,
    first_line,
    list_some,
    parse_split,
    read_lines,
    split_named,
)

COLUMNS = ("filepath", "title")
SPLIT_COLUMN = "split"
DELIMITERS = "\t,;"
_SUFFIXES = (".csv", ".tsv")


class TableReader:
    """A table, or a folder of them; several rows of one image add captions; other columns are ignored.

    A column `split` decides where it is there; else a table's name (`train.csv`, `val.tsv`); else all is train.
    Relative paths start at the table's folder. Absolute ones are allowed: open_clip's tables and those that
    `sightline caption` writes have them.
    """

    kind = "csv"

    def recognises(self, path: Path) -> bool:
        """True where a file, or one in a folder, is a table with both columns."""
        return bool(_find_tables(path))

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split.

        Raises InputError for wrong columns (with those found), a broken row (with its line), several tables that could
        be meant, an image in two splits, and images that have captions but are absent.
        """
        root = path.parent if is_file(path) else path
        return _read(path).to_dataset(name=f"csv:{path}", split=split, folder=ImageFolder(root))

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that are there."""
        return _read(path).splits()


def _read(path: Path) -> CaptionedFiles:
    tables = _choose_tables(path)
    files = CaptionedFiles(path)
    for table in tables:
        _add_table(files, table)
    return files


def _choose_tables(path: Path) -> list[Path]:
    if is_file(path):
        return [path]
    tables = _find_tables(path)
    if by_split := find_split_paths(tables):
        return list(by_split.values())
    if not tables:
        others = sorted(file.name for suffix in _SUFFIXES for file in path.glob(f"*{suffix}"))
        there = f"; {list_some(others)} has other columns" if others else ""
        raise InputError(f"{path} has no CSV or TSV with the columns {' and '.join(COLUMNS)}{there}.")
    if len(tables) > 1:
        names = [table.name for table in tables]
        raise InputError(f"{path} has {len(tables)} tables: {list_some(names)}. Give one of them: csv:{tables[0]}")
    return tables


def _find_tables(path: Path) -> list[Path]:
    files = [path] if is_file(path) else [file for suffix in _SUFFIXES for file in path.glob(f"*{suffix}")]
    return sorted(file for file in files if file.suffix.lower() in _SUFFIXES and _delimiter(file))


def _delimiter(path: Path) -> str | None:
    found = [find_delimiter(path, (column,)) for column in COLUMNS]
    return found[0] if found[0] == found[1] else None


def find_delimiter(path: Path, columns: Sequence[str]) -> str | None:
    """The character between the cells of a table whose header has one of some columns; None for another file."""
    header = first_line(path)
    for delimiter in DELIMITERS:
        if not {name.strip('" ') for name in header.split(delimiter)}.isdisjoint(columns):
            return delimiter
    return None


def _add_table(files: CaptionedFiles, path: Path) -> None:
    delimiter = _delimiter(path)
    if delimiter is None:
        header = first_line(path)
        found = max((header.split(delimiter) for delimiter in DELIMITERS), key=len)
        shown = ", ".join(repr(name[:40]) for name in found[:8])
        for _ in read_lines(path):  # an empty file, or one that isn't UTF-8, is told as such
            break
        raise InputError(
            f"{path}:1: the columns are {shown}; {' and '.join(COLUMNS)} were expected, {SPLIT_COLUMN} may be."
        )
    table_split = split_named(path.stem) or "train"
    for line, row in read_rows(path, delimiter=delimiter):
        where = f"{path}:{line}"
        name = check_name(row["filepath"], where=where, absolute=True)
        split = parse_split(row[SPLIT_COLUMN], where=where) if SPLIT_COLUMN in row else table_split
        files.add(name, (row["title"],), where=where, split=split)


def read_rows(path: Path, *, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by column, with its line. Raises InputError for a row of another width or with broken quotes."""
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in read_lines(path):  # noqa: B007 - read below: a quoted cell may run over several lines
            yield f"{line}\n"

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if len(row) != len(header):
                raise InputError(
                    f"{path}:{number}: {len(row)} cells where the header has {len(header)}. "
                    "A cell that holds the delimiter or a line end must stand in double quotes."
                )
            yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{number}: {error}. Write a quote within a quoted cell twice.") from error


READER = TableReader()

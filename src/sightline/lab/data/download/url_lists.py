"""Lists of pictures' addresses with a caption each: tab-separated as Conceptual Captions publishes them, or CSV."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sightline.errors import InputError

_URL_NAMES = ("url", "image_url", "image url")
_CAPTION_NAMES = ("caption", "text", "title")
_LONGEST_CAPTION = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlRow:
    """One row of a list; `problem` says why it can't be used."""

    row: int
    """From 0, without the heading."""
    url: str
    caption: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class UrlList:
    """A file whose columns are known. Iterating reads it anew."""

    path: Path
    url_column: int
    caption_column: int
    n_columns: int
    has_heading: bool
    n_rows: int
    sha256: str

    def __iter__(self) -> Iterator[UrlRow]:
        """The rows in order."""
        for row, fields in enumerate(islice(_read_fields(self.path), int(self.has_heading), None)):
            yield self._make_row(row, fields)

    def _make_row(self, row: int, fields: Sequence[str]) -> UrlRow:
        if len(fields) != self.n_columns:
            return UrlRow(row=row, url="", caption="", problem="wrong number of columns")
        url, caption = fields[self.url_column].strip(), " ".join(fields[self.caption_column].split())
        problem = None
        if any("\udc80" <= char <= "\udcff" for char in caption + url):
            problem = "not UTF-8"
        elif not caption:
            problem = "no caption"
        elif len(caption) > _LONGEST_CAPTION:
            problem = f"caption of more than {_LONGEST_CAPTION} characters"
        return UrlRow(row=row, url=url, caption=caption, problem=problem)


def open_url_list(path: Path) -> UrlList:
    """Find out which column holds addresses and which captions: by a heading's names, or by the first row's content.

    The whole file is read once, to count and to hash it. Raises InputError where it can't be read, has other columns,
    or no rows.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        first = next(_read_fields(path), None)
        if first is None:
            raise InputError(f"{path} is empty; one row a picture is expected: an address and a caption.")
        url_column, caption_column, has_heading = _find_columns(path, first)
        n_rows = sum(1 for _ in _read_fields(path)) - int(has_heading)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}. Give the list with --list FILE.") from error
    return UrlList(
        path=path,
        url_column=url_column,
        caption_column=caption_column,
        n_columns=len(first),
        has_heading=has_heading,
        n_rows=n_rows,
        sha256=sha256,
    )


def _find_columns(path: Path, first: Sequence[str]) -> tuple[int, int, bool]:
    names = [field.strip().lower() for field in first]
    url = next((names.index(name) for name in _URL_NAMES if name in names), None)
    caption = next((names.index(name) for name in _CAPTION_NAMES if name in names), None)
    if url is not None and caption is not None:
        return url, caption, True
    looks = [name.startswith(("http://", "https://")) for name in names]
    if len(first) == 2 and sum(looks) == 1:
        return looks.index(True), looks.index(False), False
    separator = "commas" if path.suffix.lower() == ".csv" else "tabs"
    raise InputError(
        f"{path}, line 1: no column of addresses and one of captions in {len(first)} columns separated by {separator}. "
        f"Give two columns, one of them starting with http, or a heading with {' or '.join(_URL_NAMES[:2])} and "
        f"{' or '.join(_CAPTION_NAMES)}."
    )


def _read_fields(path: Path) -> Iterator[list[str]]:
    """Quotes mean something in .csv only: Conceptual Captions' captions hold single ones."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix.lower() == ".csv":
            try:
                yield from (fields for fields in csv.reader(file, strict=True) if fields)
            except csv.Error as error:
                raise InputError(f"{path} is no valid CSV: {error}.") from error
        else:
            yield from (line.rstrip("\r\n").split("\t") for line in file if line.strip())

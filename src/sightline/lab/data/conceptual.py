"""Conceptual Captions: lists of captions and URLs as Google publishes them, and the shards that these become.

Such a list may also come from anybody: tab-separated, or CSV.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, Split
from sightline.lab.data.captioned_files import first_line
from sightline.lab.data.webdataset import READER as WEBDATASET

_URL_NAMES = ("url", "image_url", "image url")
_CAPTION_NAMES = ("caption", "text", "title")
_LONGEST_CAPTION = 10_000


class ConceptualReader:
    """CC3M and CC12M: a TSV of caption and URL (either first), and the webdataset shards downloaded from it.

    The path is a folder with shards, with or without its list, or a list that has shards beside it.
    """

    kind = "cc"

    def recognises(self, path: Path) -> bool:
        """True where a file, or one in a folder, is such a list."""
        return any(_is_list(path) for path in _tables(path))

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split of the shards, as `webdataset` does.

        Raises InputError for a list with other columns, for a list whose images were not downloaded (with the
        command that does), and what a damaged shard raises.
        """
        self._require_shards(path)
        return replace(WEBDATASET.load(_shards_of(path), split=split), name=f"cc:{path}")

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that there are shards of."""
        self._require_shards(path)
        return WEBDATASET.splits(_shards_of(path))

    def _require_shards(self, path: Path) -> None:
        tables = _tables(path)
        if WEBDATASET.recognises(_shards_of(path)):
            return
        if not tables:
            raise InputError(
                f"{path} holds neither shards (00000.tar, ...) nor a list of captions and URLs such as "
                "Train_GCC-training.tsv. Get them with: sightline data get cc3m FOLDER"
            )
        n_rows = sum(UrlList(table).n_rows for table in tables)
        name = "cc12m" if "12m" in tables[0].name.lower() else "cc3m"
        raise InputError(
            f"{path} lists {n_rows:,} images by URL, and none is downloaded: there are no shards (00000.tar, ...) in "
            f"{_shards_of(path)}. Download them first: "
            f"sightline data get {name} {_shards_of(path)} --list {tables[0]}"
        )


def _shards_of(path: Path) -> Path:
    return path.parent if is_file(path) and path.suffix == ".tsv" else path


def _tables(path: Path) -> list[Path]:
    if is_file(path):
        return [path] if path.suffix == ".tsv" else []
    return sorted(path.glob("*.tsv"))


def _is_list(path: Path) -> bool:
    """True where the first row has two cells of which one is a URL, or is a heading of such."""
    cells = [cell.strip().lower() for cell in first_line(path).split("\t")]
    urls = [cell.startswith(("http://", "https://")) for cell in cells]
    return len(cells) == 2 and (sum(urls) == 1 or {*cells} == {"url", "caption"})


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlRow:
    """One row of a list; `problem` says why it can't be used."""

    row: int
    """From 0, without the heading."""
    url: str
    caption: str
    problem: str | None = None


class UrlList:
    """A list of addresses and captions. Iterating reads it anew.

    Which column holds which is known by a heading's names, or by the first row's content. The file is read once at
    first, to count its rows and to hash it. Raises InputError where it can't be read, has other columns, or no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            first = next(_read_fields(path), None)
            if first is None:
                raise InputError(f"{path} is empty; one row a picture is expected: an address and a caption.")
            self._n_columns = len(first)
            self.url_column, self.caption_column, self._has_heading = _find_columns(path, first)
            self.n_rows = sum(1 for _ in _read_fields(path)) - int(self._has_heading)
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}. Give the list with --list FILE.") from error

    def __iter__(self) -> Iterator[UrlRow]:
        for row, fields in enumerate(islice(_read_fields(self.path), int(self._has_heading), None)):
            yield self._make_row(row, fields)

    def _make_row(self, row: int, fields: Sequence[str]) -> UrlRow:
        if len(fields) != self._n_columns:
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


READER = ConceptualReader()

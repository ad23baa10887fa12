"""All captions in one growing file: JSONL with everything, or CSV for training.

Every record is written at once and ends with a newline. What follows the last whole record is what a killed run left;
it is cut off when the file is opened again.
"""

from __future__ import annotations

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from sightline.core.captioning.dual import DualCaption
from sightline.core.captioning.writers import CaptionWriter, Existing, explain_write_errors, make_record
from sightline.errors import InputError

CSV_COLUMNS = ("filepath", "title", "similarity", "log_prob", "source", "model")
"""The first two are open_clip's own names; it reads the file with `--csv-separator ,`. Files of 0.1 lack the last."""


class LineWriter(CaptionWriter):
    """Appends a record for each image to a file, and knows which images it holds."""

    def __init__(self, path: Path, *, existing: Existing) -> None:
        if path.is_dir():
            raise InputError(f"{path} is a folder; captions go to one file, such as {path / 'captions.jsonl'}")
        if existing == "refuse" and path.exists() and path.stat().st_size > 0:
            raise InputError(f"{path} exists. Go on with it with --skip-existing, or write it anew with --overwrite.")
        self._path = path
        self._file: FileIO | None = None
        self._done: set[str] = set()
        self._length = 0
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()  # whether it can be written is known before the first caption is made
            if existing == "skip":
                with path.open("rb") as file:
                    self._done, self._length = self._scan(file)

    @abstractmethod
    def _scan(self, file: BinaryIO) -> tuple[set[str], int]:
        """Paths of the whole records, and how many bytes these take. Raises InputError for a file of another kind."""

    @abstractmethod
    def _encode(self, caption: DualCaption) -> bytes:
        """One record with its newline."""

    def _head(self) -> bytes:
        """What a new file begins with."""
        return b""

    def has(self, path: Path) -> bool:
        """Whether the file holds this photo's captions."""
        return str(path.absolute()) in self._done

    def write(self, caption: DualCaption) -> None:
        """Append one record; where the disk is full, the file is left with whole records only.

        The first record opens the file: what was there is not touched before there is something to put in its place.
        """
        record = self._encode(caption)
        if self._file is None:
            self._file = self._open()
        self._append(self._file, record if self._length else self._head() + record)
        self._done.add(str(caption.path.absolute()))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> FileIO:
        with explain_write_errors(self._path):
            # Unbuffered: a record is on its way to the disk when `write` returns, and close() has nothing left to fail.
            file = self._path.open("r+b", buffering=0)
            file.truncate(self._length)
            file.seek(self._length)
        return file

    def _append(self, file: FileIO, record: bytes) -> None:
        rest = memoryview(record)
        with explain_write_errors(self._path):
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(self._length)
                    file.seek(self._length)
                raise
        self._length += len(record)

    def _refuse_content(self, number: int, what: str) -> InputError:
        return InputError(
            f"{self._path}, record {number}: {what}. Name another file, or write this one anew with --overwrite."
        )


class JsonlWriter(LineWriter):
    """One JSON object a line, as `make_record` makes them; bytes that aren't UTF-8 in names are \\udcXX escapes."""

    def _encode(self, caption: DualCaption) -> bytes:
        line = json.dumps(make_record(caption), ensure_ascii=False)
        # A surrogate can only stand inside a string, where its backslash escape is JSON's own.
        return line.encode("utf-8", "backslashreplace") + b"\n"

    def _scan(self, file: BinaryIO) -> tuple[set[str], int]:
        done: set[str] = set()
        length = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                done.add(str(json.loads(line)["path"]))
            except (ValueError, KeyError, TypeError) as error:
                raise self._refuse_content(number, "this is no caption of Sightline's") from error
            length += len(line)
        return done, length


class CsvWriter(LineWriter):
    """Columns `filepath`, `title` (the best caption), `similarity`, `log_prob`, `source`, `model`; UTF-8."""

    _columns: tuple[str, ...] = CSV_COLUMNS

    def _head(self) -> bytes:
        return _encode_row(CSV_COLUMNS)

    def refusal(self, path: Path) -> str | None:
        """Names that are no UTF-8: one such line would make the whole file unreadable to others."""
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            return "its name isn't UTF-8, which CSV can't hold; rename it or write JSONL"
        return None

    def _encode(self, caption: DualCaption) -> bytes:
        if reason := self.refusal(caption.path):
            raise InputError(f"The caption of {str(caption.path)!r} can't be kept: {reason}.")
        best = caption.best
        numbers = ["" if value is None else f"{value:.6f}" for value in (best.similarity, best.log_prob)]
        row = (str(caption.path.absolute()), best.text, *numbers, best.source, best.model or "")
        return _encode_row(row[: len(self._columns)])

    def _scan(self, file: BinaryIO) -> tuple[set[str], int]:
        done: set[str] = set()
        length = 0
        for number, record in enumerate(_whole_records(file), start=1):
            row = self._parse(record, number)
            if number > 1:
                done.add(row[0])
            length += len(record)
        return done, length

    def _parse(self, record: bytes, number: int) -> list[str]:
        try:
            row = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._refuse_content(number, "this is no caption of Sightline's") from error
        if number == 1:
            if tuple(row) not in (CSV_COLUMNS, CSV_COLUMNS[:-1]):
                raise self._refuse_content(1, f"its columns aren't {','.join(CSV_COLUMNS)}")
            self._columns = tuple(row)
        if len(row) != len(self._columns):
            raise self._refuse_content(number, f"it has {len(row)} columns, not {len(self._columns)}")
        return row


def _encode_row(row: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(row)  # it quotes only what is in its line terminator
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


def _whole_records(file: BinaryIO) -> Iterator[bytes]:
    """Records that end with a newline outside quotes: file names may hold newlines themselves."""
    record = b""
    for line in file:
        record += line
        if line.endswith(b"\n") and record.count(b'"') % 2 == 0:
            yield record
            record = b""

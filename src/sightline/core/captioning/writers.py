"""Captions in files: a text beside each image, or all in one growing file (JSONL with everything, CSV for training).

A run that was killed is continued: what is written stays, a line that was cut is taken back, and images that have
their caption are passed over. Nothing that exists is overwritten unasked. A line is written at once and ends with a
newline; what follows the last whole one is what a killed run left, and is cut off when the file is opened again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from sightline.core.captioning.dual import CaptionFailure, DualCaption
from sightline.core.images.files import is_image_name
from sightline.core.types import Caption
from sightline.errors import InputError, StoreError

Format = Literal["txt", "jsonl", "csv"]
Existing = Literal["refuse", "skip", "replace"]
"""Ways with captions that are there already: raise InputError, keep them, or write them anew."""

CSV_COLUMNS = ("filepath", "title", "similarity", "log_prob", "source", "model")
"""The first two are open_clip's own names; it reads the file with `--csv-separator ,`. Files of 0.1 lack the last."""


@dataclass(frozen=True, kw_only=True)
class WritePlan:
    """Images that are left to caption."""

    todo: tuple[Path, ...]
    existing: int
    """Images passed over, because they have their caption."""
    refused: tuple[CaptionFailure, ...]
    """Images whose captions this format can't hold."""


class CaptionWriter(ABC):
    """Keeps captions in files. A context manager; all errors are InputError or StoreError."""

    def plan(self, paths: Iterable[Path]) -> WritePlan:
        """The images that are left to caption, each once, in the order given.

        Raises InputError where some have captions and neither to keep nor to replace them was asked.
        """
        todo: list[Path] = []
        refused: list[CaptionFailure] = []
        existing = 0
        for path in {path.absolute(): path for path in paths}.values():
            if reason := self.refusal(path):
                refused.append(CaptionFailure(path=path, reason=reason))
            elif self.has(path):
                existing += 1
            else:
                todo.append(path)
        return WritePlan(todo=tuple(todo), existing=existing, refused=tuple(refused))

    @abstractmethod
    def has(self, path: Path) -> bool:
        """True where this image's caption is there and stays."""

    def refusal(self, path: Path) -> str | None:
        """The reason why this image's caption can't be kept in this format; None where it can."""
        return None

    @abstractmethod
    def write(self, caption: DualCaption) -> None:
        """Keep one image's captions. Raises StoreError where they can't be written, as on a full disk."""

    @abstractmethod
    def close(self) -> None:
        """Release the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_writer(
    format_: Format, output: Path | None = None, *, roots: Iterable[Path] = (), existing: Existing = "refuse"
) -> CaptionWriter:
    """A writer for `txt` (a file beside each image, or in the folder `output`), `jsonl` or `csv` (the file `output`).

    `roots` are the folders that were given: inside `output`, sidecars keep the images' paths from there. Raises
    InputError where `output` is missing or holds something else, StoreError where it can't be opened.
    """
    if format_ == "txt":
        return SidecarWriter(output, roots=tuple(roots), existing=existing)
    if output is None:
        raise InputError(f"The format {format_} is one file; name it with --output captions.{format_}")
    return (JsonlWriter if format_ == "jsonl" else CsvWriter)(output, existing=existing)


def make_record(caption: DualCaption) -> dict[str, Any]:
    """Everything about one image's captions as plain values for JSON; the path is absolute."""
    return {
        "path": str(caption.path.absolute()),
        "best": _plain(caption.best),
        "clip": [_plain(one) for one in caption.clip],
        "generated": [_plain(one) for one in caption.generated],
    }


def _plain(caption: Caption) -> dict[str, Any]:
    values = {name: value for name, value in asdict(caption).items() if name != "best" and value is not None}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a StoreError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Captions can't be written to {path}: {error.strerror or error}. Those written before are complete. "
            "Free space or choose another place, then go on with --skip-existing."
        ) from error


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
        """The beginning of a new file."""
        return b""

    def has(self, path: Path) -> bool:
        """True where the file holds this image's captions."""
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


class SidecarWriter(CaptionWriter):
    """Writes each image's best caption to `<stem>.txt`, beside it or at the same place below another folder.

    Where images of one folder share a stem (`a.jpg`, `a.png`), each gets `<full name>.txt` instead (`a.jpg.txt`), so
    that no image is given another's caption, whichever are captioned and in whatever order.
    """

    def __init__(self, folder: Path | None = None, *, roots: tuple[Path, ...] = (), existing: Existing) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; text files of captions need a folder, such as --output captions/")
        self._folder = folder
        self._roots = tuple(dict.fromkeys(root.absolute() for root in roots if root.is_dir()))
        self._existing = existing
        self._stems: dict[Path, Counter[str]] = {}

    def target(self, path: Path) -> Path:
        """The text file of a photo."""
        name = path.stem if is_image_name(path.name) and not self._shares_stem(path) else path.name
        return self._place(path.absolute().parent) / f"{name}.txt"

    def _place(self, folder: Path) -> Path:
        if self._folder is None:
            return folder
        root = next((root for root in self._roots if root == folder or root in folder.parents), None)
        if root is None:
            return self._folder
        below = folder.relative_to(root)
        return self._folder / below if len(self._roots) == 1 else self._folder / root.name / below

    def plan(self, paths: Iterable[Path]) -> WritePlan:
        """As promised; also raises InputError where two images of different folders would share a text file."""
        images = {path.absolute(): path for path in paths}
        targets = Counter(self.target(path) for path in images)
        if shared := next((target for target, number in targets.items() if number > 1), None):
            raise InputError(f"Several photos would share {shared}. Caption their folders in separate runs.")
        if self._existing == "refuse" and (taken := [target for target in targets if target.exists()]):
            raise InputError(
                f"{len(taken)} of {len(images)} photos have a text file already, the first is {taken[0]}. "
                "Keep these with --skip-existing, or write them anew with --overwrite."
            )
        return super().plan(images.values())

    def has(self, path: Path) -> bool:
        """True where the image's text file exists; never, where they are to be replaced."""
        return self._existing != "replace" and self.target(path).exists()

    def write(self, caption: DualCaption) -> None:
        """Write the best caption, one line; the file appears whole or not at all."""
        target = self.target(caption.path)
        if self.has(caption.path):
            raise InputError(f"{target} exists. Keep it with --skip-existing, or write it anew with --overwrite.")
        # Not named after the image: its name may be as long as a name can be.
        partial = target.with_name(f".sightline-{os.getpid()}.partial")
        with explain_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(f"{caption.best.text}\n", encoding="utf-8")
                partial.replace(target)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is kept open."""

    def _shares_stem(self, path: Path) -> bool:
        """True where another image of the folder has this stem, whatever its case (as on macOS and Windows)."""
        folder = path.absolute().parent
        if folder not in self._stems:
            self._stems[folder] = _count_stems(folder)
        return self._stems[folder][path.stem.casefold()] != 1


def _count_stems(folder: Path) -> Counter[str]:
    """Stems of a folder's images; empty where it can't be listed, so that full names are used there."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return Counter()
    return Counter(Path(name).stem.casefold() for name in names if is_image_name(name))

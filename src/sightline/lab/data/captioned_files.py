"""Caption files, as most formats share them: read strictly, their words for splits, captions gathered by image.

Text is UTF-8, or there is a message with file and line.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import posixpath
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.core.images.files import explain_os_error
from sightline.errors import InputError
from sightline.lab.data.base import (
    SPLITS,
    Dataset,
    DatasetReader,
    FileImage,
    Pair,
    Split,
    fingerprint_of_pairs,
    in_order,
)

N_NAMED = 3
"""Number of names that a message lists before it stops."""

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of files, folders and cells -> split: the words of Hugging Face's `imagefolder`, and Flickr8k's `dev`."""

_LOG = logging.getLogger(__name__)
_BOM = b"\xef\xbb\xbf"


@dataclass(kw_only=True, slots=True)
class _Entry:
    captions: list[str]
    split: Split
    where: str
    """`file:line` of the first mention."""


class CaptionedFiles:
    """Captions by image name, in the order of first mention. Each name stands in one split, each is a safe path."""

    def __init__(self, source: Path) -> None:
        """`source` is the file, or the folder, that messages name."""
        self.source = source
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def add(self, name: str, captions: Iterable[str], *, where: str, split: Split = "train") -> None:
        """Add captions to an image; empty ones are left out.

        `name` is a checked name, see `check_name`. Raises InputError that begins with `where` (`file:line`) where
        the image already stands in another split.
        """
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(captions=[], split=split, where=where)
        elif entry.split != split:
            raise InputError(
                f"{where}: {name} is in split {split}, but in {entry.split} at {entry.where}. "
                "An image can be in one split only, or the figures of the other would be worthless."
            )
        entry.captions.extend(stripped for caption in captions if (stripped := caption.strip()))

    def splits(self) -> tuple[Split, ...]:
        """The splits that images stand in."""
        return in_order({entry.split for entry in self._entries.values()})

    def names(self, split: Split) -> list[str]:
        """Names of a split's images, in order. Raises InputError where there are none, or one has no caption."""
        require_split(split, self.splits(), source=self.source)
        chosen = {name: entry for name, entry in self._entries.items() if entry.split == split}
        if bare := next((name for name, entry in chosen.items() if not entry.captions), None):
            where = chosen[bare].where
            raise InputError(f"{where}: {bare} has no caption that isn't empty. Write one, or leave the image out.")
        return list(chosen)

    def captions(self, name: str) -> tuple[str, ...]:
        """The captions of one image."""
        return tuple(self._entries[name].captions)

    def to_dataset(self, *, name: str, split: Split, folder: ImageFolder) -> Dataset:
        """The pairs of a split, images below `folder`; absent ones are left out, see `ImageFolder.find`."""
        places = folder.find(self.names(split), source=self.source)
        pairs = [Pair(id=id_, image=FileImage(path=path), captions=self.captions(id_)) for id_, path in places.items()]
        return Dataset(name=name, split=split, pairs=pairs, fingerprint=fingerprint_of_pairs(pairs))


class CaptionReader(DatasetReader):
    """A reader of image files whose captions `read` gathers."""

    @abstractmethod
    def read(self, path: Path, *, only: Split | None = None) -> CaptionedFiles:
        """All captions, or those of one split at least. Raises InputError with file, line and what was expected."""

    def image_folders(self, path: Path) -> list[Path]:
        """Where images may lie; the folder that holds most of them counts."""
        return [path if path.is_dir() else path.parent]

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that are there."""
        return self.read(path).splits()

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split. Raises InputError as `read` does, and where none of its images is there."""
        files = self.read(path, only=split)
        folder = choose_folder(self.image_folders(path), names=files.names(split), source=files.source)
        return files.to_dataset(name=f"{self.kind}:{path}", split=split, folder=folder)


class ImageFolder:
    """The files below a folder. Each folder is listed once, when first asked for; no file is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links, absolute() keeps ..
        self._listed: dict[str, frozenset[str]] = {}

    def holds(self, name: str) -> bool:
        """True where a file of this name (relative, with `/`, or absolute) is there."""
        folder, file = posixpath.split(name)
        if folder not in self._listed:
            self._listed[folder] = _list_files(self.root / folder)
        return file in self._listed[folder]

    def find(self, names: Sequence[str], *, source: Path) -> dict[str, Path]:
        """The files of these names; those that aren't there are left out with a warning that counts them.

        Windows' backslashes are read. Where none of some absolute names is there, as in a table from another machine,
        they are looked for at the same places below this folder. Raises InputError where no file is there at all.
        """
        place_of = {name: name if self.holds(name) else name.replace("\\", "/") for name in names}
        found = {name: self.root / place for name, place in place_of.items() if self.holds(place)}
        if not found:
            found = self._find_moved({name: place for name, place in place_of.items() if _is_absolute(place)})
        absent = [name for name in names if name not in found]
        lack = f"{len(absent)} of {len(names)} images that {source} names are not in {self.root}"
        if not found:
            raise InputError(f"{lack}: {list_some(absent)}. Put them there, or give the folder that has them.")
        if absent:
            _LOG.warning("%s and are left out: %s.", lack, list_some(absent))
        return found

    def _find_moved(self, place_of: dict[str, str]) -> dict[str, Path]:
        """Absolute names below this folder, less and less kept of what they have in common in front."""
        parts = {name: place.split("/") for name, place in place_of.items()}
        common = os.path.commonprefix([some[:-1] for some in parts.values()])  # noqa: RUF071 - of parts, not of letters
        for start in range(1, len(common) + 1):
            rest = {name: "/".join(some[start:]) for name, some in parts.items()}
            if found := {name: self.root / place for name, place in rest.items() if self.holds(place)}:
                _LOG.warning("What lies in %s is read from %s.", "/".join(common[:start]), self.root)
                return found
        return {}


def _is_absolute(name: str) -> bool:
    return name.startswith("/") or (name[1:2] == ":" and name[0].isalpha())


def choose_folder(candidates: Sequence[Path], *, names: Sequence[str], source: Path) -> ImageFolder:
    """The folder that holds most of some names, the first where several do. Raises InputError where none exists."""
    folders = [ImageFolder(path) for path in dict.fromkeys(candidates) if path.is_dir()]
    if not folders:
        tried = ", ".join(str(path) for path in candidates)
        raise InputError(f"{source} has no folder of images beside it. One of these was expected: {tried}.")
    sample = names[:: max(1, len(names) // 100)]
    return max(folders, key=lambda folder: sum(folder.holds(name) for name in sample))


def check_name(name: object, *, where: str, absolute: bool = False) -> str:
    """The name of an image as a plain path below its folder, with `/`.

    Raises InputError that begins with `where` (`file:line`) for what is no text, is empty, absolute (unless that is
    allowed), or leads out of the folder by `..`: a caption file from elsewhere must not read other files of this
    machine.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InputError(f"{where}: {name!r} is no file name of an image.")
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (not absolute and _is_absolute("/".join(parts))):
        raise InputError(f"{where}: {name!r} leads out of its folder. Write a path below the folder, without '..'.")
    return posixpath.normpath(name)


def list_some(names: Sequence[str]) -> str:
    """The first names, and dots where there are more."""
    return ", ".join(names[:N_NAMED]) + (", ..." if len(names) > N_NAMED else "")


def _list_files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError) as error:
        reason = explain_os_error(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"{folder} can't be read: {reason}; give a folder you may read.") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or to a disk that is away
        return False


def split_named(word: str) -> Split | None:
    """The split that a word stands for, upper or lower case; None for any other word."""
    return SPLIT_WORDS.get(word.strip().lower())


def split_within(name: str) -> Split | None:
    """The split that a word of a name stands for, such as val in `captions_val2017`; None without such a word."""
    return next(filter(None, map(split_named, re.findall(r"[a-z]+", name.lower()))), None)


def parse_split(word: str, *, where: str) -> Split:
    """The split that a word stands for. Raises InputError that names `where` (`file:line`) for any other word."""
    if (split := split_named(word)) is None:
        raise InputError(f"{where}: {word!r} is no split; write one of {', '.join(SPLITS)}.")
    return split


def find_split_paths(paths: Iterable[Path]) -> dict[Split, Path]:
    """The files or folders whose name without extension is a split's.

    Raises InputError where two stand for one split (`val` and `dev`), since only one can be meant.
    """
    found: dict[Split, Path] = {}
    for path in sorted(paths):
        if (split := split_named(path.stem)) is None:
            continue
        if split in found:
            raise InputError(f"{found[split]} and {path} both stand for {split}. Keep one, or merge them.")
        found[split] = path
    return found


def require_split(split: Split, available: Iterable[Split], *, source: Path) -> None:
    """Raises InputError for a split that a source doesn't have, naming those that it has."""
    known = in_order(set(available))
    if split not in known:
        raise InputError(f"{source} has no split {split}; it has: {', '.join(known) or 'none'}.")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Stream the lines of a text file with their numbers from 1, without line ends; blank ones are left out.

    Raises InputError for a file that can't be opened, that isn't UTF-8 (with the line), or that holds no line at all.
    """
    found = False
    with explain_read_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = (line.removeprefix(_BOM) if number == 1 else line).decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise _not_utf8(error, path=path, line=number) from error
            if text.strip():
                found = True
                yield number, text
    if not found:
        raise InputError(f"{path} is empty; captions were expected. Copy or download it again.")


def read_rows(path: Path, *, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a table by column, with its line. Raises InputError for another width or broken quotes."""
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


def read_head(path: Path) -> str:
    """The first 10,000 bytes, for guessing what a file is; '' where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(10_000).removeprefix(_BOM).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def first_line(path: Path) -> str:
    """The start of the first line, for guessing what a file is; '' where it can't be read."""
    return read_head(path).partition("\n")[0].rstrip("\r")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError with line and column for a broken one, such as a cut download."""
    with explain_read_errors(path):
        content = path.read_bytes().removeprefix(_BOM)
    if not content.strip():
        raise InputError(f"{path} is empty; JSON was expected. Copy or download it again.")
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise _not_utf8(error, path=path, line=content.count(b"\n", 0, error.start) + 1) from error
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        hint = "the file seems to be cut off; copy or download it again" if cut else "this is no valid JSON"
        raise InputError(f"{path}:{error.lineno}: {error.msg} at column {error.colno}: {hint}.") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a caption file.") from error


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns what the system says about a file into an InputError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} doesn't exist.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {explain_os_error(error)}.") from error


def _not_utf8(error: UnicodeDecodeError, *, path: Path, line: int) -> InputError:
    byte = error.object[error.start]
    return InputError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8, as in iconv -t UTF-8.")

"""Captions gathered by the file name of their image, checked, and made into pairs: what most formats share."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.core.images.files import explain_os_error
from sightline.errors import InputError
from sightline.lab.data.base import SPLITS, Dataset, FileImage, Pair, Split, fingerprint_of_pairs
from sightline.lab.data.split_names import require_split

N_NAMED = 3
"""How many names a message lists before it stops."""


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
        """Whether an image of this name was added."""
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
        known = {entry.split for entry in self._entries.values()}
        return tuple(split for split in SPLITS if split in known)

    def names(self, split: Split) -> list[str]:
        """Names of a split's images, in order. Raises InputError where there are none, or one has no caption."""
        require_split(split, self.splits(), source=self.source)
        return [self._with_captions(name, entry) for name, entry in self._entries.items() if entry.split == split]

    def captions(self, name: str) -> tuple[str, ...]:
        """The captions of one image."""
        return tuple(self._entries[name].captions)

    def _with_captions(self, name: str, entry: _Entry) -> str:
        if not entry.captions:
            raise InputError(
                f"{entry.where}: {name} has no caption that isn't empty. Write one, or leave the image out."
            )
        return name

    def to_dataset(self, *, name: str, split: Split, folder: ImageFolder) -> Dataset:
        """The pairs of a split, pictures below `folder`. Raises InputError where any of the pictures is absent."""
        names = self.names(split)
        folder.check_holds(names, source=self.source)
        root = folder.root
        pairs = [Pair(id=file, image=FileImage(path=root / file), captions=self.captions(file)) for file in names]
        return Dataset(name=name, split=split, pairs=pairs, fingerprint=fingerprint_of_pairs(pairs))


class ImageFolder:
    """Which files lie below a folder. Each folder is listed once, when first asked for; no file is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links, absolute() keeps ..
        self._listed: dict[str, frozenset[str]] = {}

    def holds(self, name: str) -> bool:
        """Whether a file of this name (relative, with `/`, or absolute) is there."""
        folder, file = posixpath.split(name)
        if folder not in self._listed:
            self._listed[folder] = _list_files(self.root / folder)
        return file in self._listed[folder]

    def check_holds(self, names: Iterable[str], *, source: Path) -> None:
        """Raises InputError with the number and the first names of files that are absent."""
        total, absent = 0, []
        for total, name in enumerate(names, start=1):  # noqa: B007 - the last number is the count
            if not self.holds(name):
                absent.append(name)
        if absent:
            raise InputError(
                f"{len(absent)} of {total} images that {source} names are not in {self.root}: {list_some(absent)}. "
                "Put them there, or take their captions out."
            )


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
    outside = parts[0] == "" or (parts[0][1:2] == ":" and parts[0][0].isalpha())
    if ".." in parts or (outside and not absolute):
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

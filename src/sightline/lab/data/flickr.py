"""Flickr8k and Flickr30k as their publishers, Kaggle and Karpathy lay them.

Kaggle's caption files are named CSV and are none quite: captions hold commas and quotes as they are.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Split
from sightline.lab.data.captioned_files import (
    CaptionedFiles,
    CaptionReader,
    check_name,
    first_line,
    list_some,
    read_lines,
    split_named,
)
from sightline.lab.data.coco import read_karpathy

IMAGE_FOLDERS = (
    "Images",
    "images",
    "Flicker8k_Dataset",  # the publisher's own spelling
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
    "flickr30k_images/flickr30k_images",
)
"""Folders of images, below the folder of the address or one of its subfolders; the folder itself counts too."""

_SPLIT_LIST = re.compile(r"(?:flickr_?(?:8|30)k[._])?(train|dev|val|test)(?:images)?\.txt", re.IGNORECASE)
"""`Flickr_8k.trainImages.txt`, and `train.txt` as Flickr30k Entities has it."""

_NEVER_PUBLISHED = frozenset({"2258277193_586949ec62.jpg.1"})
"""An image that Flickr8k.token.txt has captions for and that no release contains."""

_NUMBERED = re.compile(r"([^,]+),\s*\d+\s*,(.*)")
_BARRED = re.compile(r"([^|]+)\|\s*\d+\s*\|?(.*)")
"""The bar before the caption is optional: one row of the published results.csv lacks it."""

CAPTION_HEADERS = {
    "image,caption": ("flickr8k", re.compile(r"([^,]+),(.*)")),
    "image_name,comment_number,comment": ("flickr30k", _NUMBERED),
    "image_name|comment_number|comment": ("flickr30k", _BARRED),
}
"""Header without spaces -> the set that has it, and its rows: name, caption. The first delimiters count, since captions
hold commas and quotes."""

_TOKEN_ROW = re.compile(r"([^\t]*)#[^#\t]*\t(.*)")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True, kw_only=True, slots=True)
class FlickrReader(CaptionReader):
    """One of the two sets; they differ in the names of their files.

    Karpathy's JSON, where it is there, alone decides splits and captions. Otherwise captions come from the publisher's
    token file or Kaggle's CSV, and splits from lists such as `Flickr_8k.trainImages.txt`; without lists all is train.
    """

    kind: str
    karpathy: str
    """Name of Karpathy's JSON."""
    token: str
    """Name of the publisher's caption file."""
    tables: tuple[str, ...]
    """Names of Kaggle's CSVs."""

    def recognises(self, path: Path) -> bool:
        """True where a folder holds a caption file that only this set has."""
        folders = _folders(path)
        if _find(folders, (self.karpathy, self.token)):
            return True
        headers = (CAPTION_HEADERS.get(_squeeze(first_line(table))) for table in _find(folders, self.tables))
        return any(header is not None and header[0] == self.kind for header in headers)

    def image_folders(self, path: Path) -> list[Path]:
        """Folders of the usual names, and the folder itself."""
        return [*(folder / name for folder in _folders(path) for name in IMAGE_FOLDERS), path]

    def read(self, path: Path, *, only: Split | None = None) -> CaptionedFiles:
        """All captions. Raises InputError for a missing or broken caption file, and for an image in two splits."""
        if is_file(path):
            raise InputError(f"{path} is a file. Give the folder that holds captions and images: {path.parent}")
        folders = _folders(path)
        if karpathy := _find(folders, (self.karpathy,)):
            return read_karpathy(karpathy[0])
        found = _find(folders, (self.token, *self.tables))
        if not found:
            raise InputError(
                f"{path} holds no captions of {self.kind}: {self.karpathy}, {self.token} or "
                f"{' or '.join(self.tables)} was expected there or in a subfolder."
            )
        files = CaptionedFiles(found[0])
        lists = _read_split_lists(folders)
        for name, caption, where in _read_captions(found[0], in_tokens=found[0].name == self.token):
            if name not in _NEVER_PUBLISHED and (not lists or name in lists):
                files.add(name, (caption,), where=where, split=lists.get(name, "train"))
        if uncaptioned := [name for name in lists if name not in files]:
            raise InputError(
                f"{len(uncaptioned)} of {len(lists)} images that the lists of splits name have no caption in "
                f"{found[0]}: {list_some(uncaptioned)}. Take them out of the lists, or get the whole caption file."
            )
        return files


def _folders(path: Path) -> list[Path]:
    """A folder and those directly in it, by name: archives are often unpacked into one of their own."""
    try:
        with os.scandir(path) as entries:
            return [path, *sorted(Path(entry) for entry in entries if entry.is_dir())]
    except OSError:
        return [path]


def _find(folders: Iterable[Path], names: Iterable[str]) -> list[Path]:
    """The files of these names, by name first, then by folder."""
    folders = list(folders)
    return [folder / name for name in names for folder in folders if is_file(folder / name)]


def _read_split_lists(folders: Iterable[Path]) -> dict[str, Split]:
    """Image name -> split, from the lists of the first folder that has some. Raises InputError for one in two."""
    splits: dict[str, tuple[Split, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.txt")):
            match = _SPLIT_LIST.fullmatch(path.name)
            if match is None or (split := split_named(match[1])) is None:
                continue
            for number, line in read_lines(path):
                where = f"{path}:{number}"
                name = check_name(line.strip(), where=where)
                name = name if posixpath.splitext(name)[1] else f"{name}.jpg"
                known, earlier = splits.setdefault(name, (split, where))
                if known != split:
                    raise InputError(
                        f"{where}: {name} is in split {split}, but in {known} at {earlier}. Keep one of them."
                    )
        if splits:
            break
    return {name: split for name, (split, _) in splits.items()}


def _read_captions(path: Path, *, in_tokens: bool) -> Iterator[tuple[str, str, str]]:
    """Name, caption and `file:line` of each row: of a publisher's file, else of Kaggle's by its header.

    A caption in CSV's quotes loses them. Raises InputError for another header, and with the line for a row that
    doesn't fit.
    """
    lines = read_lines(path)
    row, expected = _TOKEN_ROW, "'name.jpg#0', a tab and a caption"
    if not in_tokens:
        _, header = next(lines)
        if (squeezed := _squeeze(header)) not in CAPTION_HEADERS:
            raise InputError(
                f"{path}:1: the columns are {header[:200]!r}; one of these was expected: {', '.join(CAPTION_HEADERS)}."
            )
        row, expected = CAPTION_HEADERS[squeezed][1], f"the columns {header!r}"
    for number, line in lines:
        where = f"{path}:{number}"
        match = row.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: {line[:80]!r} doesn't fit {expected}.")
        caption = match[2].strip()
        if not in_tokens and _QUOTED.fullmatch(caption):
            caption = caption[1:-1].replace('""', '"')
        yield check_name(match[1].strip(), where=where), caption, where


def _squeeze(header: str) -> str:
    return re.sub(r"\s", "", header).lower()


READERS = (
    FlickrReader(
        kind="flickr8k", karpathy="dataset_flickr8k.json", token="Flickr8k.token.txt", tables=("captions.txt",)
    ),
    FlickrReader(
        kind="flickr30k",
        karpathy="dataset_flickr30k.json",
        token="results_20130124.token",
        tables=("results.csv", "captions.txt"),
    ),
)

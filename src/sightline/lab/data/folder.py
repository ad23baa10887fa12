"""A folder of images with their captions: in a `metadata.jsonl`, or in a `.txt` beside each image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.core.images.files import explain_os_error, is_image_name
from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, Split, in_order
from sightline.lab.data.captioned_files import (
    CaptionedFiles,
    ImageFolder,
    check_name,
    find_split_paths,
    list_some,
    parse_split,
    read_lines,
    require_split,
    split_named,
)

METADATA = "metadata.jsonl"

_NO_SIDECARS = frozenset({"readme", "license", "licence", "notice"})
"""Text files that speak of the folder, not of an image."""


class FolderReader:
    """Images with a `metadata.jsonl` (Hugging Face's `imagefolder`) or `.txt` sidecars; folders named train, val, test.

    A `metadata.jsonl` at the top alone decides; the split of a line is its `split`, else the first folder of its
    `file_name` where that is a split's name, else train. Otherwise each split's folder has its own `metadata.jsonl` or
    sidecars; without such folders all is train.
    """

    kind = "folder"

    def recognises(self, path: Path) -> bool:
        """True where a folder, or one of its splits' folders, holds a `metadata.jsonl` or an image with a sidecar."""
        folders = [path, *_named_after_splits(path)]
        return any(is_file(folder / METADATA) or any(_pair_sidecars(_list_names(folder))) for folder in folders)

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split of the folder at `path`.

        Raises InputError for a folder without captions, a broken line (with file and line), a text without its image,
        an image in two splits, a name that leads out of the folder, and images that have captions but are absent.
        """
        files = self._read(path, only=split)
        return files.to_dataset(name=f"folder:{path}", split=split, folder=ImageFolder(path))

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that are there."""
        return self._read(path).splits()

    def _read(self, path: Path, *, only: Split | None = None) -> CaptionedFiles:
        """All captions, of one split's folder where splits lie in folders of their own."""
        if not path.is_dir():
            raise InputError(f"{path} is no folder. Give the folder that holds the images and their captions.")
        files = CaptionedFiles(path)
        if is_file(path / METADATA):
            files = CaptionedFiles(path / METADATA)
            _add_metadata(files, path / METADATA, below="", split=None)
            return files
        folders = find_split_paths(_named_after_splits(path)) or {"train": path}
        if only is not None:
            require_split(only, folders, source=path)
        for split in [only] if only else in_order(folders):
            folder = folders[split]
            if is_file(folder / METADATA):
                below = "" if folder == path else f"{folder.name}/"
                _add_metadata(files, folder / METADATA, below=below, split=split)
            else:
                _add_sidecars(files, folder, root=path, split=split)
        return files


def _named_after_splits(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(entry) for entry in entries if split_named(entry.name) and entry.is_dir()]
    except OSError:
        return []


def _list_names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that counts, 100,000 of them
    except OSError:
        return []


def _add_metadata(files: CaptionedFiles, path: Path, *, below: str, split: Split | None) -> None:
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: {error}. One JSON object a line was expected; is the file cut off?") from error
        if not isinstance(record, dict) or not {"file_name", "text"} <= record.keys():
            found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise InputError(f"{where}: found {found or 'nothing'}; file_name and text were expected.")
        name = check_name(record["file_name"], where=where)
        line_split = split or _split_of(record, name=name, where=where)
        files.add(below + name, _texts(record["text"], where=where), where=where, split=line_split)


def _split_of(record: dict[str, Any], *, name: str, where: str) -> Split:
    if "split" in record:
        return parse_split(str(record["split"]), where=where)
    folder, slash, _ = name.partition("/")
    return (split_named(folder) if slash else None) or "train"


def _texts(text: Any, *, where: str) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
        raise InputError(f"{where}: text is {text!r:.80}; a text or a list of texts was expected.")
    return texts


def _add_sidecars(files: CaptionedFiles, folder: Path, *, root: Path, split: Split) -> None:
    """Add each image that has a text file; images without one have no captions and are left out."""
    alone, n_images = [], 0
    for place, names in _walk(folder):
        below = "" if place == root else f"{place.relative_to(root).as_posix()}/"
        paired = dict(_pair_sidecars(names))
        for name, text_name in paired.items():
            captions = [line for _, line in read_lines(place / text_name)]
            files.add(below + name, captions, where=str(place / text_name), split=split)
        n_images += sum(map(is_image_name, names))
        used = set(paired.values())
        alone += [below + name for name in names if _is_sidecar_name(name) and name not in used]
    if alone:
        raise InputError(
            f"{len(alone)} text files of {root} have no image beside them: {list_some(alone)}. Put the images there, "
            "or take the texts away (readme.txt and license.txt may stay)."
        )
    if split not in files.splits():
        raise InputError(
            f"{folder} has {n_images} images and no caption. A {METADATA} with lines like "
            '{"file_name": "photo.jpg", "text": "a caption"} was expected, or a photo.txt beside photo.jpg.'
        )


def _pair_sidecars(names: list[str]) -> Iterator[tuple[str, str]]:
    """Each image with its text: `a.jpg.txt`, as Sightline names it where images share a stem, else `a.txt`."""
    known = set(names)
    for name in names:
        if is_image_name(name):
            for text_name in (f"{name}.txt", f"{os.path.splitext(name)[0]}.txt"):  # noqa: PTH122 - for every file
                if text_name in known:
                    yield name, text_name
                    break


def _is_sidecar_name(name: str) -> bool:
    stem, extension = os.path.splitext(name)  # noqa: PTH122 - called for every file
    return extension == ".txt" and stem.lower() not in _NO_SIDECARS


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with its files by name; hidden ones are passed over."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} can't be read: {explain_os_error(error)}.") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), sorted(name for name in names if not name.startswith("."))


READER = FolderReader()

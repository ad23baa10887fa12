"""Tiny ImageNet: 64 x 64 images of 200 classes, in parquet shards or in the publisher's folders."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from sightline.core.images.files import explain_os_error, is_image_name
from sightline.errors import ImageError, InputError, install_advice
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, EncodedImage, FileImage, Pair, Split, fingerprint_of
from sightline.lab.data.captioned_files import read_json, read_lines, require_split

N_VAL_PER_CLASS = 40
"""The last rows of each class in parquet shards, in file order, are `val`: never trained on."""

_reading = threading.Lock()
"""A row group is read by the first thread that asks; images are mostly asked for in order."""

_Names = tuple[tuple[str, ...], ...]


class TinyImagenetReader:
    """Reads parquet shards with `classes.json`, or `tiny-imagenet-200` as its publisher packs it."""

    kind = "tiny-imagenet"

    def recognises(self, path: Path) -> bool:
        """True where `path` is a folder of either layout."""
        shards = is_file(path / "classes.json") and any(path.glob("*.parquet"))
        return shards or (is_file(path / "wnids.txt") and is_file(path / "words.txt"))

    def splits(self, path: Path) -> tuple[Split, ...]:
        """Train and val. Raises InputError for a folder of neither layout."""
        if not self.recognises(path):
            raise InputError(
                f"{path} is not Tiny ImageNet: give a folder with classes.json and .parquet shards, or the "
                "publisher's tiny-imagenet-200 with wnids.txt and words.txt."
            )
        return ("train", "val")

    def load(self, path: Path, *, split: Split) -> Dataset:
        """The pairs of `train` or `val`, each with its label; its captions are the names of its class.

        Of parquet shards the last 40 rows of each class are `val`; the publisher's folders have a `val` of their own.
        There is no `test`: its labels were never published. Raises InputError for a folder of neither layout, for a
        label without a class, and where the shards hold too few rows of a class.
        """
        path = path.absolute()
        require_split(split, self.splits(path), source=path)
        in_shards = (path / "classes.json").is_file()
        class_names, pairs = _load_shards(path, split) if in_shards else _load_folders(path, split)
        fingerprint = fingerprint_of(
            part for pair in pairs for part in (pair.id, repr(pair.image), str(pair.label), *pair.captions)
        )
        name = f"{self.kind}:{path}"
        return Dataset(name=name, split=split, pairs=pairs, fingerprint=fingerprint, class_names=class_names)


def _load_shards(path: Path, split: Split) -> tuple[_Names, list[Pair]]:
    class_names = _read_classes(path / "classes.json")
    pairs: list[Pair] = []
    rows_of_class: dict[int, list[int]] = defaultdict(list)
    for shard in sorted(path.glob("*.parquet")):
        for row, label in enumerate(_read_labels(shard)):
            if not isinstance(label, int) or not 0 <= label < len(class_names):
                raise InputError(
                    f"{shard}: row {row} has label {label}, and classes.json has classes 0 to {len(class_names) - 1}."
                )
            rows_of_class[label].append(len(pairs))
            image = ParquetImage(path=shard, row=row)
            pairs.append(Pair(id=f"{shard.stem}/{row}", image=image, captions=class_names[label], label=label))
    chosen: list[int] = []
    for label, rows in rows_of_class.items():
        if len(rows) <= N_VAL_PER_CLASS:
            raise InputError(
                f"{path} has {len(rows)} rows of class {label} ({class_names[label][0]}); more than "
                f"{N_VAL_PER_CLASS} are needed, since the last {N_VAL_PER_CLASS} are val. Copy all shards."
            )
        chosen += rows[:-N_VAL_PER_CLASS] if split == "train" else rows[-N_VAL_PER_CLASS:]
    return class_names, [pairs[row] for row in sorted(chosen)]


def _read_classes(path: Path) -> _Names:
    """The names of each class in the order of labels. Raises InputError where labels don't count from 0 on."""
    expected = 'a list of objects like {"label": 0, "wnid": "n02124075", "names": "Egyptian cat"}'
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path} must be {expected}.")
    by_label: dict[Any, tuple[str, ...]] = {}
    for number, entry in enumerate(content, start=1):
        label, names = entry.get("label"), split_synonyms(str(entry.get("names", "")))
        if not isinstance(label, int) or not names or label in by_label:
            raise InputError(
                f"{path}: entry {number} ({entry}) has no names, or no label of its own; write {expected}."
            )
        by_label[label] = names
    if sorted(by_label) != list(range(len(by_label))):
        raise InputError(f"{path} must have the labels 0 to {len(by_label) - 1}, each once.")
    return tuple(by_label[label] for label in range(len(by_label)))


def split_synonyms(names: str) -> tuple[str, ...]:
    """The synonyms of a WordNet entry: split at commas, each once."""
    found: dict[str, str] = {}
    for name in names.split(","):
        found.setdefault(name.strip().lower(), name.strip())
    return tuple(name for name in found.values() if name)


def _load_folders(path: Path, split: Split) -> tuple[_Names, list[Pair]]:
    wnids = [line.strip() for _, line in read_lines(path / "wnids.txt")]
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    class_names = _read_words(path / "words.txt", wnids)
    pairs = [
        Pair(
            id=file.relative_to(path).as_posix(),
            image=FileImage(path=file),
            captions=class_names[labels[wnid]],
            label=labels[wnid],
        )
        for file, wnid in (_train_files(path, wnids) if split == "train" else _val_files(path, labels))
    ]
    if not pairs:
        raise InputError(f"{path} has no pictures in its folder {split}; unpack the archive again.")
    return class_names, pairs


def _read_words(path: Path, wnids: list[str]) -> _Names:
    words = {}
    for _, line in read_lines(path):
        wnid, _, names = line.partition("\t")
        words[wnid] = split_synonyms(names)
    unnamed = [wnid for wnid in wnids if not words.get(wnid)]
    if unnamed:
        raise InputError(f"{path} has no names for {unnamed[0]}, a class of wnids.txt. Unpack the archive again.")
    return tuple(words[wnid] for wnid in wnids)


def _train_files(path: Path, wnids: list[str]) -> Iterator[tuple[Path, str]]:
    for wnid in wnids:
        folder = path / "train" / wnid / "images"
        if not folder.is_dir():
            raise InputError(f"{folder} is missing; unpack the archive again.")
        for file in sorted(folder.iterdir()):
            if is_image_name(file.name):
                yield file, wnid


def _val_files(path: Path, labels: dict[str, int]) -> Iterator[tuple[Path, str]]:
    annotations = path / "val" / "val_annotations.txt"
    for number, line in read_lines(annotations):
        name, wnid = [*line.split("\t"), ""][:2]
        file = path / "val" / "images" / Path(name).name
        if wnid not in labels or not file.is_file():
            wrong = f"{wnid!r} is not in wnids.txt" if wnid not in labels else f"{file} is missing"
            raise InputError(f"{annotations}:{number}: {wrong}; a file's name, a tab and its class were expected.")
        yield file, wnid


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetImage(EncodedImage):
    """An image in a row of a parquet file, as the bytes of an image file."""

    path: Path
    row: int
    column: str = "image"

    def read_bytes(self) -> bytes:
        """The image's file as the row holds it. Raises ImageError where it can't be read."""
        try:
            starts = _starts_of_groups(self.path)
            if not 0 <= self.row < starts[-1]:
                raise ImageError("the parquet file has fewer rows than when it was listed")
            group = bisect_right(starts, self.row) - 1
            with _reading:
                cells = _read_group(self.path, group, self.column)
            data = cells[self.row - starts[group]].as_py()
        except (OSError, ValueError, KeyError) as error:  # also what pyarrow says of damaged files
            if isinstance(error, OSError) and error.errno is not None:
                raise ImageError(explain_os_error(error)) from error
            raise ImageError("damaged parquet file") from error
        if not isinstance(data, bytes):
            raise ImageError("the row holds no picture")
        return data


def import_pyarrow() -> Any:
    """The module `pyarrow.parquet`. Raises InputError with what to install where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"Parquet files need pyarrow: {install_advice('train')}") from error
    return pyarrow.parquet


def _read_labels(path: Path) -> list[Any]:
    """The column `label`. Raises InputError for a damaged file, and for one without that column or `image`."""
    parquet = import_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            has = file.schema_arrow.names
            if missing := [name for name in ("label", "image") if name not in has]:
                raise InputError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(has)}.")
            return list(file.read(columns=["label"]).column("label").to_pylist())
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{path} can't be read as parquet: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=4096)
def _starts_of_groups(path: Path) -> tuple[int, ...]:
    """The first row of each row group, and the number of all rows."""
    metadata = import_pyarrow().read_metadata(path)
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return tuple(accumulate(sizes, initial=0))


@lru_cache(maxsize=64)
def _read_group(path: Path, group: int, column: str) -> Any:
    with import_pyarrow().ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


READER = TinyImagenetReader()

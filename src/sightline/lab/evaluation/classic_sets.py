"""Well-known sets of images with classes, read from the folders and files that their publishers' archives unpack to.

Each has a kind of its own before the colon of an address: `imagenet:PATH`, `cifar10:PATH`, `food101:PATH`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import (
    Dataset,
    FileImage,
    FilePart,
    ImageSource,
    Pair,
    Split,
    fingerprint_of_pairs,
    in_order,
)
from sightline.lab.data.captioned_files import list_some, read_lines, require_split

_CIFAR_PX = 32
_CIFAR_BYTES = 3 * _CIFAR_PX**2


@cache
def read_imagenet() -> dict[str, Any]:
    """`templates`, OpenAI's 80 prompts, and `classes`, a name for each of the 1,000 WordNet ids of ImageNet."""
    text = resources.files("sightline.lab.evaluation").joinpath("imagenet.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def name_wordnet_ids(dataset: Dataset) -> Dataset:
    """The set with a name for each folder such as `n01440764`. Raises InputError for other folders."""
    names: dict[str, str] = read_imagenet()["classes"]
    folders = [folder for folder, *_ in dataset.class_names or ()]
    if strangers := [folder for folder in folders if folder not in names]:
        raise InputError(
            f"{dataset.name} has folders that are no classes of ImageNet: {list_some(strangers)}. val/n01440764/*.JPEG "
            "was expected; another set is classes:PATH."
        )
    return replace(dataset, class_names=tuple((names[folder],) for folder in folders))


class PlaneImage(FilePart):
    """A 32 x 32 image in a binary file of CIFAR: its red plane, then green and blue."""

    __slots__ = ()

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """RGB (32, 32, 3) uint8. Raises ImageError where the file is shorter than it was."""
        planes_3HW = np.frombuffer(self.read_bytes(), np.uint8).reshape(3, _CIFAR_PX, _CIFAR_PX)
        return planes_3HW.transpose(1, 2, 0).copy()


_Row = tuple[str, ImageSource, str]
"""Id, image and class of a row."""


@dataclass(frozen=True, kw_only=True)
class ClassicSet:
    """How one set lies on the disk."""

    folder: str
    """What its archive unpacks to; an address may name it or the folder around it."""
    lists: dict[Split, tuple[str, ...]]
    """The files of each split below the folder."""
    read: Callable[[Path, Path], Iterable[_Row]]
    """The rows of one such file, in order."""
    name_list: str | None = None
    """A file of class names, one a line in the order of labels; None where the classes are those that occur."""

    def root(self, path: Path) -> Path:
        """The folder that holds the files. Raises InputError naming them where it isn't there."""
        wanted = [name for names in self.lists.values() for name in names]
        for root in (path, path / self.folder):
            if any(is_file(root / name) for name in wanted):
                return root
        raise InputError(f"{path} has none of {list_some(wanted)}, nor {self.folder}/ with them. Unpack the set there.")

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits whose files are all there."""
        root = self.root(path)
        return in_order({split for split, names in self.lists.items() if all(is_file(root / name) for name in names)})

    def load(self, path: Path, *, kind: str, split: Split) -> Dataset:
        """Read one split; classes are those of the whole set. Raises InputError for a missing or broken file."""
        available = self.splits(path)
        require_split(split, available, source=path)
        root = self.root(path)
        rows = {one: [row for name in self.lists[one] for row in self.read(root, root / name)] for one in available}
        if self.name_list is None:
            names = sorted({name for some in rows.values() for _, _, name in some})
        else:
            names = [line.strip() for _, line in read_lines(root / self.name_list)]
        label_of = {name: label for label, name in enumerate(names)}
        pairs = [Pair(id=id_, image=image, captions=(), label=label_of[name]) for id_, image, name in rows[split]]
        return Dataset(
            name=f"{kind}:{path}",
            split=split,
            pairs=pairs,
            fingerprint=fingerprint_of_pairs(pairs),
            class_names=tuple((name.replace("_", " "),) for name in names),
        )


def _read_paths(root: Path, list_file: Path) -> Iterable[_Row]:
    """`apple_pie/1005649`, with or without .jpg: Food-101 and Describable Textures."""
    for number, line in read_lines(list_file):
        name, slash, _ = line.strip().partition("/")
        if not slash or ".." in line:
            raise InputError(f"{list_file}:{number}: {line[:80]!r}; a class, a slash and an image were expected.")
        relative = line.strip() if line.strip().endswith(".jpg") else f"{line.strip()}.jpg"
        yield relative, FileImage(path=root / "images" / relative), name


def _read_pets(root: Path, list_file: Path) -> Iterable[_Row]:
    """`american_bulldog_100 2 2 1`: the breed is the name without its number."""
    for number, line in read_lines(list_file):
        image, *numbers = line.split()
        breed, _, count = image.rpartition("_")
        if image.startswith("#"):
            continue
        if len(numbers) != 3 or not breed or not count.isdecimal() or "/" in image:
            raise InputError(f"{list_file}:{number}: {line[:80]!r}; a line like 'pug_1 25 2 18' was expected.")
        yield f"{image}.jpg", FileImage(path=root / "images" / f"{image}.jpg"), breed


def _read_cifar(names: str, *, label_bytes: int) -> Callable[[Path, Path], Iterable[_Row]]:
    """Rows of label bytes, of which the last counts, and 3,072 of pixels."""

    def read(root: Path, file: Path) -> Iterable[_Row]:
        classes: Sequence[str] = [line.strip() for _, line in read_lines(root / names)]
        row_bytes = label_bytes + _CIFAR_BYTES
        content = np.memmap(file, np.uint8, mode="r")
        if len(content) % row_bytes:
            raise InputError(f"{file} has {len(content):,} bytes, no multiple of {row_bytes}: is it cut off?")
        labels = content.reshape(-1, row_bytes)[:, label_bytes - 1].tolist()
        if max(labels) >= len(classes):
            raise InputError(f"{file} has a label {max(labels)}, and {names} {len(classes)} names.")
        for row, label in enumerate(labels):
            image = PlaneImage(path=file, offset=row * row_bytes + label_bytes, size_bytes=_CIFAR_BYTES)
            yield f"{file.stem}/{row:05d}", image, classes[label]

    return read


CLASSIC_SETS = {
    "cifar10": ClassicSet(
        folder="cifar-10-batches-bin",
        lists={"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        read=_read_cifar("batches.meta.txt", label_bytes=1),
        name_list="batches.meta.txt",
    ),
    "cifar100": ClassicSet(
        folder="cifar-100-binary",
        lists={"train": ("train.bin",), "test": ("test.bin",)},
        read=_read_cifar("fine_label_names.txt", label_bytes=2),
        name_list="fine_label_names.txt",
    ),
    "food101": ClassicSet(
        folder="food-101", lists={"train": ("meta/train.txt",), "test": ("meta/test.txt",)}, read=_read_paths
    ),
    "dtd": ClassicSet(
        folder="dtd",
        lists={"train": ("labels/train1.txt",), "val": ("labels/val1.txt",), "test": ("labels/test1.txt",)},
        read=_read_paths,
    ),
    "pets": ClassicSet(
        folder="oxford-iiit-pet",
        lists={"train": ("annotations/trainval.txt",), "test": ("annotations/test.txt",)},
        read=_read_pets,
    ),
}
"""Kind -> set, in the binary or text versions that carry no pickles."""

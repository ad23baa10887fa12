"""Images with classes: a folder for each class, a list of files with labels, well-known sets; files of class names."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.files import is_image_name, walk_images
from sightline.errors import InputError
from sightline.lab.data.addressing import ALL, load_measured
from sightline.lab.data.base import (
    Dataset,
    FileImage,
    Pair,
    Split,
    check_split,
    choose_subset,
    fingerprint_of_pairs,
    in_order,
)
from sightline.lab.data.captioned_files import (
    ImageFolder,
    check_name,
    find_split_paths,
    first_line,
    list_some,
    parse_split,
    read_lines,
    read_rows,
    require_split,
    split_named,
)
from sightline.lab.data.held_out import hold_out
from sightline.lab.evaluation.classic_sets import CLASSIC_SETS, name_wordnet_ids
from sightline.lab.evaluation.embedding import EmbeddedImages

_LOG = logging.getLogger(__name__)

CLASS_FOLDERS, LABEL_LIST = "classes", "labels"
IMAGENET = "imagenet"
LABELLED_KINDS = (CLASS_FOLDERS, LABEL_LIST, IMAGENET, *CLASSIC_SETS)
"""Kinds before the colon of an address, besides the kinds of `load_dataset`."""


def load_labelled(
    address: str, *, split: str | None, limit: int | None = None, seed: int = 0, classes: Path | None = None
) -> Dataset:
    """Images with labels at an address of `LABELLED_KINDS`, or any address of `load_measured` whose data has classes.

    A bare path is taken as `classes:` or `labels:` where it looks like it. Of these kinds, `split=None` takes val or
    test where it is there and else everything, since nothing has been trained on it; `val` is held out of `train`
    where the source has none. `classes` is a file that names the classes, see `name_classes`. Raises InputError where
    there are no labels or the source is broken.
    """
    kind, path = _recognise(address)
    if kind is None:
        dataset = load_measured(address, split=split, limit=limit, seed=seed)
    else:
        dataset = _load_split(kind, path, split)
        dataset = dataset if limit is None else choose_subset(dataset, limit=limit, seed=seed)
    return require_labels(dataset if classes is None else name_classes(dataset, classes))


def _load_split(kind: str, path: Path, split: str | None) -> Dataset:
    own_splits, load = _reader_of(kind)
    own = own_splits(path)
    if split == ALL and len(own) > 1:
        raise InputError(f"{path} has the splits {', '.join(own)}; --split all is for sets without. Name one.")
    if split in (None, ALL):
        return load(path, split=next(name for name in ("val", "test", "train") if name in own))
    checked = check_split(split)
    if checked == "test" or "val" in own or "train" not in own:
        return load(path, split=checked)
    return hold_out(load(path, split="train"), split=checked)


def _reader_of(kind: str) -> tuple[Callable[[Path], tuple[Split, ...]], Callable[..., Dataset]]:
    """What gives the splits of a kind, and what loads one of them."""
    if kind == CLASS_FOLDERS:
        return class_folder_splits, load_class_folders
    if kind == LABEL_LIST:
        return label_list_splits, load_label_list
    if kind == IMAGENET:
        return class_folder_splits, lambda path, *, split: name_wordnet_ids(load_class_folders(path, split=split))
    return CLASSIC_SETS[kind].splits, partial(CLASSIC_SETS[kind].load, kind=kind)


def class_folder_splits(path: Path) -> tuple[Split, ...]:
    """The splits that have a folder; train alone where none has. Raises InputError where `path` is no folder."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder; a folder with a folder of pictures for each class was expected.")
    return in_order(_split_roots(path)) or ("train",)


def load_class_folders(path: Path, *, split: Split) -> Dataset:
    """Images below `path/CLASS/`, or `path/SPLIT/CLASS/` where all folders in `path` are named as splits.

    A class's name is its folder's, `_` read as a space. Without folders of splits everything is `train`. Classes are
    those of all splits, in alphabetical order. Raises InputError for a folder that isn't there or holds no classes.
    """
    require_split(split, class_folder_splits(path), source=path)
    roots = _split_roots(path) or {"train": path}
    keys = sorted({folder.name for root in roots.values() for folder in _folders(root)})
    if not keys:
        raise InputError(f"{roots[split]} holds no folders; one folder of pictures for each class was expected.")
    label_of = {key: label for label, key in enumerate(keys)}
    pairs = []

    def refuse(path: Path, reason: str) -> None:
        raise InputError(f"{path} can't be read: {reason}. Repair it or move it away.")

    for found in walk_images(roots[split], on_problem=refuse):
        key, _, below = found.relative.partition("/")
        if not below:
            raise InputError(
                f"{roots[split] / key} lies beside the classes' folders; move it into the one it belongs to."
            )
        image = FileImage(path=roots[split] / found.relative)
        pairs.append(Pair(id=found.relative, image=image, captions=(), label=label_of[key]))
    return _make_dataset(f"{CLASS_FOLDERS}:{path}", split, pairs, [(key.replace("_", " "),) for key in keys])


def label_list_splits(path: Path) -> tuple[Split, ...]:
    """The splits that rows are in. Raises InputError with file and line for a broken row."""
    return in_order({split for _, _, split in _read_rows(path)})


def load_label_list(path: Path, *, split: Split) -> Dataset:
    """Images of a CSV or TSV file with columns `filepath`, `label` and, if it has splits, `split`.

    Paths are relative to the file's folder, or absolute. The classes are the labels that occur: names, or numbers that
    a file of classes names. Raises InputError with file and line for a broken row, and where images are absent.
    """
    rows = list(_read_rows(path))
    require_split(split, {row_split for _, _, row_split in rows}, source=path)
    labels = {label for _, label, _ in rows}
    names = sorted(labels, key=int) if all(map(str.isdecimal, labels)) else sorted(labels)
    label_of = {name: label for label, name in enumerate(names)}
    chosen = [(file, label_of[label]) for file, label, row_split in rows if row_split == split]
    places = ImageFolder(path.parent).find([file for file, _ in chosen], source=path)
    pairs = [
        Pair(id=file, image=FileImage(path=places[file]), captions=(), label=label)
        for file, label in chosen
        if file in places
    ]
    return _make_dataset(f"{LABEL_LIST}:{path}", split, pairs, [(name,) for name in names])


def name_classes(dataset: Dataset, path: Path) -> Dataset:
    """The same images, their classes named by a file: one class a line in the order of labels, synonyms after commas.

    Classes that are numbers of lines are counted from 0, from 1 where the largest is the number of lines; all lines are
    classes then. A line may begin with the class's present name (its folder) and a tab; then the order
    doesn't matter. Raises InputError where lines and classes don't match.
    """
    if dataset.class_names is None:
        return dataset
    names, keys = _read_names(path)
    present = [_fold(names[0]) for names in dataset.class_names]
    if keys is None and all(map(str.isdecimal, present)):
        numbers = [int(number) for number in present]
        first = int(max(numbers) == len(names) and min(numbers) > 0)
        if max(numbers) - first < len(names):
            pairs = [
                pair if pair.label is None else replace(pair, label=numbers[pair.label] - first) for pair in dataset
            ]
            return replace(dataset, pairs=pairs, class_names=tuple(names))  # each class is the line of its number
    place = {name: label for label, name in enumerate(present)}
    # a list of all ImageNet's classes may name a folder of ten
    labels = list(range(len(names))) if keys is None else [place.get(key) for key in keys]
    named = {label: names for label, names in zip(labels, names, strict=True) if label is not None}
    if sorted(named) != list(range(len(dataset.class_names))):
        unnamed = [names[0] for label, names in enumerate(dataset.class_names) if label not in named]
        if unnamed:
            missing = ", ".join(unnamed[:3])
            raise InputError(f"{path} names {len(named)} of {len(dataset.class_names)} classes; missing: {missing}.")
        raise InputError(f"{path} has {len(named)} lines, but there are {len(dataset.class_names)} classes.")
    return replace(dataset, class_names=tuple(named[label] for label in range(len(named))))


def _read_names(path: Path) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """Each line's names, and the classes that lines begin with, where they do."""
    lines = list(read_lines(path))
    keyed = "\t" in lines[0][1]
    all_names, keys = [], []
    for number, line in lines:
        key, tab, rest = line.partition("\t")
        if bool(tab) != keyed:
            raise InputError(f"{path}:{number}: either every line begins with a class and a tab, or none does.")
        names = tuple(name for part in (rest if keyed else line).split(",") if (name := part.strip()))
        if not names:
            raise InputError(f"{path}:{number}: a name was expected.")
        all_names.append(names)
        keys.append(_fold(key))
    return all_names, keys if keyed else None


def require_labels(dataset: Dataset) -> Dataset:
    """The data set. Raises InputError where it has no classes, or an image no label."""
    if dataset.class_names is None:
        raise InputError(
            f"{dataset.name} has no classes. Give a folder with a folder for each class (classes:PATH), a list with "
            "the columns filepath and label (labels:FILE), or tiny-imagenet:PATH."
        )
    for pair in dataset:
        if pair.label is None or not 0 <= pair.label < len(dataset.class_names):
            raise InputError(
                f"{dataset.name}: {pair.id} has the label {pair.label}; classes are 0 to "
                f"{len(dataset.class_names) - 1}."
            )
    shared = [name for name, count in Counter(names[0] for names in dataset.class_names).items() if count > 1]
    if shared:
        _LOG.warning(
            "%s: several classes are called %s; sentences can't tell them apart. Give each a name of its own.",
            dataset.name,
            list_some(shared),
        )
    return dataset


def labels_of(dataset: Dataset, images: EmbeddedImages) -> NDArray[np.int64]:
    """Labels of the images that were embedded (B,); `require_labels` has found that all have one."""
    return np.array([dataset[row].label for row in images.row_B], np.int64)


def _recognise(address: str) -> tuple[str | None, Path]:
    kind, colon, rest = address.partition(":")
    if colon and kind in LABELLED_KINDS:
        return kind, Path(rest).expanduser()
    path = Path(address).expanduser()
    if path.is_dir() and _looks_like_classes(path):
        return CLASS_FOLDERS, path
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file() and {"filepath", "label"} <= set(_columns(path)):
        return LABEL_LIST, path
    return None, path


def _looks_like_classes(path: Path) -> bool:
    """True where every folder holds images, and none lies beside them."""
    if any(is_image_name(entry.name) for entry in path.iterdir() if entry.is_file()):
        return False
    roots = _split_roots(path) or {"train": path}
    folders = [folder for root in roots.values() for folder in _folders(root)]
    return bool(folders) and all(any(is_image_name(file.name) for file in folder.iterdir()) for folder in folders)


def _split_roots(path: Path) -> dict[Split, Path]:
    """The folders of splits, where all folders are such: a class may be called `train`."""
    folders = _folders(path)
    return find_split_paths(folders) if folders and all(split_named(folder.name) for folder in folders) else {}


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _read_rows(path: Path) -> Iterator[tuple[str, str, Split]]:
    """File, label and split of each row. Raises InputError with file and line for a broken one."""
    if not {"filepath", "label"} <= set(columns := _columns(path)):
        next(read_lines(path))  # a file that is missing, empty or not UTF-8 is told as such
        raise InputError(f"{path}:1: columns filepath and label were expected; these are {', '.join(columns)}.")
    for number, row in read_rows(path, delimiter=_delimiter(path)):
        where = f"{path}:{number}"
        label = row["label"].strip()
        if not label:
            raise InputError(f"{where}: the label is empty.")
        split: Split = parse_split(row["split"], where=where) if "split" in row else "train"
        label = str(int(label)) if label.isdecimal() else label
        yield check_name(row["filepath"], where=where, absolute=True), label, split


def _columns(path: Path) -> list[str]:
    return next(csv.reader([first_line(path)], delimiter=_delimiter(path)), [])


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _make_dataset(name: str, split: Split, pairs: list[Pair], class_names: Sequence[tuple[str, ...]]) -> Dataset:
    fingerprint = fingerprint_of_pairs(pairs)
    return Dataset(name=name, split=split, pairs=pairs, fingerprint=fingerprint, class_names=tuple(class_names))


def _fold(name: str) -> str:
    return name.replace("_", " ").strip()

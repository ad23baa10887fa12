"""COCO's result files: a JSON list of `{"image_id": 42, "caption": "..."}`, read for any data set, and written."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.data.captioned_files import read_json

_NUMBER = re.compile(r"(?:^|_)0*(\d+)$")
"""COCO's number of an image in its file name: `COCO_val2014_000000000042.jpg`."""
_N_NAMED = 3
_EXPECTED = 'a list of {"image_id": ..., "caption": "..."} was expected'


def read_results(path: Path, dataset: Dataset) -> list[str]:
    """The caption of each picture, in the order of the data set.

    An `image_id` is a pair's id, its file name, that without its ending, or the number at its end. Raises InputError
    for another structure, ids that the data set doesn't have or has several times, pictures that have no caption in
    the file, or several; each with its count.
    """
    entries = [_check_entry(entry, where=f"{path}: entry {number}") for number, entry in enumerate(_entries(path))]
    rows = _find_rows([key for key, _ in entries], dataset, path=path)
    captions = dict(zip(rows, (caption for _, caption in entries), strict=True))
    if twice := [dataset[row].id for row, count in Counter(rows).items() if count > 1]:
        raise InputError(f"{path}: {_count(twice)} with several captions: {_list(twice)}. Keep one for each.")
    if missing := [pair.id for row, pair in enumerate(dataset) if row not in captions]:
        raise InputError(
            f"{path} has no caption for {_count(missing)} of {dataset.name}'s {len(dataset)} ({dataset.split}): "
            f"{_list(missing)}. Caption them too, or take the part of the data set that the file is of."
        )
    return [captions[row] for row in range(len(dataset))]


def write_results(path: Path, captions: Mapping[str, str], dataset: Dataset) -> None:
    """Write captions by pair id, in the order of the data set, whole or not at all.

    An `image_id` is the number at the end of the file's name where all pictures have one of their own, as COCO's tools
    take it, and the pair's id otherwise. Raises InputError where the file can't be written.
    """
    entries = [
        {"image_id": key, "caption": captions[pair.id]}
        for key, pair in zip(_result_ids(dataset), dataset, strict=True)
        if pair.id in captions
    ]
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(entries, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Known before the first caption is made. Raises InputError where the file exists or its folder can't be used."""
    if path.exists():
        raise InputError(f"{path} exists. Name another file for the captions, or delete it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"Captions can't be written to {path}: {error.strerror or error}. Name another file.")


def _entries(path: Path) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a JSON {type(content).__name__}"
        raise InputError(f"{path} holds {found}; {_EXPECTED}, one for each picture.")
    return content


def _check_entry(entry: Any, *, where: str) -> tuple[str, str]:
    """Id as text, and caption."""
    key = entry.get("image_id") if isinstance(entry, dict) else None
    caption = entry.get("caption") if isinstance(entry, dict) else None
    if not isinstance(key, int | str) or isinstance(key, bool) or not isinstance(caption, str):
        raise InputError(f"{where} is {json.dumps(entry)[:80]}; {_EXPECTED}.")
    return str(key), caption


def _find_rows(keys: Sequence[str], dataset: Dataset, *, path: Path) -> list[int]:
    """The row that each id means. Raises InputError for ids that mean none, or several."""
    indexes = [_index(dataset, name) for name in (_whole, _file_name, _stem, _number)]
    found = [next((index[key] for index in indexes if key in index), []) for key in keys]
    if unknown := [key for key, rows in zip(keys, found, strict=True) if not rows]:
        raise InputError(
            f"{path}: {_count(unknown)} that {dataset.name} ({dataset.split}) doesn't have: ids {_list(unknown)}. "
            f"Its ids look like {dataset[0].id!r}; is this another split, or only a part of it?"
        )
    if unclear := [key for key, rows in zip(keys, found, strict=True) if len(rows) > 1]:
        raise InputError(f"{path}: {_count(unclear)} whose id fits several of {dataset.name}: {_list(unclear)}.")
    return [rows[0] for rows in found]


def _index(dataset: Dataset, name: Callable[[str], str | None]) -> dict[str, list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, pair in enumerate(dataset):
        if (key := name(pair.id)) is not None:
            rows[key].append(row)
    return dict(rows)


def _result_ids(dataset: Dataset) -> list[int] | list[str]:
    numbers = [_number(pair.id) for pair in dataset]
    if None in numbers or len(set(numbers)) < len(numbers):
        return [pair.id for pair in dataset]
    return [int(number) for number in numbers if number is not None]


def _whole(id_: str) -> str:
    return id_


def _file_name(id_: str) -> str:
    return PurePosixPath(id_).name


def _stem(id_: str) -> str:
    return PurePosixPath(id_).stem


def _number(id_: str) -> str | None:
    match = _NUMBER.search(_stem(id_))
    return match[1] if match else None


def _count(ids: Sequence[str]) -> str:
    return "1 picture" if len(ids) == 1 else f"{len(ids)} pictures"


def _list(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_N_NAMED]) + (", ..." if len(ids) > _N_NAMED else "")

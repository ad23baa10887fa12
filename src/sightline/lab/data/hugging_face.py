"""Hugging Face `datasets`: folders that it saved or can read, and sets of the hub."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import ImageError, InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, Pair, Split, fingerprint_of, in_order
from sightline.lab.data.captioned_files import list_some, require_split, split_named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_TEXT_COLUMNS = ("text", "caption", "captions", "sentences")
_MIN_VERSION = 4
"""Older versions can run a script that a set brings along."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HuggingFaceImage:
    """An image in a row of a set that the library opens."""

    source: str
    """Absolute folder, or the hub's name."""
    split: str
    """As the set calls it."""
    column: str
    row: int

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the row holds no image that can be decoded."""
        from sightline.core.images.decode import read_image

        cell = _open_column(self.source, self.split, self.column)[self.row][self.column] or {}
        data, path = cell.get("bytes"), cell.get("path")
        if data is not None:
            return read_image(data, min_side_px=min_side_px).rgb
        if not path:
            raise ImageError("the row holds no picture")
        if "://" in path:
            raise ImageError("the picture is an address, not a file")
        return read_image(Path(path), min_side_px=min_side_px).rgb


class HuggingFaceReader:
    """Reads what the library `datasets` opens: `hf:FOLDER`, `hf:ORG/NAME` or `hf:ORG/NAME:CONFIG`."""

    kind = "hf"

    def recognises(self, path: Path) -> bool:
        """True where `path` is a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
        return _is_saved(path)

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The set's splits that are train, val or test. Raises InputError where it can't be opened."""
        return in_order({split_named(name) for name in _open(_source_of(path))})

    def load(self, path: Path, *, split: Split) -> Dataset:
        """The rows of one split that have an image column and a text.

        Captions are the strings of the columns text, caption, captions or sentences (one of them, or numbered such as
        caption_0, caption_1); else the name of the row's class. Rows without a text are left out with a warning.
        Raises InputError where the library is missing or can't open the set, and for a missing split or column.
        """
        source = _source_of(path)
        known: dict[Split, str] = {}
        for word in (splits := _open(source)):
            if (found := split_named(word)) is not None:
                known.setdefault(found, word)
        require_split(split, known, source=path)
        rows = splits[known[split]]
        name = f"{self.kind}:{path}"
        pairs, class_names = _read_rows(rows, source=source, split=known[split], name=name)
        files = sorted(_stamp(file["filename"]) for file in rows.cache_files)
        fingerprint = fingerprint_of([*files, *(part for p in pairs for part in (p.id, str(p.label), *p.captions))])
        return Dataset(name=name, split=split, pairs=pairs, fingerprint=fingerprint, class_names=class_names)


READER = HuggingFaceReader()


def import_datasets() -> Any:
    """The library. Raises InputError with what to install where it is missing or runs scripts of sets."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"hf: needs the library datasets: pip install 'datasets>={_MIN_VERSION}'") from error
    if int(datasets.__version__.partition(".")[0]) < _MIN_VERSION:
        raise InputError(
            f"hf: needs datasets {_MIN_VERSION} or later, this is {datasets.__version__}: "
            f"pip install 'datasets>={_MIN_VERSION}'"
        )
    return datasets


def _source_of(path: Path) -> str:
    return str(path.absolute()) if path.is_dir() else path.as_posix()


def _is_saved(path: Path) -> bool:
    return is_file(path / "dataset_dict.json") or (is_file(path / "dataset_info.json") and is_file(path / "state.json"))


def _open(source: str) -> dict[str, Any]:
    """The splits of a set under the names that it gives them."""
    datasets = import_datasets()
    folder = Path(source)
    try:
        if _is_saved(folder):
            opened = datasets.load_from_disk(source)
        elif folder.is_dir():
            opened = datasets.load_dataset(source)
        else:
            name, _, config = source.partition(":")
            opened = datasets.load_dataset(name, config or None)
    except Exception as error:  # the library has no base class for what it raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"hf:{source} can't be opened: {lines[0]} Give a folder that datasets can read, or a name on the hub "
            "(with a network connection); a config goes behind a colon."
        ) from error
    if isinstance(opened, dict):
        return opened
    return {str(opened.split) if opened.split is not None and split_named(str(opened.split)) else "train": opened}


@lru_cache(maxsize=16)
def _open_column(source: str, split: str, column: str) -> Any:
    """One column with the images as bytes: our own decoder reads them. Kept open, since each row is asked for."""
    image = import_datasets().Image(decode=False)
    return _open(source)[split].select_columns([column]).cast_column(column, image)


def _read_rows(
    rows: Any, *, source: str, split: str, name: str
) -> tuple[list[Pair], tuple[tuple[str, ...], ...] | None]:
    """The pairs of a split, and the names of its classes, `_` read as a space; the images are not touched."""
    datasets, features = import_datasets(), rows.features
    columns = ", ".join(f"{column} ({getattr(feature, 'dtype', feature)})" for column, feature in features.items())
    image_columns = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not image_columns:
        raise InputError(f"{name} has no column of images; its columns are {columns}.")
    image_column = "image" if "image" in image_columns else str(image_columns[0])
    label_column = next((key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)), None)
    class_names = label_column and tuple((str(one).replace("_", " "),) for one in features[label_column].names)
    text_columns = _text_columns(features)
    if label_column is None and not text_columns:
        raise InputError(
            f"{name} has no column of captions; its columns are {columns}. "
            f"One of {', '.join(_TEXT_COLUMNS)} was expected, or numbered ones like caption_0."
        )
    pairs, textless = [], []
    for row, cells in enumerate(rows.select_columns([*text_columns, *([label_column] if label_column else [])])):
        number = cells.get(label_column)
        label = number if class_names and isinstance(number, int) and number >= 0 else None
        captions = tuple(text for column in text_columns for text in _texts_of(cells[column]))
        if not captions and class_names and label is not None:
            captions = class_names[label]
        if not captions:
            textless.append(str(row))
            continue
        image = HuggingFaceImage(source=source, split=split, column=image_column, row=row)
        pairs.append(Pair(id=f"{split}/{row}", image=image, captions=captions, label=label))
    if not pairs:
        raise InputError(f"{name}: no row of split {split} has a text in {', '.join(text_columns)}.")
    if textless:
        _LOG.warning("%s: %d rows without a text are left out: %s.", name, len(textless), list_some(textless))
    return pairs, class_names or None


def _text_columns(features: Any) -> list[str]:
    for name in _TEXT_COLUMNS:
        numbered = re.compile(rf"{name}_?\d*")
        if found := [column for column in features if numbered.fullmatch(column)]:
            return found
    return []


def _texts_of(cell: Any) -> list[str]:
    """A string, a list of them, or the `raw` of Karpathy's sentences."""
    if isinstance(cell, str):
        return [text] if (text := " ".join(cell.split())) else []
    if isinstance(cell, list):
        return [text for part in cell for text in _texts_of(part)]
    return _texts_of(cell.get("raw")) if isinstance(cell, dict) else []


def _stamp(path: str) -> str:
    status = Path(path).stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"

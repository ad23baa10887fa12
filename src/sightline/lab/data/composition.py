"""SugarCrepe, ARO and Winoground: images with a true sentence and one that is almost right, for `eval compose`.

SugarCrepe: Hsieh et al. 2023, arXiv:2306.14610. ARO: Yuksekgonul et al. 2023, arXiv:2210.01936, its Visual Genome
parts; its shuffled captions need a tagger and are left out. Winoground: Thrush et al. 2022, arXiv:2204.03162. All of
them are sets to measure on, so their split is `test`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import ImageError, InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import Dataset, FileImage, HardNegative, ImageSource, Pair, Split, fingerprint_of_pairs
from sightline.lab.data.captioned_files import ImageFolder, check_name, choose_folder, read_json, require_split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUGARCREPE = tuple(
    f"{kind}.json"
    for kind in ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
)
_ARO = {"visual_genome_relation.json": "relation", "visual_genome_attribution.json": "attribution"}
_WINOGROUND = "examples.jsonl"

_Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class CroppedImage:
    """A part of an image file: the box that a sentence of ARO is about."""

    path: Path
    box: _Box
    """Left, top, width and height in pixels of the upright image."""

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the file can't be read or the box lies outside it."""
        left, top, width, height = self.box
        rgb_HW3 = FileImage(path=self.path).read()[max(top, 0) : top + height, max(left, 0) : left + width]
        if not rgb_HW3.size:
            raise ImageError(f"its box {self.box} lies outside the image")
        return rgb_HW3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """One comparison."""

    key: str
    """Cases of one key are one image's."""
    name: str
    caption: str
    negative: str
    kind: str
    box: _Box | None = None


@dataclass(frozen=True, kw_only=True)
class CompositionReader:
    """One of the sets: the names of its files, what reads the cases of one, and where images may lie."""

    kind: str
    names: Collection[str]
    read: Callable[[Path], Iterable[_Case]]
    folders: Sequence[str]
    expected: str
    """The files, for a message."""

    def recognises(self, path: Path) -> bool:
        """True where the set's files are there."""
        return bool(self._find(path))

    def splits(self, path: Path) -> tuple[Split, ...]:
        """Only `test`. Raises InputError where the set isn't there."""
        if not self._find(path):
            raise InputError(f"{path} has no {self.expected}, here or in data/. Give the folder that holds them.")
        return ("test",)

    def load(self, path: Path, *, split: Split) -> Dataset:
        """All images, each with its true sentences and the false ones.

        Absent images are left out with a warning. Raises InputError naming file and entry for another structure, and
        where no image is there.
        """
        require_split(split, self.splits(path), source=path)
        files = self._find(path)
        cases: defaultdict[str, list[_Case]] = defaultdict(list)
        for file in files:
            for case in self.read(file):
                cases[case.key].append(case)
        names = list(dict.fromkeys(some[0].name for some in cases.values()))
        folder: ImageFolder = choose_folder([path / one for one in self.folders], names=names, source=files[0])
        places = folder.find(names, source=files[0])
        pairs = []
        for key, some in cases.items():
            if (place := places.get(some[0].name)) is None:
                continue
            box = some[0].box
            image: ImageSource = FileImage(path=place) if box is None else CroppedImage(path=place, box=box)
            negatives = tuple(HardNegative(caption=c.caption, negative=c.negative, kind=c.kind) for c in some)
            captions = tuple(dict.fromkeys(case.caption for case in some))
            pairs.append(Pair(id=key, image=image, captions=captions, negatives=negatives))
        fingerprint = fingerprint_of_pairs(pairs)
        return Dataset(name=f"{self.kind}:{path}", split=split, pairs=pairs, fingerprint=fingerprint)

    def _find(self, path: Path) -> list[Path]:
        """The set's files in a folder, or in its `data`."""
        here, below = ([f / name for name in self.names if is_file(f / name)] for f in (path, path / "data"))
        return here or below


def _read_sugarcrepe(file: Path) -> Iterator[_Case]:
    """`{"0": {"filename": ..., "caption": ..., "negative_caption": ...}, ...}`, a file for each kind."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: an object of numbered entries was expected.")
    for number, entry in content.items():
        name, caption, negative = _texts(entry, "filename", "caption", "negative_caption", where=f"{file}: {number}")
        yield _Case(key=name, name=name, caption=caption, negative=negative, kind=file.stem)


def _read_aro(file: Path) -> Iterator[_Case]:
    """A list of entries with `image_path`, a box, `true_caption` and `false_caption`."""
    content = read_json(file)
    if not isinstance(content, list):
        raise InputError(f"{file}: a list of entries was expected.")
    kind = _ARO[file.name]
    for number, entry in enumerate(content):
        where = f"{file}: [{number}]"
        name, caption, negative = _texts(entry, "image_path", "true_caption", "false_caption", where=where)
        try:
            left, top, width, height = (int(entry[f"bbox_{side}"]) for side in "xywh")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: bbox_x, bbox_y, bbox_w and bbox_h were expected, whole numbers.") from error
        box = (left, top, width, height)
        yield _Case(key=f"{name}@{box}", name=name, caption=caption, negative=negative, kind=kind, box=box)


def _read_winoground(file: Path) -> Iterator[_Case]:
    """A line for each quartet: `image_0`, `image_1`, `caption_0`, `caption_1`, with the same words in both captions."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{file}:{number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: {error}. One JSON object a line was expected; is the file cut off?") from error
        images = _texts(entry, "image_0", "image_1", where=where)
        captions = _texts(entry, "caption_0", "caption_1", where=where)
        kind = str(entry.get("collapsed_tag") or "swap").lower()
        for one in (0, 1):
            name = images[one] if "." in images[one] else f"{images[one]}.png"
            key = f"{entry.get('id', number)}/{one}"
            yield _Case(key=key, name=name, caption=captions[one], negative=captions[1 - one], kind=kind)


def _texts(entry: Any, *keys: str, where: str) -> list[str]:
    """The values of some keys; the first is the name of a file. Raises InputError where one is no text."""
    values = [entry.get(key) if isinstance(entry, dict) else None for key in keys]
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise InputError(f"{where}: {', '.join(keys)} were expected, each a text.")
    texts = [str(value) for value in values]
    return [check_name(texts[0], where=where), *texts[1:]]


READERS = (
    CompositionReader(
        kind="sugarcrepe",
        names=_SUGARCREPE,
        read=_read_sugarcrepe,
        folders=("val2017", "images/val2017", "images", ""),
        expected="add_att.json, ..., swap_obj.json",
    ),
    CompositionReader(
        kind="aro",
        names=_ARO,
        read=_read_aro,
        folders=("images", ""),
        expected="visual_genome_relation.json or visual_genome_attribution.json",
    ),
    CompositionReader(
        kind="winoground",
        names=[_WINOGROUND],
        read=_read_winoground,
        folders=("images", "data/images", ""),
        expected=_WINOGROUND,
    ),
)

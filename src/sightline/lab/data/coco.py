"""COCO captions: the publisher's JSON and image folders, or Karpathy's splits of them.

Karpathy's JSON holds captions and splits in one file, of Flickr8k and Flickr30k too (arXiv:1412.2306, code release).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import SPLITS, Dataset, Split
from sightline.lab.data.captioned_files import (
    SPLIT_WORDS,
    CaptionedFiles,
    ImageFolder,
    check_name,
    choose_folder,
    list_some,
    read_head,
    read_json,
    require_split,
    split_within,
)

_CAPTIONS = re.compile(r"captions_(train|val|test)(\d*)\.json")
_KARPATHY = "dataset_coco.json"

KARPATHY_SPLITS: dict[str, Split] = {**SPLIT_WORDS, "restval": "train"}
"""`restval` are images of COCO's val2014 that neither val nor test took; the field trains on them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Annotations:
    """One JSON of captions, and where its images may lie."""

    path: Path
    split: Split
    year: str

    def image_folders(self) -> list[Path]:
        """Places to look for images, the publisher's first."""
        beside = self.path.parent
        roots = [beside.parent, beside] if beside.name == "annotations" else [beside, beside.parent]
        names = [f"{self.split}{self.year}", f"images/{self.split}{self.year}", self.split, f"images/{self.split}"]
        return [root / name for root in roots for name in (*names, self.path.stem, "images", "")]


class CocoReader:
    """COCO captions. Where Karpathy's `dataset_coco.json` is there, it alone decides splits and captions.

    The path is a folder with `annotations/captions_train2017.json` and `train2017/` (or 2014; the later year where both
    are there), or one JSON of that structure, whose split is the one its name holds, train otherwise.
    """

    kind = "coco"

    def recognises(self, path: Path) -> bool:
        """True where a folder holds COCO's caption files or Karpathy's, or a file is one of them."""
        if is_file(path):
            head = read_head(path) if path.suffix == ".json" else ""  # a JSON often is one long line
            is_coco = '"annotations"' in head or ('"images"' in head and '"file_name"' in head)
            return path.suffix == ".json" and (path.name == _KARPATHY or is_coco)
        return _find_karpathy(path) is not None or bool(_find_annotations(path))

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split.

        Raises InputError for a missing or broken JSON, a split without captions (the publisher keeps test's), an
        image in two splits, ids that occur twice or point nowhere, and images that have captions but are absent.
        """
        karpathy = _find_karpathy(path)
        if karpathy:
            return _load_karpathy(karpathy, name=f"coco:{path}", split=split)
        annotations = _require_annotations(path)
        if split == "test" and split not in annotations and not path.is_file():
            raise InputError(
                f"COCO's publisher gives no captions for test. {path} has {', '.join(annotations)}: take one of them, "
                f"or put Karpathy's {_KARPATHY} there, which has a test split."
            )
        require_split(split, annotations, source=path)
        files, folder = _read_split(annotations[split])
        _check_other_splits(annotations, split=split, files=files, folder=folder)
        return files.to_dataset(name=f"coco:{path}", split=split, folder=folder)

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that have captions."""
        karpathy = _find_karpathy(path)
        return read_karpathy(karpathy).splits() if karpathy else tuple(_require_annotations(path))


def _find_karpathy(path: Path) -> Path | None:
    if path.name == _KARPATHY:
        return path
    places = (path, path / "annotations", path / "karpathy")
    return next((place / _KARPATHY for place in places if is_file(place / _KARPATHY)), None)


def _find_annotations(path: Path) -> dict[Split, _Annotations]:
    """The JSON of each split, of the latest year that is there; a file given itself stands alone."""
    if is_file(path):
        match = _CAPTIONS.fullmatch(path.name)
        split = split_within(path.stem) or "train"
        return {split: _Annotations(path=path, split=split, year=match[2] if match else "")}
    found = [
        _Annotations(path=file, split=SPLIT_WORDS[match[1]], year=match[2])
        for folder in (path / "annotations", path)
        for file in folder.glob("captions_*.json")
        if (match := _CAPTIONS.fullmatch(file.name))
    ]
    year = max((annotations.year for annotations in found), default="")
    ordered = sorted(found, key=lambda annotations: SPLITS.index(annotations.split))
    return {annotations.split: annotations for annotations in ordered if annotations.year == year}


def _require_annotations(path: Path) -> dict[Split, _Annotations]:
    if found := _find_annotations(path):
        return found
    others = sorted(file.name for folder in (path / "annotations", path) for file in folder.glob("*.json"))
    there = f"; {list_some(others)} is there, which holds no captions" if others else ""
    raise InputError(
        f"{path} has no annotations/captions_train2017.json, captions_val2017.json or the like, and no {_KARPATHY}"
        f"{there}. Unpack COCO's annotations_trainval2017.zip there."
    )


def _read_split(annotations: _Annotations) -> tuple[CaptionedFiles, ImageFolder]:
    """All captions of one JSON, and the folder of its images. Raises InputError naming an entry that doesn't fit."""
    path, split = annotations.path, annotations.split
    content = read_json(path)
    images, texts = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(texts, list) or not images:
        raise InputError(f"{path}: COCO's lists `images` and `annotations` were expected.")
    captions = _captions_by_image(texts, path=path)
    files = CaptionedFiles(path)
    seen: set[Any] = set()
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        key = _field(image, "id", where=where)
        name = check_name(_field(image, "file_name", where=where), where=where)
        if key in seen or name in files:
            raise InputError(f"{where}: id {key} or file {name} occurs twice; both must be unique.")
        seen.add(key)
        files.add(name, captions.get(key, ()), where=where, split=split)
    if lost := [str(key) for key in captions if key not in seen]:
        raise InputError(f"{path}: captions of {len(lost)} images that `images` doesn't list: ids {list_some(lost)}.")
    return files, choose_folder(annotations.image_folders(), names=files.names(split), source=path)


def _captions_by_image(annotations: list[Any], *, path: Path) -> dict[Any, list[str]]:
    captions: defaultdict[Any, list[str]] = defaultdict(list)
    seen: set[Any] = set()
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        caption = _field(annotation, "caption", where=where)
        if not isinstance(caption, str):
            raise InputError(f"{where}: the caption is no text.")
        if "id" in annotation:
            key = _field(annotation, "id", where=where)
            if key in seen:
                raise InputError(f"{where}: the id {key} occurs twice; ids of annotations must be unique.")
            seen.add(key)
        captions[_field(annotation, "image_id", where=where)].append(caption)
    return captions


def _field(entry: Any, key: str, *, where: str) -> Any:
    """A field of an entry, a number or a text. Raises InputError where it lacks it."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int | str):
        found = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        hint = " Is this instances_*.json? Captions are in captions_*.json." if key == "caption" else ""
        raise InputError(f"{where} has no {key}; found: {found}.{hint}")
    return value


def _check_other_splits(
    annotations: dict[Split, _Annotations], *, split: Split, files: CaptionedFiles, folder: ImageFolder
) -> None:
    """Raises InputError where the other split has images of this one: of the same folder and name."""
    for other in annotations.values():
        if other.split == split or folder.root.name == f"{split}{other.year}":
            continue  # such a folder holds one split, by the publisher's custom
        others, other_folder = _read_split(other)
        both = [name for name in others.names(other.split) if name in files]
        if both and other_folder.root == folder.root:
            raise InputError(
                f"{len(both)} images of {folder.root} are in {split} and in {other.split}: {list_some(both)}. "
                f"Take them out of one of {annotations[split].path.name} and {other.path.name}."
            )


def _load_karpathy(path: Path, *, name: str, split: Split) -> Dataset:
    files = read_karpathy(path)
    names = files.names(split)
    root = path.parent.parent if path.parent.name in {"annotations", "karpathy"} else path.parent
    folder = choose_folder([root, root / "images"], names=names, source=path)
    if not any(map(folder.holds, names)):
        # 2017 divided the images anew, and named them by their number: `train2017/000000391895.jpg`
        root_folder, renamed = ImageFolder(root), CaptionedFiles(path)
        for known in names:
            places = (f"{year}/{known.rpartition('_')[2]}" for year in ("train2017", "val2017"))
            if place := next(filter(root_folder.holds, places), None):
                renamed.add(place, files.captions(known), where=f"{path}: {known}", split=split)
        if renamed.splits():
            files, folder = renamed, root_folder
    return files.to_dataset(name=name, split=split, folder=folder)


def read_karpathy(path: Path) -> CaptionedFiles:
    """Images with their splits and captions; where an image has a `filepath`, its name begins with it.

    Raises InputError naming the entry for another structure, an unknown split, and an image that is listed twice.
    """
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise InputError(
            f"{path} has no list `images`; Karpathy's file {{'dataset': ..., 'images': [...]}} was expected."
        )
    files = CaptionedFiles(path)
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        if not isinstance(image, dict) or not {"filename", "split", "sentences"} <= image.keys():
            found = ", ".join(image) if isinstance(image, dict) else type(image).__name__
            raise InputError(f"{where} has {found}; filename, split and sentences were expected.")
        folder = image.get("filepath")
        name = check_name(f"{folder}/{image['filename']}" if folder else image["filename"], where=where)
        split = KARPATHY_SPLITS.get(str(image["split"]))
        if split is None:
            raise InputError(f"{where}: {image['split']!r} is no split; train, restval, val or test was expected.")
        listed = name in files
        try:
            files.add(name, [sentence["raw"] for sentence in image["sentences"]], where=where, split=split)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{where}: a list of sentences, each with its `raw` text, was expected.") from error
        if listed:
            raise InputError(f"{where}: {name} is listed twice. Keep one entry with all its sentences.")
    return files


READER = CocoReader()

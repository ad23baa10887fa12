"""Karpathy's JSON of Flickr8k, Flickr30k and COCO: captions and splits in one file (arXiv:1412.2306, code release)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.lab.data.base import Split
from sightline.lab.data.captioned_files import CaptionedFiles, check_name
from sightline.lab.data.split_names import SPLIT_WORDS
from sightline.lab.data.text_files import read_json

KARPATHY_SPLITS: dict[str, Split] = {**SPLIT_WORDS, "restval": "train"}
"""`restval` are images of COCO's val2014 that neither val nor test took; the field trains on them."""


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
        _add_image(files, image, where=f"{path}: images[{number}]")
    return files


def _add_image(files: CaptionedFiles, image: Any, *, where: str) -> None:
    if not isinstance(image, dict) or not {"filename", "split", "sentences"} <= image.keys():
        found = ", ".join(image) if isinstance(image, dict) else type(image).__name__
        raise InputError(f"{where} has {found}; filename, split and sentences were expected.")
    folder = image.get("filepath")
    name = check_name(f"{folder}/{image['filename']}" if folder else image["filename"], where=where)
    split = KARPATHY_SPLITS.get(str(image["split"]))
    if split is None:
        raise InputError(f"{where}: {image['split']!r} is no split; train, restval, val or test was expected.")
    listed = name in files
    files.add(name, _sentences(image["sentences"], where=where), where=where, split=split)
    if listed:
        raise InputError(f"{where}: {name} is listed twice. Keep one entry with all its sentences.")


def _sentences(sentences: Any, *, where: str) -> list[str]:
    try:
        captions = [sentence["raw"] for sentence in sentences]
    except (TypeError, KeyError) as error:
        raise InputError(f"{where}: a list of sentences, each with its `raw` text, was expected.") from error
    if not all(isinstance(caption, str) for caption in captions):
        raise InputError(f"{where}: a sentence's `raw` is no text.")
    return captions

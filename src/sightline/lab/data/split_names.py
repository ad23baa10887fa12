"""The words that publishers and users have for train, val and test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sightline.errors import InputError
from sightline.lab.data.base import SPLITS, Split

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of files, folders and cells -> split: the words of Hugging Face's `imagefolder`, and Flickr8k's `dev`."""


def split_named(word: str) -> Split | None:
    """The split that a word stands for, upper or lower case; None for any other word."""
    return SPLIT_WORDS.get(word.strip().lower())


def parse_split(word: str, *, where: str) -> Split:
    """The split that a word stands for. Raises InputError that names `where` (`file:line`) for any other word."""
    if (split := split_named(word)) is None:
        raise InputError(f"{where}: {word!r} is no split; write one of {', '.join(SPLITS)}.")
    return split


def find_split_paths(paths: Iterable[Path]) -> dict[Split, Path]:
    """Those of some files or folders whose name without extension is a split's.

    Raises InputError where two stand for one split (`val` and `dev`), since only one can be meant.
    """
    found: dict[Split, Path] = {}
    for path in sorted(paths):
        if (split := split_named(path.stem)) is None:
            continue
        if split in found:
            raise InputError(f"{found[split]} and {path} both stand for {split}. Keep one, or merge them.")
        found[split] = path
    return found


def require_split(split: Split, available: Iterable[Split], *, source: Path) -> None:
    """Raises InputError for a split that a source doesn't have, naming those that it has."""
    known = set(available)
    if split not in known:
        names = ", ".join(name for name in SPLITS if name in known) or "none"
        raise InputError(f"{source} has no split {split}; it has: {names}.")

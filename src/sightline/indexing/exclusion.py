"""Leaving out files and folders by pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from pathlib import Path


class Exclusion:
    """Shell patterns against the path of a file and of each folder above it; `*` also stands for `/`.

    `raw` or `*/raw` leaves out every folder `raw`, `raw/*.png` the PNGs in it, `*.png` all PNGs, `/photos/2019` that
    folder. A pattern that begins with neither `/` nor `*` may begin at any folder below the one that is indexed.
    """

    def __init__(self, patterns: Sequence[str], folder: Path) -> None:
        self._folder = folder.as_posix()
        below = re.escape(f"{self._folder}/") + "(?s:.*/)?"
        self._matches = [
            re.compile(("" if pattern.startswith(("/", "*")) else below) + translate(pattern.rstrip("/"))).match
            for pattern in patterns
        ]
        self._excludes_folder = lru_cache(maxsize=4096)(self._find_match)

    def __contains__(self, relative: str) -> bool:
        """Whether a file, by its path below the folder, is left out."""
        return bool(self._matches) and self._find_match(relative)

    def _find_match(self, relative: str) -> bool:
        if any(matches(f"{self._folder}/{relative}") for matches in self._matches):
            return True
        above = relative.rpartition("/")[0]
        return above != "" and self._excludes_folder(above)

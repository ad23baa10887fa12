"""Duplicates: looked for in one thread, since every pair of images is compared, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from sightline.core.library import Library
from sightline.core.search.duplicates import DuplicateGroup, Kind, draw_sketches, find_duplicates, find_exact
from sightline.errors import BusyError, StoreError
from sightline.faces.service.models import lower_priority
from sightline.kit.text import valid_text

if TYPE_CHECKING:
    from pathlib import Path

    from sightline.core.types import ImageRecord
    from sightline.faces.service.library import OpenLibrary

MIN_SIMILARITY = 0.8
"""Below, whole subjects are near each other, and there are too many pairs to look at."""

START_SIMILARITY = 0.9
"""Where what is alike is asked for without one."""

MAX_PAIRS = 2_000_000
_KEPT = 8
_SHOWN_VALUES = 4


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked for. Two that are equal have one answer."""

    exact_only: bool = False
    min_similarity: float | None = None
    """Also what is alike, from this cosine on."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What was found."""

    groups: Sequence[DuplicateGroup]
    """Exact copies, then copies, then what is alike; of each kind the closest first."""
    not_compared: int = 0
    """Images that were compared by their bytes alone."""

    def of_kind(self, kind: Kind | None) -> Sequence[DuplicateGroup]:
        """Those of one kind, or all."""
        return [group for group in self.groups if kind in (None, group.kind)]


def read_wanted(kind: Kind | None, min_similarity: float | None) -> Wanted:
    """What to look for where one kind is asked for, or all: what is alike only comes with a similarity, or its name."""
    if kind == "exact":
        return Wanted(exact_only=True)
    if kind == "alike":
        return Wanted(min_similarity=min_similarity or START_SIMILARITY)
    return Wanted(min_similarity=min_similarity if kind is None else None)


class DuplicateFinder:
    """Finds duplicates in the background. However many clients ask for the same, it is looked for once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sightline-duplicates", initializer=lower_priority)
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[Path, str, Wanted], Future[Duplicates]] = OrderedDict()
        self._closed = False

    def find(self, library: OpenLibrary, wanted: Wanted) -> Future[Duplicates]:
        """The groups of a library. Raises BusyError where too many different searches wait already."""
        key = (library.path, library.version, wanted)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            if sum(not future.done() for future in self._found.values()) > 4:
                raise BusyError("Other searches for duplicates are under way.", retry_after_s=5)
            future = self._found[key] = self._pool.submit(self._search, library, wanted)
            for old in [old for old, kept in self._found.items() if kept.done()][: max(0, len(self._found) - _KEPT)]:
                del self._found[old]
        future.add_done_callback(lambda done: self._drop_failed(key, done))
        return future

    def close(self) -> None:
        """Give up what is under way."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _search(self, served: OpenLibrary, wanted: Wanted) -> Duplicates:
        # A connection of its own: reading all vectors must not keep searches waiting.
        with Library.open(served.path, create=False, read_only=served.config.read_only) as library:
            store = library.store
            if wanted.exact_only:
                return Duplicates(groups=find_exact(store))
            if not store.read_only:
                draw_sketches(store, on_progress=self._check_open)
            groups = find_duplicates(
                store,
                model=served.model if served.model in store.models() else None,
                min_similarity=wanted.min_similarity,
                max_pairs=MAX_PAIRS,
                on_progress=self._check_open,
            )
            groups.sort(key=lambda group: (get_args(Kind).index(group.kind), -group.similarity))
            return Duplicates(groups=groups, not_compared=len(store.missing_sketches()))

    def _check_open(self, done: int, total: int | None, what: str) -> None:
        if self._closed:
            raise StoreError("The server is stopping.", kind="stopping")

    def _drop_failed(self, key: tuple[Path, str, Wanted], done: Future[Duplicates]) -> None:
        if done.cancelled() or done.exception() is not None:
            with self._lock:
                self._found.pop(key, None)


def describe_differences(images: Sequence[ImageRecord]) -> list[str]:
    """Differences between the images of a group, in their order: `size 2.1 MB / 0.4 MB`."""
    facts: dict[str, Callable[[ImageRecord], str]] = {
        "pixels": lambda image: f"{image.info.width} × {image.info.height}",
        "size": lambda image: _megabytes(image.size_bytes),
        "format": lambda image: image.info.format,
        "taken": lambda image: (image.info.taken_at or "unknown").replace("T", " "),
        "camera": lambda image: valid_text(image.info.camera or "unknown"),
        "name": lambda image: valid_text(image.path.name),
        "folder": lambda image: valid_text(image.path.parent),
    }
    values = {name: [describe(image) for image in images] for name, describe in facts.items()}
    return [f"{name} {_join(those)}" for name, those in values.items() if len(set(those)) > 1]


def _join(values: Sequence[str]) -> str:
    more = [f"{len(values) - _SHOWN_VALUES} more"] if len(values) > _SHOWN_VALUES else []
    return " / ".join([*values[:_SHOWN_VALUES], *more])


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"

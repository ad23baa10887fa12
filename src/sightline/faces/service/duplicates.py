"""Duplicates: looked for in one thread, since every pair of images is compared, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sightline.core.library import Library
from sightline.core.search.duplicates import DuplicateGroup, Kind, draw_sketches, find_duplicates, find_exact
from sightline.errors import BusyError, ConflictError, ForbiddenError, InputError, StoreError
from sightline.faces.service import schemas
from sightline.faces.service.models import lower_priority
from sightline.kit.text import valid_text

if TYPE_CHECKING:
    from sightline.core.search.set_aside import MoveReport
    from sightline.core.types import ImageRecord
    from sightline.faces.service.library import OpenLibrary

MIN_SIMILARITY = 0.8
"""Below, whole subjects are near each other, and there are too many pairs to look at."""

START_SIMILARITY = 0.9
"""Where what is alike is asked for without one."""

MAX_PAIRS = 2_000_000
_KEPT = 8
_SHOWN_VALUES = 4
_SHOWN_FILES = 100


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

    def keep(self, library: OpenLibrary, wanted: Wanted, found: Duplicates) -> None:
        """Take this for the answer on a library as it is now."""
        future = self._found[library.path, library.version, wanted] = Future()
        future.set_result(found)

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


# --- copies set aside -------------------------------------------------------------------------------------------


def set_copies_aside(
    library: OpenLibrary, kind: Kind | None, keep: Collection[int], *, files: int, folder: str | None = None
) -> schemas.MovesAnswer:
    """Move all files but the one to keep of groups of copies, which are named by the images to keep.

    They go below a folder that was allowed, or one beside the library's. Raises ForbiddenError for any other,
    InputError for one inside a folder of the library, where they would be found again, ConflictError where the groups
    aren't there (any more) or hold other than `files` files to move, StoreError for a library that is only read.
    """
    target, wanted = _find_target(library, folder), read_wanted(kind, None)
    found = library.shared.duplicates.find(library, wanted).result()
    chosen = {image.id: group for group in found.of_kind(kind) if (image := group.images[0]).id in keep}
    movable = sum(group.movable for group in chosen.values())
    if len(chosen) < len(set(keep)) or movable != files:
        raise ConflictError(
            f"{len(chosen):,} of {len(set(keep)):,} groups are still there, with {movable:,} files to move, "
            f"not {files:,}: look for duplicates again.",
            kind="changed",
        )
    report = library.set_aside(chosen.values(), target)
    shown = _show_moves(library, report)
    if not report.left:
        rest = [group for group in found.groups if group not in chosen.values()]
        library.shared.duplicates.keep(library, wanted, replace(found, groups=rest))
    return shown


def undo_set_aside(library: OpenLibrary, log: str, *, folder: str | None = None) -> schemas.MovesAnswer:
    """Move the files back that a log in a folder names. Raises as `set_copies_aside`, InputError for what is no log."""
    return _show_moves(library, library.undo_set_aside(_find_target(library, folder) / log))


def folder_aside(library: OpenLibrary) -> Path:
    """The folder beside the library's to which copies go where no other is named."""
    return library.path.with_name(f"{library.path.name}-set-aside")


def _find_target(library: OpenLibrary, text: str | None) -> Path:
    from sightline.faces.service.job_work import is_allowed, resolve  # it knows this module by way of libraries

    usual, allowed = folder_aside(library), library.config.allow_roots
    folder = usual if text is None else resolve(text)
    if folder != usual and not is_allowed(folder, allowed):
        raise ForbiddenError(
            f"Copies can't be moved to or from {folder}, only {' and below '.join(map(str, (usual, *allowed)))}; "
            "`sightline serve --allow-root DIR` allows folders below DIR.",
            kind="folder",
        )
    if any(folder.is_relative_to(root.resolve()) for root in library.stats.roots):
        raise InputError(f"{folder} lies in a folder of the library: name one where they aren't found again.")
    return folder


def _show_moves(library: OpenLibrary, report: MoveReport) -> schemas.MovesAnswer:
    library.changed()
    left = [schemas.SkippedFile(path=valid_text(path), reason=reason) for path, reason in report.left[:_SHOWN_FILES]]
    log = report.log.name if report.moved else None
    return schemas.MovesAnswer(moved=len(report.moved), left=left, folder=valid_text(report.log.parent), log=log)


# --- what tells images apart ------------------------------------------------------------------------------------


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

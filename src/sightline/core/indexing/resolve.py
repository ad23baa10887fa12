"""The decision on a file that was read: touched, renamed, a copy, changed or new. Content is identity.

And what files are gone: they are forgotten at the end of a run, after a second look, never for want of a disk.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightline.core.images.files import file_stamp, hash_file
from sightline.core.store.base import Entry
from sightline.core.types import ImageInfo, ImageRecord
from sightline.kit.work import uninterrupted

if TYPE_CHECKING:
    from sightline.core.indexing.plan import LostFile, Plan, Scope
    from sightline.core.indexing.reading import Reading
    from sightline.core.indexing.report import IndexReport
    from sightline.core.store.base import Store

Change = Literal["added", "updated", "renamed", "copied", "touched", "unchanged"]


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The row to write for a file; the entry lacks this run's vector where `needs_vector`."""

    kind: Change
    entry: Entry
    needs_vector: bool
    claimed: ImageRecord | None = None
    """The row that a renamed file takes over, where it was until now."""
    displaced: ImageRecord | None = None
    """The row of the file's path until now, which takes the place of the claimed one in exchange."""
    is_urgent: bool = False
    """True where files that are read later have to see that rows have moved."""

    @property
    def moves(self) -> Sequence[Entry]:
        """The exchange of places: rows are moved, never overwritten, so that each content finds its own."""
        if self.claimed is None or self.displaced is None:
            return (self.entry,)
        place = replace(self.displaced, root=self.claimed.root, relative=self.claimed.relative)
        return self.entry, Entry(image=place)


class Resolver:
    """Decides from content hashes, with the store as the truth.

    A row's content may have moved to a file that is read later. So no row is overwritten before all files that may hold
    its content have been read (`may_overwrite`): until then a row whose file holds something else is only moved.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._plan = plan
        self._settled: set[int] = set()
        self._displaced: set[int] = set()

    def resolve(self, reading: Reading, *, may_overwrite: bool) -> Resolution | Literal["pixels", "later"]:
        """`pixels` where the content is new and was read without them; `later` for what would overwrite a row."""
        task = reading.task
        row = self._store.find_path(task.root / task.relative) if task.row_id is not None else None
        if row is not None and (task.facts_only or row.content_hash == reading.content_hash):
            return self._resolve_same(reading, row)
        sources = self._store.find_hash(reading.content_hash)
        if source := next(filter(self._is_vacant, sources), None):
            return self._resolve_renamed(reading, source, row)
        if row is not None and not may_overwrite:
            return "later"
        # An edited file whose new content was also saved elsewhere is no copy: it keeps what the user wrote about it.
        if sources and not (row is not None and all(map(self._is_of_this_run, sources))):
            return self._resolve_copy(reading, row, sources)
        if reading.info is None:
            return "pixels"
        entry = Entry(image=_record(reading, reading.info, row), keep_vectors=False)
        return Resolution(kind="updated" if row else "added", entry=entry, needs_vector=True)

    def settle(self, resolution: Resolution) -> None:
        """Note that rows have found their content, so that they are neither deleted nor claimed again."""
        id_ = resolution.entry.image.id
        assert id_ is not None  # of a renamed or updated file
        self._settled.add(id_)
        lost = self._plan.lost.pop(id_, None)
        if resolution.displaced is not None and resolution.displaced.id is not None:
            self._displaced.add(resolution.displaced.id)
            if lost is not None:
                self._plan.lost[resolution.displaced.id] = lost  # it is now where no file is

    def _resolve_same(self, reading: Reading, row: ImageRecord) -> Resolution:
        task = reading.task
        changed = (row.size_bytes, row.mtime_ns) != (task.size_bytes, task.mtime_ns)
        info = _newest_info(reading, row.info)
        record = replace(row, size_bytes=task.size_bytes, mtime_ns=task.mtime_ns, info=info)
        kind: Change = "renamed" if row.id in self._displaced else "touched" if changed else "unchanged"
        return self._resolve_known(kind, record, reading)

    def _resolve_renamed(self, reading: Reading, source: ImageRecord, row: ImageRecord | None) -> Resolution:
        resolution = self._resolve_known("renamed", replace(_record(reading, source), id=source.id), reading)
        is_urgent = row is not None or source.id not in self._plan.lost
        return replace(resolution, claimed=source, displaced=row, is_urgent=is_urgent)

    def _resolve_known(self, kind: Change, record: ImageRecord, reading: Reading) -> Resolution:
        """A row that keeps its content; the vector that it lacks may have come to a copy of it meanwhile."""
        source = None
        if lacks_vector := record.id in self._plan.missing_vectors:
            source = self._find_embedded(self._store.find_hash(record.content_hash))
        repainted = record.id in self._plan.repainted
        if repainted and reading.info is not None:
            record = replace(record, info=reading.info)
        source_id = source.id if source else None
        entry = Entry(image=record, same_pixels_as=source_id, keep_vectors=not repainted, keep_captions=repainted)
        return Resolution(kind=kind, entry=entry, needs_vector=lacks_vector and source is None)

    def _resolve_copy(self, reading: Reading, row: ImageRecord | None, sources: Sequence[ImageRecord]) -> Resolution:
        embedded = self._find_embedded(sources)
        source = embedded or sources[0]
        return Resolution(
            kind="updated" if row else "copied",
            entry=Entry(image=_record(reading, source, row), keep_vectors=False, same_pixels_as=source.id),
            needs_vector=embedded is None,
        )

    def _find_embedded(self, sources: Sequence[ImageRecord]) -> ImageRecord | None:
        return next((source for source in sources if source.id not in self._plan.missing_vectors), None)

    def _is_of_this_run(self, source: ImageRecord) -> bool:
        first = self._plan.first_added
        return first is not None and source.id is not None and source.id >= first

    def _is_vacant(self, source: ImageRecord) -> bool:
        """True where a row's content is known not to be in its file any more."""
        if source.id in self._settled:
            return False
        return source.id in self._plan.lost or is_gone(source.path) or _holds_other(source)


def forget_lost(store: Store, plan: Plan, report: IndexReport, *, prune: bool) -> None:
    """Delete the rows and failures of files that are still gone, and warn of those that are kept.

    Rows that another process moved or removed meanwhile are left alone.
    """
    look = _SecondLook(plan.populated, prune=prune)
    gone = []
    for id_, file in plan.lost.items():
        row = store.find_path(file.path)
        if row is not None and row.id == id_ and look.confirms(file):
            gone.append(id_)
    report.warnings += look.warnings()
    failures: dict[Path, list[str]] = defaultdict(list)
    for file in plan.lost_failures:
        if look.confirms(file):
            failures[file.scope.root].append(file.scope.relative_of(file.key))
    if not gone and not failures:
        return
    with uninterrupted():
        report.removed += store.delete(gone) if gone else 0
        for root, relatives in failures.items():
            store.forget_failures(root, relatives)


def is_gone(path: Path, *, follow_symlinks: bool = True) -> bool:
    """True where nothing is there; what can't be looked at counts as there."""
    try:
        path.stat(follow_symlinks=follow_symlinks)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


class _SecondLook:
    """Tells files that someone deleted from those whose disk is not there.

    What is left of a lost file's path decides, from the file upwards: a folder in which images were found shows that
    its disk is there; one that is empty, a link to nowhere, or unreadable may be waiting for a disk to be mounted.
    """

    def __init__(self, populated: Mapping[Scope, Set[str]], *, prune: bool) -> None:
        self._populated = populated
        self._prune = prune
        self._kept: Counter[Path] = Counter()
        self._find_remains = cache(self._climb)

    def confirms(self, file: LostFile) -> bool:
        if file.certain:
            return True
        if not is_gone(file.path):
            return False
        remains = self._find_remains(file.scope, file.key.rpartition("/")[0])
        if self._prune or remains in self._populated[file.scope]:
            return True
        self._kept[file.scope.folder / remains] += 1
        return False

    def _climb(self, scope: Scope, folder: str) -> str:
        """The nearest folder upwards that is still there in some form; at most the scope's own."""
        while folder and is_gone(scope.folder / folder, follow_symlinks=False):
            folder = folder.rpartition("/")[0]
        return folder

    def warnings(self) -> list[str]:
        return [
            f"{folder} is missing or has no image left, as a disk that is not mounted: its {count:,} images are kept "
            "in the library. If they are really gone, index again with --prune."
            for folder, count in self._kept.items()
        ]


def _holds_other(row: ImageRecord) -> bool:
    """True where the file of a row has other bytes than when it was read; what can't be read counts as the same."""
    try:
        changed = file_stamp(row.path.stat()) != (row.size_bytes, row.mtime_ns)
        return changed and hash_file(row.path) != row.content_hash
    except OSError:
        return False


def _newest_info(reading: Reading, known: ImageInfo) -> ImageInfo:
    """What a reading tells, else what is known of the content; by which rules vectors were made only pixels change."""
    if reading.info is None or reading.pixels is not None:
        return reading.info or known
    return replace(reading.info, pixels_version=known.pixels_version)


def _record(reading: Reading, like: ImageRecord | ImageInfo, row: ImageRecord | None = None) -> ImageRecord:
    """The record of the file that was read, in the row of its path where there is one."""
    task = reading.task
    return ImageRecord(
        root=task.root,
        relative=task.relative,
        size_bytes=task.size_bytes,
        mtime_ns=task.mtime_ns,
        content_hash=reading.content_hash,
        info=_newest_info(reading, like.info if isinstance(like, ImageRecord) else like),
        id=row.id if row else None,
    )

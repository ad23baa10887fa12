"""What a file that was read is: touched, renamed, a copy, changed or new. Content is identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sightline.indexing.lost import is_gone
from sightline.store.base import Entry
from sightline.types import ImageInfo, ImageRecord

if TYPE_CHECKING:
    from sightline.indexing.plan import Plan
    from sightline.indexing.reader import Reading
    from sightline.store.base import Store

Kind = Literal["added", "updated", "renamed", "copied", "touched", "unchanged"]


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What to write for a file; the entry lacks this run's vector where `needs_vector`."""

    kind: Kind
    entry: Entry
    needs_vector: bool
    claimed_id: int | None = None
    """The row that a renamed file takes over."""
    displaces: bool = False
    """Whether the file was renamed onto another one, whose row goes."""


class Resolver:
    """Decides from content hashes, with the store as the truth."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._plan = plan
        self._claimed: set[int] = set()

    def resolve(self, reading: Reading) -> Resolution | None:
        """None where the content is new and the reading has no pixels: read it again with them."""
        row = self._store.find_path(reading.task.path) if reading.task.row_id is not None else None
        if row is not None and row.content_hash == reading.content_hash:
            return self._resolve_same(reading, row)
        sources = self._store.find_hash(reading.content_hash)
        if source := next(filter(self._is_gone, sources), None):
            return self._resolve_renamed(reading, source, row)
        if sources:
            return self._resolve_copy(reading, row, sources)
        return self._resolve_new(reading, row)

    def claim(self, resolution: Resolution) -> None:
        """Note that a row has found its new path, so that it is neither deleted nor claimed again."""
        if resolution.claimed_id is not None:
            self._claimed.add(resolution.claimed_id)
            self._plan.lost.pop(resolution.claimed_id, None)

    def _resolve_same(self, reading: Reading, row: ImageRecord) -> Resolution:
        task = reading.task
        changed = (row.size_bytes, row.mtime_ns) != (task.size_bytes, task.mtime_ns)
        record = replace(row, size_bytes=task.size_bytes, mtime_ns=task.mtime_ns)
        return self._resolve_known("touched" if changed else "unchanged", record)

    def _resolve_renamed(self, reading: Reading, source: ImageRecord, row: ImageRecord | None) -> Resolution:
        resolution = self._resolve_known("renamed", replace(_record(reading, source), id=source.id))
        return replace(resolution, claimed_id=source.id, displaces=row is not None)

    def _resolve_known(self, kind: Kind, record: ImageRecord) -> Resolution:
        """A row that keeps its content; the vector that it lacks may have come to a copy of it meanwhile."""
        source = None
        if lacks_vector := record.id in self._plan.missing_vectors:
            source = self._find_embedded(self._store.find_hash(record.content_hash))
        entry = Entry(image=record, same_pixels_as=source.id if source else None)
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

    def _resolve_new(self, reading: Reading, row: ImageRecord | None) -> Resolution | None:
        if reading.info is None:
            return None
        entry = Entry(image=_record(reading, reading.info, row), keep_vectors=False)
        return Resolution(kind="updated" if row else "added", entry=entry, needs_vector=True)

    def _is_gone(self, source: ImageRecord) -> bool:
        """Whether a row's file is known not to be there any more."""
        return source.id not in self._claimed and (source.id in self._plan.lost or is_gone(source.path))


def _record(reading: Reading, like: ImageRecord | ImageInfo, row: ImageRecord | None = None) -> ImageRecord:
    """The record of the file that was read, in the row of its path where there is one."""
    task = reading.task
    return ImageRecord(
        root=task.scope.root,
        relative=task.relative,
        size_bytes=task.size_bytes,
        mtime_ns=task.mtime_ns,
        content_hash=reading.content_hash,
        info=like.info if isinstance(like, ImageRecord) else like,
        id=row.id if row else None,
    )

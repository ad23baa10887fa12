"""What a file that was read is: touched, renamed, a copy, changed or new. Content is identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sightline.store.base import Entry
from sightline.types import Embedding, ImageInfo, ImageRecord

if TYPE_CHECKING:
    from sightline.indexing.plan import Plan
    from sightline.indexing.reader import Reading
    from sightline.models.base import Encoder
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
    """Decides from content hashes, with the store as the truth.

    Vectors of a copy are read when it is resolved, so that it doesn't matter what becomes of their row later.
    """

    def __init__(self, store: Store, encoder: Encoder, plan: Plan) -> None:
        self._store = store
        self._model = encoder.identity.name
        self._precision = encoder.precision
        self._plan = plan
        self._claimed: set[int] = set()

    def resolve(self, reading: Reading) -> Resolution | None:
        """None where the content is new and the reading has no pixels: read it again with them."""
        resolution = self._compare(reading)
        if resolution is None or not resolution.needs_vector or resolution.kind == "added":
            return resolution
        # A copy of it can have been embedded meanwhile.
        embeddings = self._embeddings(self._store.find_hash(reading.content_hash), [self._model])
        entry = replace(resolution.entry, embeddings=[*resolution.entry.embeddings, *embeddings])
        return replace(resolution, entry=entry, needs_vector=not embeddings)

    def _compare(self, reading: Reading) -> Resolution | None:
        row_id = reading.task.row_id
        row = self._store.get([row_id])[0] if row_id is not None else None
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
            self._plan.gone.discard(resolution.claimed_id)

    def _resolve_same(self, reading: Reading, row: ImageRecord) -> Resolution:
        task = reading.task
        changed = (row.size_bytes, row.mtime_ns) != (task.size_bytes, task.mtime_ns)
        return Resolution(
            kind="touched" if changed else "unchanged",
            entry=Entry(image=replace(row, size_bytes=task.size_bytes, mtime_ns=task.mtime_ns)),
            needs_vector=row.id in self._plan.missing_vectors,
        )

    def _resolve_renamed(self, reading: Reading, source: ImageRecord, row: ImageRecord | None) -> Resolution:
        return Resolution(
            kind="renamed",
            entry=Entry(image=replace(_record(reading, source), id=source.id)),
            needs_vector=source.id in self._plan.missing_vectors,
            claimed_id=source.id,
            displaces=row is not None,
        )

    def _resolve_copy(self, reading: Reading, row: ImageRecord | None, sources: Sequence[ImageRecord]) -> Resolution:
        embeddings = self._embeddings(sources, list(self._store.models()))
        return Resolution(
            kind="updated" if row else "copied",
            entry=Entry(image=_record(reading, sources[0], row), embeddings=embeddings, keep_vectors=False),
            needs_vector=all(embedding.model != self._model for embedding in embeddings),
        )

    def _resolve_new(self, reading: Reading, row: ImageRecord | None) -> Resolution | None:
        if reading.info is None:
            return None
        entry = Entry(image=_record(reading, reading.info, row), keep_vectors=False)
        return Resolution(kind="updated" if row else "added", entry=entry, needs_vector=True)

    def _is_gone(self, source: ImageRecord) -> bool:
        """Whether a row's file is known not to be there any more; what can't be looked at counts as there."""
        if source.id in self._claimed:
            return False
        if source.id in self._plan.gone:
            return True
        try:
            source.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False

    def _embeddings(self, sources: Sequence[ImageRecord], models: Sequence[str]) -> list[Embedding]:
        """A vector of each model that one of the rows, all of one content, has.

        A store doesn't tell the precision of the run that made it: it is taken to be this run's for its own model.
        """
        ids = [source.id for source in sources if source.id is not None]
        embeddings = []
        for model in models:
            precision = self._precision if model == self._model else "fp32"
            vectors_ND = self._store.vectors(model, ids)[1]
            embeddings += [Embedding(model=model, vector=vector_D, precision=precision) for vector_D in vectors_ND[:1]]
        return embeddings


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

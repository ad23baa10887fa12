"""From a plan to rows: readers in threads; deciding, encoding and writing in the calling thread.

Memory is bounded whatever the number of files: two batches of pixels under way, one waiting, some hundred rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from sightline.indexing.embedding import BatchEmbedder
from sightline.indexing.reader import FileReader, ReaderPool, Reading
from sightline.indexing.report import SkippedFile
from sightline.indexing.resolve import Resolution, Resolver
from sightline.indexing.writing import Writer
from sightline.store.base import Failure

if TYPE_CHECKING:
    from sightline.indexing.plan import Plan
    from sightline.indexing.progress import ProgressMeter
    from sightline.indexing.report import IndexConfig, IndexReport
    from sightline.indexing.spool import Task
    from sightline.models.base import Encoder
    from sightline.store.base import Store
    from sightline.types import Embedding

_NEVER_MATCHES_NS = -1
"""The mtime kept with a failure that may pass without a change of the file, so that it is tried again."""


class Pipeline:
    """One run over a plan. What was embedded is committed even when the run is cut short."""

    def __init__(self, store: Store, encoder: Encoder, *, plan: Plan, config: IndexConfig, report: IndexReport) -> None:
        self._plan = plan
        self._report = report
        self._readers = config.readers
        self._read = FileReader(encoder.card.preprocessing, plan.known_hashes)
        self._resolver = Resolver(store, plan)
        self._embedder = BatchEmbedder(encoder, max_batch_size=config.max_batch_size)
        self._writer = Writer(store)
        self._may_overwrite = False

    def run(self, meter: ProgressMeter) -> None:
        """Read, decide, embed and write every task.

        Ctrl-C (KeyboardInterrupt) ends it early and is noted in the report. What was embedded is committed whatever
        ends the run. Raises StoreError with the threads stopped and the library as of the last transaction.
        """
        pool = ReaderPool(self._read, self._readers)
        try:
            self._drain(pool, iter(self._plan.tasks), meter)
            self._may_overwrite = True
            self._drain(pool, iter(self._plan.later), meter)
        except KeyboardInterrupt:
            self._report.interrupted = True
        finally:
            pool.stop()
            self._flush()
            self._report.stage_seconds |= {"embed": self._embedder.seconds, "write": self._writer.seconds}

    def _drain(self, pool: ReaderPool, tasks: Iterator[Task], meter: ProgressMeter) -> None:
        self._fill(pool, tasks)
        while len(pool):
            started = time.monotonic()
            reading = pool.take()
            self._report.stage_seconds["wait"] += time.monotonic() - started
            match self._settle(reading):
                case "done":
                    meter.done += 1
                case "pixels":
                    pool.submit(replace(reading.task, needs_pixels=True))
                case "later":
                    self._plan.later.append(reading.task)
            if self._embedder.due:
                self._embed()
            if self._writer.due:
                self._flush()
            meter.tick()
            self._fill(pool, tasks)
        while self._embedder.waiting:
            self._embed()

    def _fill(self, pool: ReaderPool, tasks: Iterator[Task]) -> None:
        """Keep enough under way that readers have work while the encoder is busy with a batch."""
        window = 2 * self._embedder.batch_size + 2 * self._readers
        while len(pool) < window and (task := next(tasks, None)) is not None:
            pool.submit(task)

    def _settle(self, reading: Reading) -> Literal["done", "pixels", "later"]:
        """Send a reading on its way, unless its pixels turn out to be needed, or others have to be read first."""
        self._report.stage_seconds["read"] += reading.read_s
        self._report.stage_seconds["decode"] += reading.decode_s
        if reading.failure is not None:
            self._skip(reading, reading.failure)
            return "done"
        resolution = self._resolver.resolve(reading, may_overwrite=self._may_overwrite)
        if isinstance(resolution, str):
            return resolution
        met_before = reading.content_hash in self._embedder
        if resolution.needs_vector and reading.pixels is None and not met_before:
            return "pixels"
        if resolution.kind == "added" and met_before:
            resolution = replace(resolution, kind="copied")
        moves_now = self._resolver.must_write_now(resolution)
        if moves_now:
            for entry in resolution.moves:
                self._writer.add(entry)
            self._flush()
        self._resolver.settle(resolution)
        if resolution.needs_vector:
            self._embedder.add(reading.content_hash, reading.pixels, partial(self._write, resolution))
        elif moves_now:
            self._count(resolution)
        else:
            self._write(resolution)
        return "done"

    def _write(self, resolution: Resolution, embedding: Embedding | None = None) -> None:
        entry = resolution.entry
        if embedding is not None:
            entry = replace(entry, embeddings=[embedding])
        self._writer.add(entry)
        self._count(resolution)

    def _count(self, resolution: Resolution) -> None:
        if resolution.kind != "unchanged":  # counted when it was planned
            setattr(self._report, resolution.kind, getattr(self._report, resolution.kind) + 1)

    def _skip(self, reading: Reading, reason: str) -> None:
        """Remember a failure; a row that the file has from better days stays."""
        task = reading.task
        self._report.skipped.append(SkippedFile(path=task.path, reason=reason))
        failure = Failure(
            root=task.scope.root,
            relative=task.relative,
            size_bytes=task.size_bytes,
            mtime_ns=_NEVER_MATCHES_NS if reading.retry else task.mtime_ns,
            reason=reason,
        )
        self._writer.add_failure(failure)

    def _embed(self) -> None:
        self._embedder.encode()
        self._report.embedded = self._embedder.embedded

    def _flush(self) -> None:
        self._plan.missing_vectors -= self._writer.flush()
        self._plan.first_added = self._writer.first_added
        self._embedder.forget_encoded()

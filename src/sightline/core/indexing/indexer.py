"""The door to indexing, `index`: from a plan to rows, with events on the way.

Readers work in threads; deciding, encoding and writing is done in the calling thread. Memory is bounded whatever the
number of files: two batches of pixels under way, one waiting, some hundred rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightline.core.indexing.plan import Planner
from sightline.core.indexing.report import IndexConfig, IndexReport, Progress, SkippedFile
from sightline.core.indexing.resolve import Resolution, Resolver, forget_lost
from sightline.core.indexing.stages import BatchEmbedder, FileReader, ReaderPool, Reading, Writer
from sightline.core.store.base import Failure

if TYPE_CHECKING:
    from sightline.core.indexing.plan import Plan, Task
    from sightline.core.models.base import Encoder
    from sightline.core.store.base import Store
    from sightline.core.types import Embedding

_NEVER_MATCHES_NS = -1
"""The mtime kept with a failure that may pass without a change of the file, so that it is tried again."""
_INTERVAL_S = 0.1
_WINDOW_S = 10.0
"""Events come at most ten a second, with a rate over the last seconds."""


def index(
    store: Store,
    encoder: Encoder,
    folders: Sequence[Path],
    *,
    config: IndexConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexReport:
    """Bring a store up to date with folders for one model, reading only what is new or changed.

    Rows whose files are gone are deleted once every folder has been walked and every renamed file has found its row
    (see `forget_lost`). Files that can't be read are named in the report and never end the run; a row from better days
    stays. Known images outside `folders` that lack this model's vector are embedded too. Ctrl-C ends the run early with
    what was done kept (`IndexReport.interrupted`). So does whatever `on_progress` raises, which is raised again here:
    it is called about ten times a second.

    Raises InputError for a folder that is not there and of which the store knows nothing, StoreError where the store
    can't be written or holds vectors of another identity under the model's name, ModelError from the encoder. Where
    the model is one that ships with the package, and so changes with it, the former's vectors are set aside instead.
    """
    started = time.monotonic()
    config = config or IndexConfig()
    report = IndexReport()
    planner = Planner(store, config=config, report=report)
    plan = planner.plan
    meter = _ProgressMeter(plan, report, on_progress)
    try:
        scopes = planner.scopes(folders)
        _make_room(store, encoder, report)
        planner.walk(scopes, model=encoder.identity.name, on_seen=meter.tick)
        report.stage_seconds["walk"] = time.monotonic() - started
        meter.total = len(plan.tasks)
        _Pipeline(store, encoder, plan=plan, config=config, report=report).run(meter)
        if not report.interrupted:
            forget_lost(store, plan, report, prune=config.remove_missing == "always")
            meter.tick(force=True)
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        plan.tasks.close()
        plan.later.close()
    report.seconds = time.monotonic() - started
    return report


def _make_room(store: Store, encoder: Encoder, report: IndexReport) -> None:
    identity = encoder.identity
    former = store.models().get(identity.name)
    if former is not None and former != identity and encoder.card.source == "package":
        aside = store.set_model_aside(identity.name)
        report.warnings.append(
            f"The library held vectors of an older {identity.name}. They are kept as {aside}, and the pictures are "
            f"embedded anew; `sightline remove --model {aside}` drops the old ones."
        )
    store.add_model(identity)


class _Pipeline:
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

    def run(self, meter: _ProgressMeter) -> None:
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

    def _drain(self, pool: ReaderPool, tasks: Iterator[Task], meter: _ProgressMeter) -> None:
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


class _ProgressMeter:
    """Watches a plan and a report, and calls `on_progress` now and then."""

    def __init__(self, plan: Plan, report: IndexReport, on_progress: Callable[[Progress], None] | None) -> None:
        self._plan = plan
        self._report = report
        self._on_progress = on_progress
        self._told_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self.done = 0
        self.total: int | None = None

    def tick(self, *, force: bool = False) -> None:
        """Tell how things stand, if it is time or `force`."""
        now = time.monotonic()
        if self._on_progress is None or (now - self._told_at < _INTERVAL_S and not force):
            return
        self._told_at = now
        rate = self._images_per_s(now)
        left = None if self.total is None else self.total - self.done
        self._on_progress(
            Progress(
                seen=self._plan.seen,
                unchanged=self._report.unchanged,
                embedded=self._report.embedded,
                skipped=len(self._report.skipped),
                done=self.done,
                total=self.total,
                images_per_s=rate,
                seconds_left=0.0 if left == 0 else left / rate if left and rate else None,
                unreadable=self._report.skipped,
            )
        )

    def _images_per_s(self, now: float) -> float:
        self._recent.append((now, self.done))
        while now - self._recent[0][0] > _WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        since, done = self._recent[0]
        return (self.done - done) / (now - since) if now > since else 0.0

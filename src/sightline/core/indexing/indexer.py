"""The door to indexing, `index`: from a plan to rows, with events on the way.

Readers work in threads; deciding, encoding and writing is done in the calling thread. Memory is bounded whatever the
number of files: two batches of pixels under way, one waiting, some hundred rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sightline.core.indexing.hubs import fill_hubness
from sightline.core.indexing.places import fill_places
from sightline.core.indexing.plan import Plan, Planner, Task, TaskSpool
from sightline.core.indexing.reading import FileReader, Reading
from sightline.core.indexing.renew import renew
from sightline.core.indexing.report import IndexConfig, IndexProgress, IndexReport, ProgressMeter, SkippedFile
from sightline.core.indexing.resolve import Resolution, Resolver, forget_lost
from sightline.core.models.bank import load_bank
from sightline.core.models.base import Encoder
from sightline.core.store.base import Entry, Failure, Store
from sightline.core.types import Embedding
from sightline.kit.work import uninterrupted

_NEVER_MATCHES_NS = -1
"""The mtime kept with a failure that may pass without a change of the file, so that it is tried again."""
_STOP_TIMEOUT_S = 0.5
_FIRST_BATCH = 2
_BATCH_S = 0.4
"""Aim of one encoder call: short enough that Ctrl-C is answered at once, long enough to be efficient."""
_MAX_ROWS = 256
_MAX_AGE_S = 2.0
"""Transactions are of a few hundred rows or of two seconds, whichever comes first."""

VectorTaker = Callable[[Embedding], None]


def index(
    store: Store,
    encoder: Encoder,
    folders: Sequence[Path],
    *,
    config: IndexConfig | None = None,
    on_progress: Callable[[IndexProgress], None] | None = None,
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
    meter = ProgressMeter(plan, report, on_progress)
    try:
        scopes = planner.scopes(folders)
        _make_room(store, encoder, report)
        renew(store, plan, threads=config.readers, on_look=meter.tick)
        planner.walk(scopes, model=encoder.card.name, on_seen=meter.tick)
        report.stage_seconds["walk"] = time.monotonic() - started
        meter.total = plan.tasks.left
        _Pipeline(store, encoder, plan=plan, config=config, report=report).run(meter)
        if not report.interrupted:
            if (bank := load_bank(encoder)) is not None:
                fill_hubness(store, encoder.card.name, bank)
            fill_places(store)
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
    if former not in (None, identity) and encoder.card.source == "package":
        aside = store.set_model_aside(identity.name)
        report.warnings.append(
            f"The library held vectors of an older {identity.name}. They are kept as {aside}, and the pictures are "
            f"embedded anew; `sightline remove --model {aside}` drops the old ones."
        )
    store.add_model(identity)
    if (bank := load_bank(encoder)) is not None and not store.knows_hubness(identity.name, bank.id):
        store.put_hubness(identity.name, bank.id, {})  # what another bank measured is forgotten


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

    def run(self, meter: ProgressMeter) -> None:
        """Read, decide, embed and write every task.

        Ctrl-C (KeyboardInterrupt) ends it early and is noted in the report. What was embedded is committed whatever
        ends the run. Raises StoreError with the threads stopped and the library as of the last transaction.
        """
        pool = ReaderPool(self._read, self._readers)
        try:
            self._drain(pool, self._plan.tasks, meter)
            self._may_overwrite = True
            self._drain(pool, self._plan.later, meter)
        except KeyboardInterrupt:
            self._report.interrupted = True
        finally:
            pool.stop()
            self._flush()
            self._report.stage_seconds |= {"embed": self._embedder.seconds, "write": self._writer.seconds}

    def _drain(self, pool: ReaderPool, tasks: TaskSpool, meter: ProgressMeter) -> None:
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

    def _fill(self, pool: ReaderPool, tasks: TaskSpool) -> None:
        """Keep enough under way that readers have work while the encoder is busy with a batch."""
        free = 2 * self._embedder.batch_size + 2 * self._readers - len(pool)
        if tasks.left and free >= self._readers:
            for task in tasks.take(free):
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
        resolution = replace(resolution, entry=replace(resolution.entry, sketch=reading.sketch))
        if resolution.is_urgent:
            for entry in resolution.moves:
                self._writer.add(entry)
            self._flush()
        if resolution.kind in ("renamed", "updated"):
            self._resolver.settle(resolution)
        if resolution.needs_vector:
            self._embedder.add(reading.content_hash, reading.pixels, partial(self._write, resolution))
        elif resolution.is_urgent:
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
        self._report.skipped.append(SkippedFile(path=task.root / task.relative, reason=reason))
        failure = Failure(
            root=task.root,
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


@dataclass
class ReaderPool:
    """Threads that turn tasks into readings, given back in the order of the tasks.

    The threads are daemons, so that a process which was told to stop does not wait for an image of minutes.
    """

    read: Callable[[Task], Reading]
    threads: int
    _jobs: queue.SimpleQueue[tuple[Task, Future[Reading]] | None] = field(default_factory=queue.SimpleQueue)
    _in_flight: deque[Future[Reading]] = field(default_factory=deque)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.threads)]
        for worker in self._workers:
            worker.start()

    def __len__(self) -> int:
        return len(self._in_flight)

    def submit(self, task: Task) -> None:
        """Queue a task."""
        future: Future[Reading] = Future()
        self._in_flight.append(future)
        self._jobs.put((task, future))

    def take(self) -> Reading:
        """The oldest task's reading; waits for it. Raises what the reader raised."""
        return self._in_flight.popleft().result()

    def stop(self) -> None:
        """Let threads end after the file they are at, and drop what is queued; waits half a second at most."""
        self._stopping = True
        for _ in self._workers:
            self._jobs.put(None)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping:
            task, future = job
            try:
                future.set_result(self.read(task))
            except BaseException as error:  # raised again where the reading is taken
                future.set_exception(error)


class BatchEmbedder:
    """Gives each content to the encoder once, however many files hold it."""

    def __init__(self, encoder: Encoder, *, max_batch_size: int) -> None:
        self._encoder = encoder
        self._model = encoder.card.name
        self._bank = load_bank(encoder)
        self._max_batch_size = max_batch_size
        self._contents: dict[str, _Content] = {}
        self._waiting: list[_Content] = []
        self._least = min(getattr(encoder, "least_batch", 1), max_batch_size)  # a request takes as long for fewer
        self.batch_size = max(self._least, min(_FIRST_BATCH, max_batch_size))
        self.embedded = 0
        self.seconds = 0.0

    def __contains__(self, content_hash: str) -> bool:
        """True where this content needs no pixels any more."""
        return content_hash in self._contents

    @property
    def waiting(self) -> int:
        """Contents that have no vector yet."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """True where a batch is full."""
        return len(self._waiting) >= self.batch_size

    def add(self, content_hash: str, pixels_SS3: NDArray[np.uint8] | None, taker: VectorTaker) -> None:
        """Call `taker` with the content's vector: now if it is there, else after its batch."""
        content = self._contents.get(content_hash)
        if content is None:
            content = self._contents[content_hash] = _Content(pixels=pixels_SS3)
            self._waiting.append(content)
        if content.embedding is not None:
            taker(content.embedding)
        else:
            content.takers.append(taker)

    def encode(self) -> None:
        """Encode one batch of what waits and hand out its vectors."""
        batch, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        if not batch:
            return
        started = time.monotonic()
        pixels_BSS3 = np.stack([content.pixels for content in batch if content.pixels is not None])
        vectors_BD = self._encoder.encode_images(pixels_BSS3)
        elapsed_s = time.monotonic() - started
        self.seconds += elapsed_s
        self.embedded += len(batch)
        wanted = int(_BATCH_S / max(elapsed_s / len(batch), 1e-6))
        self.batch_size = max(self._least, min(wanted, 2 * self.batch_size, self._max_batch_size))
        hubness_B = [None] * len(batch) if self._bank is None else self._bank.measure(vectors_BD).tolist()
        for content, vector_D, hubness in zip(batch, vectors_BD, hubness_B, strict=True):
            embedding = Embedding(
                model=self._model, vector=vector_D, precision=self._encoder.precision, hubness=hubness
            )
            content.embedding, content.pixels = embedding, None
            for taker in content.takers:
                taker(embedding)
            content.takers.clear()

    def forget_encoded(self) -> None:
        """Drop contents whose vectors have been committed: from now on the store has them."""
        self._contents = {key: content for key, content in self._contents.items() if content.embedding is None}


@dataclass(kw_only=True)
class _Content:
    """One content of this run, with those who wait for its vector."""

    pixels: NDArray[np.uint8] | None = None
    embedding: Embedding | None = None
    takers: list[VectorTaker] = field(default_factory=list)


class Writer:
    """Collects rows and failures and commits them together. Errors are the store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: list[Entry] = []
        self._failures: list[Failure] = []
        self._flushed_at = time.monotonic()
        self.seconds = 0.0
        self.first_added: int | None = None
        """The lowest id that a new row got: ids grow, so all rows from here on are of this run."""

    def add(self, entry: Entry) -> None:
        """Take a row to write."""
        self._entries.append(entry)

    def add_failure(self, failure: Failure) -> None:
        """Take a failure to remember."""
        self._failures.append(failure)

    @property
    def due(self) -> bool:
        """True where what was collected is enough, or old enough, to be committed."""
        rows = len(self._entries) + len(self._failures)
        return rows >= _MAX_ROWS or (rows > 0 and time.monotonic() - self._flushed_at >= _MAX_AGE_S)

    def flush(self) -> set[int]:
        """Commit what was collected; the ids of the rows that have got a vector.

        A Ctrl-C waits until it is done. What the store refuses is not tried again.
        """
        started = self._flushed_at = time.monotonic()
        if not self._entries and not self._failures:
            return set()
        with uninterrupted():
            entries, failures = self._entries, self._failures
            self._entries, self._failures = [], []
            ids = self._store.upsert(entries, failures=failures)
        self._flushed_at = time.monotonic()
        self.seconds += self._flushed_at - started
        if self.first_added is None:
            added = (id_ for id_, entry in zip(ids, entries, strict=True) if entry.image.id is None)
            self.first_added = min(added, default=None)
        return {id_ for id_, entry in zip(ids, entries, strict=True) if entry.embeddings}

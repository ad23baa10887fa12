"""The stages of a run: files are read in threads, contents embedded in batches, rows committed by the hundred."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.images.decode import read_picture
from sightline.core.images.files import AVIF_MISSING, HEIF_MISSING, explain_os_error, hash_bytes, hash_file
from sightline.core.indexing.plan import Task
from sightline.core.types import Embedding
from sightline.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing
    from sightline.core.models.base import Encoder
    from sightline.core.store.base import Entry, Failure, Store
    from sightline.core.types import ImageInfo

_LARGE_FILE_BYTES = 128 * 2**20
"""A larger file is not held in memory as a whole: it is hashed in pieces and read again by the decoder."""

_STOP_TIMEOUT_S = 0.5

_CURABLE = (AVIF_MISSING, HEIF_MISSING, "SIGHTLINE_MAX_PIXELS", "not enough memory", "can't be read", "read error")
"""Parts of reasons that may pass with the file as it is: something gets installed, set, freed or connected."""

_FIRST_BATCH = 2
_BATCH_S = 0.4
"""Aim of one encoder call: short enough that Ctrl-C is answered at once, long enough to be efficient."""

VectorTaker = Callable[[Embedding], None]

_MAX_ROWS = 256
_MAX_AGE_S = 2.0
"""Transactions are of a few hundred rows or of two seconds, whichever comes first."""


@dataclass(kw_only=True, slots=True)
class Reading:
    """What came of reading one file: a failure, or its hash with pixels unless the content was known."""

    task: Task
    content_hash: str = ""
    info: ImageInfo | None = None
    pixels: NDArray[np.uint8] | None = None
    failure: str | None = None
    """Why the file could not be read."""
    retry: bool = False
    """Whether the failure may pass without a change of the file: permissions, memory, a network disk."""
    read_s: float = 0.0
    decode_s: float = 0.0


class FileReader:
    """Reads one file: bytes once, hash, and pixels at the model's size where the content is not known."""

    def __init__(self, preprocessing: Preprocessing, known_hashes: Set[str]) -> None:
        self._preprocessing = preprocessing
        self._known_hashes = known_hashes

    def __call__(self, task: Task) -> Reading:
        """Never raises for what a file holds: a failure is part of the reading."""
        reading = Reading(task=task)
        try:
            self._read(task, reading)
        except ImageError as error:
            reading.failure, reading.retry = error.reason, any(cause in error.reason for cause in _CURABLE)
        except OSError as error:
            reading.failure, reading.retry = explain_os_error(error), True
        except MemoryError:
            reading.failure, reading.retry = "not enough memory to decode it", True
        return reading

    def _read(self, task: Task, reading: Reading) -> None:
        started = time.perf_counter()
        path = task.path
        source: Path | bytes
        if task.size_bytes > _LARGE_FILE_BYTES:
            path.open("rb").close()  # what the system refuses is an OSError here, as for smaller files
            source, reading.content_hash = path, hash_file(path)
        else:
            source = path.read_bytes()
            reading.content_hash = hash_bytes(source)
        reading.read_s = time.perf_counter() - started
        # What has a row waits until others are read, or is only touched: no pixels at first.
        if task.needs_pixels or (task.row_id is None and reading.content_hash not in self._known_hashes):
            picture = read_picture(source, min_side_px=self._preprocessing.size_px)
            reading.info = picture.info
            reading.pixels = self._preprocessing.resize(picture.rgb)
            reading.decode_s = time.perf_counter() - started - reading.read_s


@dataclass
class ReaderPool:
    """Threads that turn tasks into readings, given back in the order of the tasks.

    The threads are daemons, so that a process which was told to stop does not wait for a picture of minutes.
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
        self._model = encoder.identity.name
        self._max_batch_size = max_batch_size
        self._contents: dict[str, _Content] = {}
        self._waiting: list[_Content] = []
        self._least = min(getattr(encoder, "least_batch", 1), max_batch_size)  # a request takes as long for fewer
        self.batch_size = max(self._least, min(_FIRST_BATCH, max_batch_size))
        self.embedded = 0
        self.seconds = 0.0

    def __contains__(self, content_hash: str) -> bool:
        """Whether this content needs no pixels any more."""
        return content_hash in self._contents

    @property
    def waiting(self) -> int:
        """Contents that have no vector yet."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether a batch is full."""
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
        self._resize(elapsed_s / len(batch))
        for content, vector_D in zip(batch, vectors_BD, strict=True):
            embedding = Embedding(model=self._model, vector=vector_D, precision=self._encoder.precision)
            content.embedding, content.pixels = embedding, None
            for taker in content.takers:
                taker(embedding)
            content.takers.clear()

    def forget_encoded(self) -> None:
        """Drop contents whose vectors have been committed: from now on the store has them."""
        self._contents = {key: content for key, content in self._contents.items() if content.embedding is None}

    def _resize(self, image_s: float) -> None:
        wanted = int(_BATCH_S / max(image_s, 1e-6))
        self.batch_size = max(self._least, min(wanted, 2 * self.batch_size, self._max_batch_size))


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
        """Whether what was collected is enough, or old enough, to be committed."""
        rows = len(self._entries) + len(self._failures)
        return rows >= _MAX_ROWS or (rows > 0 and time.monotonic() - self._flushed_at >= _MAX_AGE_S)

    def flush(self) -> set[int]:
        """Commit what was collected; the ids of the rows that have got a vector.

        A Ctrl-C waits until it is done. What the store refuses is not tried again.
        """
        started = time.monotonic()
        ids: list[int] = []
        with uninterrupted():
            entries, failures = self._entries, self._failures
            self._entries, self._failures = [], []
            if entries or failures:
                ids = self._store.upsert(entries, failures=failures)
        self._flushed_at = time.monotonic()
        self.seconds += self._flushed_at - started
        if self.first_added is None:
            added = (id_ for id_, entry in zip(ids, entries, strict=True) if entry.image.id is None)
            self.first_added = min(added, default=None)
        return {id_ for id_, entry in zip(ids, entries, strict=True) if entry.embeddings}


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block ends. Other threads than the main one never get it."""
    foreign_handler = signal.getsignal(signal.SIGINT) is None  # not Python's: it can't be put back
    if foreign_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held and callable(before):
        before(*held[0])


@dataclass(kw_only=True)
class _Content:
    """One content of this run, with those who wait for its vector."""

    pixels: NDArray[np.uint8] | None = None
    embedding: Embedding | None = None
    takers: list[VectorTaker] = field(default_factory=list)

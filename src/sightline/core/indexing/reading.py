"""Files read in threads: the readings of a run, and the sample by which int8 graphs are judged."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.decode import read_picture
from sightline.core.images.files import AVIF_MISSING, HEIF_MISSING, explain_os_error, hash_bytes, hash_file, walk_images
from sightline.core.indexing.plan import Exclusion, Task
from sightline.core.indexing.report import IndexConfig
from sightline.errors import ImageError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing
    from sightline.core.types import ImageInfo


_LARGE_FILE_BYTES = 128 * 2**20
"""A larger file is not held in memory as a whole: it is hashed in pieces and read again by the decoder."""

_STOP_TIMEOUT_S = 0.5

_CURABLE = (AVIF_MISSING, HEIF_MISSING, "SIGHTLINE_MAX_PIXELS", "not enough memory", "can't be read", "read error")
"""Parts of reasons that may pass with the file as it is: something gets installed, set, freed or connected."""


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


_MOST_FILES = 50_000
"""Files among which pictures are drawn: enough of any library, and the walk of millions isn't waited for."""
_READ_AT_ONCE = 64


def sample_pictures(
    folders: Sequence[Path], preprocessing: Preprocessing, count: int, *, config: IndexConfig | None = None
) -> NDArray[np.uint8]:
    """Pixels (B, S, S, 3) of `count` pictures below folders, drawn evenly, always the same ones of the same files.

    None of them is read where there are too few files; where too few can be read, those are given. Nothing is said of
    what can't be read: indexing does that.
    """
    import numpy as np

    drawn = draw_files(folders, config=config)
    pictures = list(itertools.islice(_readable(drawn, preprocessing), count)) if len(drawn) >= count else []
    side = preprocessing.size_px
    return np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8)


def draw_files(folders: Sequence[Path], *, config: IndexConfig | None = None) -> list[Path]:
    """The picture files below folders, shuffled, always alike; a folder that can't be read holds none."""
    config = config or IndexConfig()
    found = sorted(itertools.chain.from_iterable(_files(folder, config, len(folders)) for folder in folders))
    random.Random(0).shuffle(found)
    return found


def _files(folder: Path, config: IndexConfig, n_folders: int) -> Iterable[Path]:
    exclusion = Exclusion(config.exclude, folder)
    try:
        files = walk_images(folder, on_problem=lambda path, reason: None, may_follow=config.may_follow)
    except InputError:  # indexing says what is wrong with a folder
        return []
    return itertools.islice((f.path for f in files if f.relative not in exclusion), _MOST_FILES // max(1, n_folders))


def _readable(paths: Iterable[Path], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Pixels of those that can be read, in order, a few read at once."""

    def read(path: Path) -> NDArray[np.uint8] | None:
        try:
            return preprocessing.resize(read_picture(path, min_side_px=preprocessing.size_px).rgb)
        except (ImageError, OSError):
            return None

    remaining = iter(paths)
    with ThreadPoolExecutor() as threads:
        while chosen := list(itertools.islice(remaining, _READ_AT_ONCE)):
            for pixels in threads.map(read, chosen):
                if pixels is not None:
                    yield pixels

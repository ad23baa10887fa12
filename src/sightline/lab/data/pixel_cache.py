"""Images of a dataset decoded once, at training size, memory-mapped: later epochs don't decode.

A cache is filled in parallel, goes on after a stop, and is never half done under its name.
Shape suffixes: N images, S size_px.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from sightline.core.images.decode import PIXELS_VERSION
from sightline.core.images.files import explain_os_error
from sightline.core.images.preprocess import PREPROCESSING_VERSION, Preprocessing
from sightline.errors import InputError
from sightline.kit.config import cache_dir
from sightline.kit.files import replacing, write_json
from sightline.kit.work import Notice, usable_cpus
from sightline.lab.data.base import Dataset, Problem, fingerprint_of
from sightline.lab.data.pixel_worker import Problems, Task, WorkerProcess, read_task

PIXELS, STATES, PROBLEMS, ABOUT = "pixels.npy", "states.npy", "problems.json", "about.json"
"""`about.json` is for people who wonder what fills their disk."""

READABLE, UNREADABLE = 1, 2
"""States of a row; 0 is not done."""

_ROWS_PER_TASK = 64
_FEWEST_FOR_PROCESSES = 512
"""Fewer images are read in the time in which worker processes start."""

_SPARE_BYTES = 16 * 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCache:
    """All images of a dataset as its preprocessing resizes them."""

    pixels_NSS3: NDArray[np.uint8]
    """Memory-mapped and read-only; zeros where an image can't be read. `pixels_NSS3[rows]` copies rows."""
    readable_N: NDArray[np.bool_]
    problems: tuple[Problem, ...]
    """The rows that are not readable, in order."""
    folder: Path
    """Its place; may be deleted whenever nobody uses it, and is then made again."""


def open_pixel_cache(
    dataset: Dataset,
    *,
    preprocessing: Preprocessing,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    n_workers: int | None = None,
    tell: Notice = lambda line: None,
) -> PixelCache:
    """The pixels of a dataset, from its cache below `folder` (`SIGHTLINE_CACHE`/pixels), which is built if missing.

    JPEGs are decoded at reduced scale where that is enough. Building takes all cores or `n_workers`; it can be
    interrupted and goes on with the next call, and processes that open the same cache wait for the one that builds.
    `progress` takes the number of images done and of all, `tell` a line on the size before it is built. Unreadable
    images never stop it.
    Raises InputError for a dataset without images or none that can be read, and for too little room on the disk.
    """
    if len(dataset) == 0:
        raise InputError(f"{dataset.name} has no pictures in its split {dataset.split}.")
    if n_workers is not None and n_workers < 1:
        raise InputError(f"n_workers must be at least 1; it is {n_workers}.")
    root = folder or cache_dir() / "pixels"
    home = root / _make_key(dataset, preprocessing)
    shape = (len(dataset), preprocessing.size_px, preprocessing.size_px, 3)
    if (cache := _open(home, dataset, shape)) is not None:
        return cache
    size = _megabytes(int(np.prod(shape, dtype=np.int64)))
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{home.name}.lock"):
            if (cache := _open(home, dataset, shape)) is not None:  # another process built it meanwhile
                return cache
            shutil.rmtree(home, ignore_errors=True)  # damaged
            tell(f"{len(dataset):,} images of {dataset.name} are decoded once, to {size} in {root}")
            _build(
                dataset,
                home,
                preprocessing=preprocessing,
                n_workers=n_workers or usable_cpus(),
                progress=progress or (lambda done, total: None),
            )
            cache = _open(home, dataset, shape)
    except OSError as error:
        if error.errno not in _FULL:
            raise InputError(f"The pixel cache can't be kept in {root}: {explain_os_error(error)}.") from error
        raise InputError(
            f"The disk got full while the pixel cache was written to {root} ({size} in all). What was written "
            "is kept: free some space and start again, or set SIGHTLINE_CACHE to a folder on another disk."
        ) from error
    if cache is None:
        raise InputError(f"The pixel cache {home} was damaged right after it was built; is the disk failing?")
    return cache


def _open(home: Path, dataset: Dataset, shape: tuple[int, ...]) -> PixelCache | None:
    """A finished cache; None where it is missing or not what it should be."""
    loaded = _load(home, shape)
    if loaded is None or not np.isin(loaded.states_N, (READABLE, UNREADABLE)).all():
        return None
    return PixelCache(
        pixels_NSS3=loaded.pixels_NSS3,
        readable_N=loaded.states_N == READABLE,
        problems=tuple(Problem(id=dataset.pairs[row].id, reason=why) for row, why in loaded.reasons.items()),
        folder=home,
    )


def _load(folder: Path, shape: tuple[int, ...]) -> PartialCache | None:
    """All that a folder holds; None where anything is missing or damaged."""
    try:
        pixels_NSS3: Any = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
        states_N = np.load(folder / STATES, allow_pickle=False)
        noted = {int(row): str(reason) for row, reason in json.loads((folder / PROBLEMS).read_bytes())}
        reasons = {row: noted[row] for row in np.flatnonzero(states_N == UNREADABLE).tolist()}
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None
    fits = pixels_NSS3.shape == shape and states_N.shape == shape[:1]
    if not fits or pixels_NSS3.dtype != np.uint8 or states_N.dtype != np.uint8:
        return None
    return PartialCache(folder=folder, pixels_NSS3=pixels_NSS3, states_N=states_N, reasons=reasons)


def _make_key(dataset: Dataset, preprocessing: Preprocessing) -> str:
    """A hash of all that decides the pixels: pairs, sizes and times of their files, and how they are resized."""
    versions = (PREPROCESSING_VERSION, PIXELS_VERSION)
    resizing = (preprocessing.size_px, preprocessing.resize_mode, preprocessing.interpolation, *versions)
    paths: dict[Any, None] = {}  # each image's file, or the tars or tables that hold them; none for what is rendered
    if hasattr(dataset.pairs[0].image, "path"):
        paths = dict.fromkeys(getattr(pair.image, "path", None) for pair in dataset.pairs)
    files = fingerprint_of(_stamp(path) for path in paths if isinstance(path, Path))
    return fingerprint_of([dataset.fingerprint, str(len(dataset)), files, *map(str, resizing)])


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


@dataclass(kw_only=True)
class PartialCache:
    """A cache being built in `folder`. What is saved there was on the disk before it was said to be done."""

    folder: Path
    pixels_NSS3: Any
    """Memory-mapped."""
    states_N: NDArray[np.uint8]
    reasons: dict[int, str]
    """Row -> why it can't be read."""
    saved_at: float = field(default_factory=time.monotonic)

    def note(self, first: int, count: int, problems: Problems) -> None:
        """Remember that rows are written."""
        self.states_N[first : first + count] = READABLE
        for index, reason in problems:
            self.states_N[first + index] = UNREADABLE
            self.reasons[first + index] = reason
        if time.monotonic() - self.saved_at > 5.0:
            self.save()

    def save(self) -> None:
        """Put on the disk the pixels, then what is known of them."""
        with (self.folder / PIXELS).open("r+b") as file:
            os.fsync(file.fileno())
        write_json(self.folder / PROBLEMS, sorted(self.reasons.items()), durable=True)
        with replacing(self.folder / STATES, durable=True) as partial:
            np.save(partial, self.states_N, allow_pickle=False)
        self.saved_at = time.monotonic()


def _build(
    dataset: Dataset,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    n_workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Make the cache `folder`, going on with what an earlier run left. The caller holds the lock.

    Raises InputError where the disk has too little room and where no image at all can be read, OSError where it
    can't be written.
    """
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shape = (len(dataset), preprocessing.size_px, preprocessing.size_px, 3)
    partial_folder.mkdir(parents=True, exist_ok=True)
    _check_space(partial_folder, shape)
    partial = _open_partial(partial_folder, shape)
    about = {"data": dataset.name, "split": dataset.split, "images": len(dataset), "size_px": shape[1]}
    write_json(partial_folder / ABOUT, about)
    try:
        _fill(partial, dataset, preprocessing=preprocessing, n_workers=n_workers, progress=progress)
    finally:
        partial.save()
    if (partial.states_N == UNREADABLE).all():
        shutil.rmtree(partial_folder)
        raise InputError(
            f"None of the {len(dataset)} pictures of {dataset.name} can be read; the first, {dataset.pairs[0].id}: "
            f"{partial.reasons[0]}. Is the disk with the pictures there?"
        )
    partial_folder.rename(folder)


def _fill(
    partial: PartialCache,
    dataset: Dataset,
    *,
    preprocessing: Preprocessing,
    n_workers: int,
    progress: Callable[[int, int], None],
) -> None:
    row_bytes = preprocessing.size_px**2 * 3
    done = int(np.count_nonzero(partial.states_N))
    progress(done, len(dataset))
    # where captions are composed when a pair is taken, its image alone is to be had sooner
    image_at = getattr(dataset.pairs, "image_at", lambda row: dataset.pairs[row].image)
    with _readers(dataset, n_images=len(dataset) - done, n_workers=n_workers) as (pool, idle):

        def read(first: int, count: int) -> tuple[int, int, Problems]:
            sources = [image_at(row) for row in range(first, first + count)]
            offset = partial.pixels_NSS3.offset + first * row_bytes
            task = Task(sources=sources, preprocessing=preprocessing, path=partial.folder / PIXELS, offset=offset)
            reader = idle.get()
            try:
                return first, count, reader(task)
            finally:
                idle.put(reader)

        futures = [pool.submit(read, *run) for run in _missing_runs(partial.states_N)]
        for future in as_completed(futures):
            first, count, problems = future.result()
            partial.note(first, count, problems)
            done += count
            progress(done, len(dataset))


@contextmanager
def _readers(
    dataset: Dataset, *, n_images: int, n_workers: int
) -> Iterator[tuple[ThreadPoolExecutor, queue.SimpleQueue[Callable[[Task], Problems]]]]:
    """A pool of threads and as many readers; both end at once when the block is left.

    Sources of others are read in this process: a worker couldn't import a class that a script defines.
    """
    own = n_images > 0 and type(dataset.pairs[0].image).__module__.partition(".")[0] == "sightline"
    in_processes = own and n_images >= _FEWEST_FOR_PROCESSES and n_workers > 1
    idle: queue.SimpleQueue[Callable[[Task], Problems]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="pixels")
    with ExitStack() as stack:
        stack.callback(pool.shutdown)
        for _ in range(n_workers):
            reader = WorkerProcess() if in_processes else None
            if reader is not None:
                stack.callback(reader.stop)
            idle.put(reader or read_task)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield pool, idle


def _missing_runs(states_N: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """First row and count of tasks that cover all rows that are not done."""
    missing = np.flatnonzero(states_N == 0)
    for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
        for start in range(0, len(run), _ROWS_PER_TASK):
            part = run[start : start + _ROWS_PER_TASK]
            yield int(part[0]), len(part)


def _open_partial(folder: Path, shape: tuple[int, ...]) -> PartialCache:
    """The cache that an earlier run left, where it is whole; else a new one."""
    if (found := _load(folder, shape)) is not None:
        return found
    for name in (STATES, PROBLEMS):
        (folder / name).unlink(missing_ok=True)
    pixels_NSS3 = np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=shape)
    states_N = np.zeros(shape[0], np.uint8)
    partial = PartialCache(folder=folder, pixels_NSS3=pixels_NSS3, states_N=states_N, reasons={})
    partial.save()
    return partial


def _check_space(folder: Path, shape: tuple[int, ...]) -> None:
    there = folder / PIXELS
    present = there.stat() if there.exists() else None
    # a file that was made at its full length takes up only what was written
    written = 0 if present is None else getattr(present, "st_blocks", 0) * 512
    needed = int(np.prod(shape, dtype=np.int64)) - written + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The pixel cache needs {_megabytes(needed)} and {folder.parent} has {_megabytes(free)} free. "
            "Free some space, take fewer or smaller pictures, or set SIGHTLINE_CACHE to a folder on another disk."
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"

"""Filling the folder of a pixel cache: in parallel, to be gone on with after a stop, never half done under its name.

Shape suffixes: N pictures, S size_px.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.images.files import explain_os_error
from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.data.pixel_worker import LocalReader, Problems, Reader, Task, WorkerProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing

PIXELS, STATES, PROBLEMS, ABOUT = "pixels.npy", "states.npy", "problems.json", "about.json"
"""`about.json` is for people who wonder what fills their disk."""

READABLE, UNREADABLE = 1, 2
"""States of a row; 0 is not done."""

_ROWS_PER_TASK = 64
_FEWEST_FOR_PROCESSES = 512
"""Fewer pictures are read in the time in which worker processes start."""

_SAVE_EVERY_S = 5.0
_SPARE_BYTES = 16 * 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Progress = Callable[[int, int], None]
"""Takes the number of pictures done and of all."""


@dataclass(kw_only=True)
class PartialCache:
    """A cache being built in `folder`. What is saved there was on the disk before it was said to be done."""

    folder: Path
    states_N: NDArray[np.uint8]
    reasons: dict[int, str]
    """Row -> why it can't be read."""
    offset: int
    """Byte at which row 0 begins."""
    saved_at: float = field(default_factory=time.monotonic)

    def note(self, first: int, count: int, problems: Problems) -> None:
        """Remember that rows are written."""
        self.states_N[first : first + count] = READABLE
        for index, reason in problems:
            self.states_N[first + index] = UNREADABLE
            self.reasons[first + index] = reason
        if time.monotonic() - self.saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Put on the disk the pixels, then what is known of them."""
        with (self.folder / PIXELS).open("r+b") as file:
            os.fsync(file.fileno())
        _replace(self.folder / PROBLEMS, json.dumps(sorted(self.reasons.items())).encode())
        _replace(self.folder / STATES, _as_npy(self.states_N))
        self.saved_at = time.monotonic()


def build_cache(
    dataset: Dataset, folder: Path, *, preprocessing: Preprocessing, n_workers: int, progress: Progress | None
) -> None:
    """Make the cache `folder`, going on with what an earlier run left. The caller holds the lock.

    Raises InputError where the disk has or gets too little room, and where no picture at all can be read.
    """
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shape = (len(dataset), preprocessing.size_px, preprocessing.size_px, 3)
    try:
        partial_folder.mkdir(parents=True, exist_ok=True)
        _check_space(partial_folder, shape)
        partial = _open_partial(partial_folder, shape)
        about = {"data": dataset.name, "split": dataset.split, "images": len(dataset), "size_px": shape[1]}
        _replace(partial_folder / ABOUT, json.dumps(about).encode())
        try:
            _fill(partial, dataset, preprocessing=preprocessing, n_workers=n_workers, progress=progress)
        finally:
            partial.save()
        _refuse_all_unreadable(partial, dataset)
        partial_folder.rename(folder)
    except OSError as error:
        raise InputError(_explain_write_error(error, partial_folder, shape)) from error


def _fill(
    partial: PartialCache,
    dataset: Dataset,
    *,
    preprocessing: Preprocessing,
    n_workers: int,
    progress: Progress | None,
) -> None:
    row_bytes = preprocessing.size_px**2 * 3
    report = progress or (lambda done, total: None)
    done = int(np.count_nonzero(partial.states_N))
    report(done, len(dataset))
    runs = list(_missing_runs(partial.states_N))
    # where captions are composed when a pair is taken, its picture alone is to be had sooner
    image_at = getattr(dataset.pairs, "image_at", lambda row: dataset.pairs[row].image)
    with _readers(dataset, n_pictures=len(dataset) - done, n_workers=n_workers) as (pool, idle):

        def read(first: int, count: int) -> tuple[int, int, Problems]:
            sources = [image_at(row) for row in range(first, first + count)]
            offset = partial.offset + first * row_bytes
            task = Task(sources=sources, preprocessing=preprocessing, path=partial.folder / PIXELS, offset=offset)
            reader = idle.get()
            try:
                return first, count, reader(task)
            finally:
                idle.put(reader)

        futures: Sequence[Future[tuple[int, int, Problems]]] = [pool.submit(read, *run) for run in runs]
        for future in as_completed(futures):
            first, count, problems = future.result()
            partial.note(first, count, problems)
            done += count
            report(done, len(dataset))


@contextmanager
def _readers(
    dataset: Dataset, *, n_pictures: int, n_workers: int
) -> Iterator[tuple[ThreadPoolExecutor, queue.SimpleQueue[Reader]]]:
    """A pool of threads and as many readers; both end at once when the block is left.

    Sources of others are read in this process: a worker couldn't import a class that a script defines.
    """
    own = n_pictures > 0 and type(dataset.pairs[0].image).__module__.partition(".")[0] == "sightline"
    make = WorkerProcess if own and n_pictures >= _FEWEST_FOR_PROCESSES and n_workers > 1 else LocalReader
    readers: list[Reader] = []
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="pixels")
    try:
        readers += [make() for _ in range(n_workers)]
        idle: queue.SimpleQueue[Reader] = queue.SimpleQueue()
        for reader in readers:
            idle.put(reader)
        yield pool, idle
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.stop()
        pool.shutdown()


def _missing_runs(states_N: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """First row and count of tasks that cover all rows that are not done."""
    missing = np.flatnonzero(states_N == 0)
    for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
        for start in range(0, len(run), _ROWS_PER_TASK):
            part = run[start : start + _ROWS_PER_TASK]
            yield int(part[0]), len(part)


def _open_partial(folder: Path, shape: tuple[int, ...]) -> PartialCache:
    """What an earlier run left, where it is whole; else a new one."""
    try:
        pixels: Any = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
        states_N = np.load(folder / STATES, allow_pickle=False)
        reasons = {int(row): str(reason) for row, reason in json.loads((folder / PROBLEMS).read_bytes())}
        fits = pixels.shape == shape and pixels.dtype == np.uint8 and states_N.shape == shape[:1]
        if fits and states_N.dtype == np.uint8 and set(np.flatnonzero(states_N == UNREADABLE)) <= reasons.keys():
            reasons = {row: reason for row, reason in reasons.items() if states_N[row] == UNREADABLE}
            return PartialCache(folder=folder, states_N=states_N, reasons=reasons, offset=pixels.offset)
    except (OSError, ValueError, TypeError, EOFError):
        pass  # missing or damaged: begin anew
    for name in (STATES, PROBLEMS):
        (folder / name).unlink(missing_ok=True)
    offset = np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=shape).offset
    partial = PartialCache(folder=folder, states_N=np.zeros(shape[0], np.uint8), reasons={}, offset=offset)
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


def _explain_write_error(error: OSError, folder: Path, shape: tuple[int, ...]) -> str:
    if error.errno in _FULL:
        needed = _megabytes(int(np.prod(shape, dtype=np.int64)))
        return (
            f"The disk got full while the pixel cache was written to {folder.parent} ({needed} in all). What was "
            "written is kept: free some space and start again, or set SIGHTLINE_CACHE to a folder on another disk."
        )
    return f"The pixel cache can't be written to {folder.parent}: {explain_os_error(error)}."


def _refuse_all_unreadable(partial: PartialCache, dataset: Dataset) -> None:
    if (partial.states_N == UNREADABLE).all():
        shutil.rmtree(partial.folder)
        raise InputError(
            f"None of the {len(dataset)} pictures of {dataset.name} can be read; the first, {dataset.pairs[0].id}: "
            f"{partial.reasons[0]}. Is the disk with the pictures there?"
        )


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that at every moment the old or the new one is there, whole."""
    ours = path.with_suffix(".tmp")
    with ours.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    ours.replace(path)


def _as_npy(array: NDArray[np.uint8]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"

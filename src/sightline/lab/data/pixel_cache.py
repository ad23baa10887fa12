"""Pictures of a dataset decoded once, at training size, memory-mapped: later epochs don't decode.

Shape suffixes: N pictures, S size_px.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.files import explain_os_error
from sightline.core.images.preprocess import PREPROCESSING_VERSION, Preprocessing
from sightline.errors import InputError
from sightline.kit.config import cache_dir
from sightline.lab.data.base import Dataset, fingerprint_of
from sightline.lab.data.locks import hold_lock
from sightline.lab.data.pixel_build import PIXELS, PROBLEMS, READABLE, STATES, UNREADABLE, build_cache

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelProblem:
    """A picture that can't be read."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCache:
    """All pictures of a dataset as its preprocessing resizes them."""

    pixels_NSS3: NDArray[np.uint8]
    """Memory-mapped and read-only; zeros where a picture can't be read. `pixels_NSS3[rows]` copies rows."""
    readable_N: NDArray[np.bool_]
    problems: tuple[PixelProblem, ...]
    """Of the rows that are not readable, in order."""
    folder: Path
    """Where it lies; may be deleted whenever nobody uses it, and is then made again."""


def open_pixel_cache(
    dataset: Dataset,
    *,
    preprocessing: Preprocessing,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    n_workers: int | None = None,
) -> PixelCache:
    """The pixels of a dataset, from its cache below `folder` (`SIGHTLINE_CACHE`/pixels), which is built if missing.

    JPEGs are decoded at reduced scale where that is enough. Building takes all cores or `n_workers`; it can be
    interrupted and goes on with the next call, and processes that open the same cache wait for the one that builds.
    `progress` takes the number of pictures done and of all. Unreadable pictures never stop it.
    Raises InputError for a dataset without pictures or none that can be read, and for too little room on the disk.
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
    try:
        root.mkdir(parents=True, exist_ok=True)
        with hold_lock(root / f"{home.name}.lock"):
            if (cache := _open(home, dataset, shape)) is not None:  # another process built it meanwhile
                return cache
            shutil.rmtree(home, ignore_errors=True)  # damaged
            workers = n_workers or _count_cores()
            build_cache(dataset, home, preprocessing=preprocessing, n_workers=workers, progress=progress)
            cache = _open(home, dataset, shape)
    except OSError as error:
        raise InputError(f"The pixel cache can't be kept in {root}: {explain_os_error(error)}.") from error
    if cache is None:
        raise InputError(f"The pixel cache {home} was damaged right after it was built; is the disk failing?")
    return cache


def _open(home: Path, dataset: Dataset, shape: tuple[int, ...]) -> PixelCache | None:
    """A finished cache; None where it is missing or not what it should be."""
    try:
        pixels_NSS3 = np.load(home / PIXELS, mmap_mode="r", allow_pickle=False)
        states_N = np.load(home / STATES, allow_pickle=False)
        noted = json.loads((home / PROBLEMS).read_bytes())
        reasons = {int(row): str(reason) for row, reason in noted}
        fits = pixels_NSS3.shape == shape and pixels_NSS3.dtype == np.uint8 and states_N.shape == shape[:1]
        if not fits or not np.isin(states_N, (READABLE, UNREADABLE)).all():
            return None
        unreadable = np.flatnonzero(states_N == UNREADABLE).tolist()
        problems = tuple(PixelProblem(id=dataset.pairs[row].id, reason=reasons[row]) for row in unreadable)
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None
    return PixelCache(pixels_NSS3=pixels_NSS3, readable_N=states_N == READABLE, problems=problems, folder=home)


def _make_key(dataset: Dataset, preprocessing: Preprocessing) -> str:
    """What decides the pixels: pairs, sizes and times of their files, and how they are resized."""
    resizing = (preprocessing.size_px, preprocessing.resize_mode, preprocessing.interpolation, PREPROCESSING_VERSION)
    files = fingerprint_of(_stamp(path) for path in _files_of(dataset))
    return fingerprint_of([dataset.fingerprint, str(len(dataset)), files, *map(str, resizing)])


def _files_of(dataset: Dataset) -> list[Path]:
    """The files behind the pictures: each, or the tars or tables that hold them; none for what is rendered."""
    if not hasattr(dataset.pairs[0].image, "path"):
        return []
    paths = dict.fromkeys(getattr(pair.image, "path", None) for pair in dataset.pairs)
    return [path for path in paths if isinstance(path, Path)]


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

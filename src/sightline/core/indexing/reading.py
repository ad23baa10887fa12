"""Files read in threads: the readings of a run, and the sample by which int8 graphs are judged."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.decode import read_image, read_info
from sightline.core.images.facts import read_sidecar
from sightline.core.images.files import explain_os_error, hash_bytes, hash_file, walk_images
from sightline.core.images.preprocess import Preprocessing, make_sketch
from sightline.core.indexing.plan import Exclusion, Task
from sightline.core.indexing.report import IndexConfig
from sightline.core.types import ImageInfo
from sightline.errors import ImageError, InputError
from sightline.kit.work import map_ahead, usable_cpus

_LARGE_FILE_BYTES = 128 * 2**20
"""A larger file is not held in memory as a whole: it is hashed in pieces and read again by the decoder."""


_MOST_FILES = 50_000
"""Files among which a sample is drawn: enough of any library, and the walk of millions isn't waited for."""
_READ_AHEAD = 64


@dataclass(kw_only=True, slots=True)
class Reading:
    """The outcome of reading one file: a failure, or its hash with pixels unless the content was known."""

    task: Task
    content_hash: str = ""
    info: ImageInfo | None = None
    pixels: NDArray[np.uint8] | None = None
    sketch: NDArray[np.uint8] | None = None
    """Made with the pixels."""
    failure: str | None = None
    """The reason why the file could not be read."""
    retry: bool = False
    """True where the failure may pass without a change of the file: permissions, memory, a network disk."""
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
            reading.failure, reading.retry = error.reason, error.may_pass
        except OSError as error:
            reading.failure, reading.retry = explain_os_error(error), True
        except MemoryError:
            reading.failure, reading.retry = "not enough memory to decode it", True
        return reading

    def _read(self, task: Task, reading: Reading) -> None:
        started = time.perf_counter()
        path = task.root / task.relative
        sidecar = read_sidecar(path) if task.has_sidecar else None
        if task.facts_only:
            reading.info = read_info(path, sidecar=sidecar)
            return
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
            image = read_image(source, min_side_px=self._preprocessing.size_px, sidecar=sidecar)
            reading.info = image.info
            reading.pixels = self._preprocessing.resize(image.rgb)
            reading.sketch = make_sketch(image.rgb)
            reading.decode_s = time.perf_counter() - started - reading.read_s
        elif sidecar is not None:  # what is written beside it is no part of the content
            reading.info = read_info(source, sidecar=sidecar)


def sample_images(
    folders: Sequence[Path], preprocessing: Preprocessing, count: int, *, config: IndexConfig | None = None
) -> NDArray[np.uint8]:
    """Pixels (B, S, S, 3) of `count` images below folders, drawn evenly, always the same ones of the same files.

    None of them is read where there are too few files; where too few can be read, those are given. Nothing is said of
    what can't be read: indexing does that.
    """
    drawn = draw_files(folders, config=config)
    images = list(itertools.islice(_readable(drawn, preprocessing), count)) if len(drawn) >= count else []
    side = preprocessing.size_px
    return np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)


def draw_files(folders: Sequence[Path], *, config: IndexConfig | None = None) -> list[Path]:
    """The image files below folders, shuffled, always alike; a folder that can't be read holds none."""
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
    """Pixels of those that can be read, in order, some read ahead."""

    def read(path: Path) -> NDArray[np.uint8] | None:
        try:
            return preprocessing.resize(read_image(path, min_side_px=preprocessing.size_px).rgb)
        except (ImageError, OSError):
            return None

    found = map_ahead(read, paths, threads=usable_cpus() + 4, ahead=_READ_AHEAD)
    return (pixels for pixels in found if pixels is not None)

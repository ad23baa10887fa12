"""Images of a dataset decoded anew whenever a batch asks for them: more work in every epoch, and no room on the disk.

In the place of a `PixelCache`, and with the same pixels. Shape suffixes: B images of a batch, N of the dataset, S side.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.preprocess import Preprocessing
from sightline.kit.work import usable_cpus
from sightline.lab.data.base import Dataset, Problem
from sightline.lab.data.pixel_worker import Problems, read_rows

_LOG = logging.getLogger(__name__)
_NAMED = 5
"""Images that can't be read which are named, before only their number is told."""
_GREY = 128


class PixelStream:
    """The images of a dataset as its preprocessing resizes them; `stream[rows]` decodes those rows.

    An image that can't be read is grey, since only reading it shows that; it is named, or counted.
    """

    problems: tuple[Problem, ...] = ()
    """None are known before images are read."""

    def __init__(self, dataset: Dataset, *, preprocessing: Preprocessing) -> None:
        self._dataset, self._preprocessing = dataset, preprocessing
        self.shape = (len(dataset), preprocessing.size_px, preprocessing.size_px, 3)
        self.readable_N = np.ones(len(dataset), bool)
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="pixels")
        self._begun: dict[int, Future[tuple[NDArray[np.uint8], Problems]]] = {}
        self._unreadable: set[int] = set()

    @property
    def pixels_NSS3(self) -> PixelStream:
        """Itself, where a cache has an array."""
        return self

    def begin(self, rows_B: NDArray[np.int64]) -> None:
        """Start to decode the rows of a batch to come, and forget what was begun for others."""
        for row in self._begun.keys() - set(rows_B.tolist()):
            self._begun.pop(row).cancel()
        self._submit(rows_B)

    def _submit(self, rows_B: NDArray[np.int64]) -> None:
        for row in rows_B.tolist():
            if row not in self._begun:
                self._begun[row] = self._pool.submit(read_rows, [self._dataset[row].image], self._preprocessing)

    def __getitem__(self, rows_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels (B, S, S, 3) of some rows."""
        self._submit(rows_B)
        pixels_BSS3 = np.empty((len(rows_B), *self.shape[1:]), np.uint8)
        for index, row in enumerate(rows_B.tolist()):
            read_1SS3, problems = self._begun[row].result()
            pixels_BSS3[index] = _GREY if problems else read_1SS3[0]
            for _, reason in problems:
                self._tell(row, reason)
        for row in rows_B.tolist():
            self._begun.pop(row, None)
        return pixels_BSS3

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _tell(self, row: int, reason: str) -> None:
        if row in self._unreadable:
            return
        self._unreadable.add(row)
        count = len(self._unreadable)
        if count <= _NAMED:
            _LOG.warning("%s can't be read and is grey: %s", self._dataset[row].id, reason)
        elif count % 100 == 0:
            _LOG.warning("%d images of %s can't be read so far and are grey.", count, self._dataset.name)

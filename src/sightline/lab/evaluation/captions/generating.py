"""One generated caption for each picture of a data set. Shape suffix: B images of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import ImageError, InputError
from sightline.lab.evaluation.results import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.images.preprocess import Preprocessing
    from sightline.core.models.base import Captioner, GenerationConfig
    from sightline.lab.data.base import Dataset, Pair
    from sightline.lab.evaluation.embedding import Progress

_MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class CaptionedDataset:
    """The pictures that could be read, each with the caption that a model wrote."""

    dataset: Dataset
    """The pairs of those pictures, in order."""
    captions: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def generate_captions(
    captioner: Captioner,
    dataset: Dataset,
    config: GenerationConfig,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> CaptionedDataset:
    """Let a captioner write its best caption for each picture; pictures that can't be read are left out, and named.

    Raises InputError where no picture can be read.
    """
    if not len(dataset):
        raise InputError(f"{dataset.name} has no pictures in its split {dataset.split}.")
    rows: list[int] = []
    captions: list[str] = []
    problems: list[Problem] = []
    done = 0
    for batch in _read_batches(dataset, captioner.card.preprocessing, batch_size):
        problems += [picture for picture in batch if isinstance(picture, Problem)]
        readable = [index for index, picture in enumerate(batch) if not isinstance(picture, Problem)]
        if readable:
            pixels_BSS3 = np.stack([picture for picture in batch if not isinstance(picture, Problem)])
            written = captioner.generate(pixels_BSS3, config)
            captions += [candidates[0].text if candidates else "" for candidates in written]
            rows += [done + index for index in readable]
        done += len(batch)
        if progress is not None:
            progress(done, len(dataset))
    if not rows:
        raise InputError(f"None of the {len(dataset)} pictures of {dataset.name} can be read: {problems[0].reason}.")
    readable_part = dataset.take(rows, why="readable") if problems else dataset
    return CaptionedDataset(dataset=readable_part, captions=tuple(captions), problems=tuple(problems))


def _read_batches(
    dataset: Dataset, preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[NDArray[np.uint8] | Problem]]:
    """Pictures at the model's size, in order; the next batch is read while the one before is captioned."""
    read = partial(_read, preprocessing=preprocessing)
    pairs = iter(dataset)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        ahead = pool.map(read, list(islice(pairs, batch_size)))
        while batch := list(ahead):
            ahead = pool.map(read, list(islice(pairs, batch_size)))
            yield batch


def _read(pair: Pair, preprocessing: Preprocessing) -> NDArray[np.uint8] | Problem:
    try:
        return preprocessing.resize(pair.image.read())
    except ImageError as error:
        return Problem(id=pair.id, reason=error.reason)

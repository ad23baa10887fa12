"""Data sets written in another format: pictures as the bytes that their source keeps, else as PNG, and all captions.

Everything is written beside the target and takes its name at the end: a target that is there is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sightline.core.images.decode import read_info
from sightline.errors import DataError, ImageError, InputError
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.download.pictures import SUFFIX_OF_FORMAT
from sightline.lab.data.encoded import encode_png, read_encoded
from sightline.lab.data.writers import WRITERS, DatasetWriter, Sample

_AT_ONCE = 128

OnProgress = Callable[[int, int, str], None]
"""Takes pictures written, pictures in all, and a few words."""


@dataclass(frozen=True, kw_only=True)
class SkippedPair:
    """A pair that is not in what was written."""

    split: str
    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What was written."""

    target: Path
    pictures: dict[str, int]
    """By split."""
    captions: int
    skipped: tuple[SkippedPair, ...]
    lost: tuple[str, ...]
    """What the source has and the format can't hold: `hard negatives`, `classes`."""


def convert_datasets(
    datasets: Sequence[Dataset], target: Path, *, to: str, on_progress: OnProgress | None = None
) -> ConvertReport:
    """Write some splits of one source to the new folder `target`, in the format `to` (a key of WRITERS).

    Pairs whose picture can't be read, or that have neither caption nor class, are left out and reported. Raises
    InputError for an unknown format, a target that isn't empty, or nothing that could be written; DataError where
    the target can't be written, as on a full disk, which leaves nothing behind.
    """
    if to not in WRITERS:
        raise InputError(f"There is no format {to!r} to write; there are {', '.join(WRITERS)}.")
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links, absolute() keeps ..
    _require_empty(target)
    staging = target.with_name(f".{target.name}.converting")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        report = _write_all(datasets, WRITERS[to](staging), target, on_progress)
        if target.is_dir():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise DataError(
            f"{target} can't be written: {error.strerror or error}. Nothing of it was kept; free space or choose "
            "another folder, then convert again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _require_empty(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists and is no empty folder. Choose another; nothing is overwritten.")


def _write_all(
    datasets: Sequence[Dataset], writer: DatasetWriter, target: Path, on_progress: OnProgress | None
) -> ConvertReport:
    total = sum(len(dataset) for dataset in datasets)
    pictures: dict[str, int] = {dataset.split: 0 for dataset in datasets}
    skipped: list[SkippedPair] = []
    captions = 0
    with writer:
        for dataset in datasets:
            for pair, sample in _prepare_all(dataset):
                if isinstance(sample, Sample):
                    writer.add(sample)
                    pictures[dataset.split] += 1
                    captions += len(sample.captions)
                else:
                    skipped.append(SkippedPair(split=dataset.split, id=pair.id, reason=sample))
                if on_progress is not None:
                    on_progress(sum(pictures.values()) + len(skipped), total, f"{len(skipped):,} left out")
        if not any(pictures.values()):
            reason = f", the first because: {skipped[0].reason}" if skipped else ""
            raise InputError(f"None of {total} pairs could be written{reason}. Look at it: sightline data check DATA")
        writer.finish()
    lost = _what_is_lost(datasets)
    return ConvertReport(target=target, pictures=pictures, captions=captions, skipped=tuple(skipped), lost=lost)


def _prepare_all(dataset: Dataset) -> Iterator[tuple[Pair, Sample | str]]:
    """Each pair ready to be written, or the reason why it can't be."""

    def prepare(row: int) -> tuple[Pair, Sample | str]:
        pair = dataset[row]
        try:
            return pair, _prepare(dataset, pair)
        except ImageError as error:
            return pair, error.reason

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="convert") as threads:
        for start in range(0, len(dataset), _AT_ONCE):  # a window, so that pictures don't pile up in memory
            yield from threads.map(prepare, range(start, min(start + _AT_ONCE, len(dataset))))


def _prepare(dataset: Dataset, pair: Pair) -> Sample:
    captions = pair.captions
    if not captions and pair.label is not None and dataset.class_names:
        captions = dataset.class_names[pair.label][:1]
    if not captions:
        raise ImageError("no caption")
    data = read_encoded(pair.image)
    if data is None:
        data = encode_png(pair.image)
    info = read_info(data)
    return Sample(
        split=dataset.split,
        id=pair.id,
        captions=tuple(map(_plain_text, captions)),
        data=data,
        suffix=SUFFIX_OF_FORMAT[info.format],
        width=info.width,
        height=info.height,
    )


def _plain_text(caption: str) -> str:
    """Half characters, which JSON can hold and UTF-8 can't, become U+FFFD."""
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _what_is_lost(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    lost = []
    if any(pair.negatives for dataset in datasets for pair in dataset):
        lost.append("hard negatives")
    if any(dataset.class_names for dataset in datasets):
        lost.append("classes")
    return tuple(lost)

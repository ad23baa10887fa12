"""Data sets written in another format: images as the bytes that their source keeps, else as PNG, and all captions.

Everything is written beside the target and takes its name at the end: a target that is there is complete. Each format
is read back by the reader of the same kind; an image's place is made from its id, so that ids survive where a format
takes them from file names.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sightline.core.images.decode import read_info
from sightline.core.images.files import EXTENSIONS, is_image_name
from sightline.errors import DataError, ImageError, InputError
from sightline.kit.files import explained
from sightline.kit.work import Progress, map_ahead, usable_cpus
from sightline.lab.data.base import Dataset, EncodedImage, Pair, Split

SHARD_SIZE = 1_000
"""Images of a webdataset shard."""
SUFFIX_OF_FORMAT = {name: ending[1:] for ending, name in reversed(EXTENSIONS.items())} | {"PPM": "ppm"}
"""Format as Pillow names it -> its most usual extension, without a dot."""

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')


@dataclass(frozen=True, kw_only=True)
class SkippedPair:
    """A pair that is not in what was written."""

    split: str
    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """All that was written, and what was not."""

    target: Path
    pictures: dict[str, int]
    """By split."""
    captions: int
    skipped: tuple[SkippedPair, ...]
    lost: tuple[str, ...]
    """All that the source has and the format can't hold: `hard negatives`, `classes`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One pair ready to be written."""

    split: Split
    id: str
    captions: tuple[str, ...]
    data: bytes
    """The encoded image."""
    suffix: str
    """Extension of its format, without a dot."""
    width: int
    height: int


def convert_datasets(
    datasets: Sequence[Dataset], target: Path, *, to: str, on_progress: Progress | None = None
) -> ConvertReport:
    """Write some splits of one source to the new folder `target`, in the format `to` (a key of WRITERS).

    Pairs whose image can't be read, or that have neither caption nor class, are left out and reported. Raises
    InputError for an unknown format, a target that isn't empty, or nothing that could be written; DataError where
    the target can't be written, as on a full disk, which leaves nothing behind.
    """
    if to not in WRITERS:
        raise InputError(f"There is no format {to!r} to write; there are {', '.join(WRITERS)}.")
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links, absolute() keeps ..
    if (target.exists() or target.is_symlink()) and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} exists and is no empty folder. Choose another; nothing is overwritten.")
    staging = target.with_name(f".{target.name}.converting")  # the same for every process: a killed one's is cleared
    advice = "Nothing of it was kept; free space or choose another folder, then convert again."
    try:
        with explained(target, advice, error=DataError):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            report = _write_all(datasets, WRITERS[to](staging), target, on_progress)
            if target.is_dir():
                target.rmdir()
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _write_all(
    datasets: Sequence[Dataset], writer: DatasetWriter, target: Path, on_progress: Progress | None
) -> ConvertReport:
    total = sum(map(len, datasets))
    images: dict[str, int] = {dataset.split: 0 for dataset in datasets}
    skipped: list[SkippedPair] = []
    captions = 0
    pairs = ((dataset, pair) for dataset in datasets for pair in dataset)
    with writer:
        for done, sample in enumerate(map_ahead(_prepare, pairs, threads=usable_cpus(), ahead=128), start=1):
            if isinstance(sample, Sample):
                writer.add(sample)
                images[sample.split] += 1
                captions += len(sample.captions)
            else:
                skipped.append(sample)
            if on_progress is not None:
                on_progress(done, total, f"{len(skipped):,} left out")
        if not any(images.values()):
            reason = f", the first because: {skipped[0].reason}" if skipped else ""
            raise InputError(f"None of {total} pairs could be written{reason}. Look at it: sightline data check DATA")
        writer.finish()
    lost = {
        "hard negatives": any(pair.negatives for dataset in datasets for pair in dataset),
        "classes": any(dataset.class_names for dataset in datasets),
    }
    return ConvertReport(
        target=target,
        pictures=images,
        captions=captions,
        skipped=tuple(skipped),
        lost=tuple(name for name, is_lost in lost.items() if is_lost),
    )


def _prepare(dataset_and_pair: tuple[Dataset, Pair]) -> Sample | SkippedPair:
    from PIL import Image

    dataset, pair = dataset_and_pair
    captions = pair.captions
    if not captions and pair.label is not None and dataset.class_names:
        captions = dataset.class_names[pair.label][:1]
    try:
        if not captions:
            raise ImageError("no caption")
        if isinstance(pair.image, EncodedImage):
            data = pair.image.read_bytes()
        else:
            file = io.BytesIO()
            Image.fromarray(pair.image.read()).save(file, "PNG")
            data = file.getvalue()
        info = read_info(data)
    except ImageError as error:
        return SkippedPair(split=dataset.split, id=pair.id, reason=error.reason)
    return Sample(
        split=dataset.split,
        id=pair.id,
        # half characters, which JSON can hold and UTF-8 can't, become U+FFFD
        captions=tuple(caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for caption in captions),
        data=data,
        suffix=SUFFIX_OF_FORMAT[info.format],
        width=info.width,
        height=info.height,
    )


class DatasetWriter(ABC):
    """Writes samples below an empty folder. A context that leaves nothing open; raises OSError where the disk refuses.

    After a failure on a full disk closing fails too, for what is still in a buffer: nothing is said of that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()
        self._opened = ExitStack()

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Write one sample."""

    def finish(self) -> None:
        """Write what belongs at the end, and close what is open."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._opened.close()

    def _write_image(self, sample: Sample, *, below: str = "") -> str:
        """Write the image; its path below the folder, `/` between its parts, that no other sample has."""
        stem, _, extension = safe_place(sample.id, sample.suffix).rpartition(".")
        place = f"{self._choose_free(below + stem, extension)}.{extension}"
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)
        return place

    def _choose_free(self, name: str, kind: str) -> str:
        """The name, with a number where another sample of this kind has it, upper and lower case alike."""
        chosen, number = name, 1
        while (mark := f"{chosen}.{kind}".casefold()) in self._taken:
            number += 1
            chosen = f"{name}-{number}"
        self._taken.add(mark)
        return chosen


def safe_place(identity: str, suffix: str) -> str:
    """An id as a path that stays below its folder on every system; with `suffix` where it has no image's extension."""
    parts = [
        _UNSAFE.sub("_", part) for part in identity.replace("\\", "/").split("/") if part.strip(". ") and part != "~"
    ]
    place = "/".join(parts) or "picture"
    return place if is_image_name(place) else f"{place}.{suffix}"


class FolderWriter(DatasetWriter):
    """Images, and a `metadata.jsonl` with `file_name`, `text` (a list where an image has several) and `split`."""

    text_name = "metadata.jsonl"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._text = self._opened.enter_context((folder / self.text_name).open("w", encoding="utf-8", newline=""))

    def add(self, sample: Sample) -> None:
        """Write the image and its line."""
        text = sample.captions[0] if len(sample.captions) == 1 else list(sample.captions)
        record = {"file_name": self._write_image(sample), "text": text, "split": sample.split}
        self._text.write(json.dumps(record, ensure_ascii=False) + "\n")


class CsvWriter(FolderWriter):
    """Images, and a `captions.csv` with `filepath`, `title` and `split`, a row a caption."""

    text_name = "captions.csv"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._rows = csv.writer(self._text)
        self._rows.writerow(["filepath", "title", "split"])

    def add(self, sample: Sample) -> None:
        """Write the image and its rows."""
        place = self._write_image(sample)
        self._rows.writerows([place, caption, sample.split] for caption in sample.captions)


class CocoWriter(DatasetWriter):
    """A folder of images a split, and `annotations/captions_SPLIT.json` in COCO's structure."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._splits: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._next_annotation = 1

    def add(self, sample: Sample) -> None:
        """Write the image and remember its captions."""
        below = f"{sample.split}/"
        name = self._write_image(sample, below=below).removeprefix(below)
        content = self._splits.setdefault(sample.split, {"images": [], "annotations": []})
        image_id = len(content["images"]) + 1
        content["images"].append({"id": image_id, "file_name": name, "width": sample.width, "height": sample.height})
        for caption in sample.captions:
            content["annotations"].append({"id": self._next_annotation, "image_id": image_id, "caption": caption})
            self._next_annotation += 1

    def finish(self) -> None:
        """Write the annotations."""
        (self._folder / "annotations").mkdir()
        for split, content in self._splits.items():
            with (self._folder / "annotations" / f"captions_{split}.json").open("w", encoding="utf-8") as file:
                json.dump({"info": {"description": "Written by Sightline"}, **content}, file, ensure_ascii=False)


class WebdatasetWriter(DatasetWriter):
    """Tars of 1,000 images, a folder a split; one caption is a `.txt`, several are `captions` in the `.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._shard: ShardWriter | None = None
        self._split: str | None = None
        self._in_split = 0

    def add(self, sample: Sample) -> None:
        """Append the sample to the open shard, or begin the next."""
        if self._split != sample.split:
            self._split, self._in_split = sample.split, 0
        number, index = divmod(self._in_split, SHARD_SIZE)
        if self._shard is None or index == 0:
            self.finish()
            folder = self._folder / sample.split
            folder.mkdir(exist_ok=True)
            self._shard = ShardWriter(folder / name_shard(number))
        stem = safe_place(sample.id, sample.suffix).rpartition(".")[0]
        key = self._choose_free(stem.replace("/", "_").replace(".", "_"), sample.split)  # a key ends at its first dot
        facts: dict[str, Any] = {"id": sample.id, "width": sample.width, "height": sample.height}
        members = {sample.suffix: sample.data}
        if len(sample.captions) == 1:
            members["txt"] = sample.captions[0].encode()
        else:
            facts["captions"] = list(sample.captions)
        self._shard.add(key, {**members, "json": encode_json(facts)})
        self._in_split += 1

    def finish(self) -> None:
        """Complete the last shard."""
        if self._shard is not None:
            self._shard.finish()
            self._shard = None

    def __exit__(self, *_: object) -> None:
        if self._shard is not None:
            self._shard.abandon()


WRITERS: Mapping[str, type[DatasetWriter]] = {
    "folder": FolderWriter,
    "csv": CsvWriter,
    "coco": CocoWriter,
    "webdataset": WebdatasetWriter,
}
"""Kind, as in an address -> what writes it."""


class ShardWriter:
    """Writes one webdataset shard beside its name, as `.00000.tar.partial`, and gives it its name at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add one sample: suffix without a dot -> content. Raises OSError, as on a full disk."""
        for suffix, content in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mode = len(content), 0o644
            self._tar.addfile(member, io.BytesIO(content))

    def finish(self) -> None:
        """Flush to disk and take the name. Raises OSError."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)

    def abandon(self) -> None:
        """Leave nothing behind. On a full disk closing fails too, for what is still in the buffer."""
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)


def encode_json(facts: Mapping[str, Any]) -> bytes:
    """A JSON object as UTF-8."""
    return json.dumps(facts, ensure_ascii=False).encode()


def name_shard(number: int) -> str:
    """`00000.tar`."""
    return f"{number:05d}.tar"

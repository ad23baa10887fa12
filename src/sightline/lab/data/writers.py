"""The formats that a data set can be written in; each is read back by the reader of the same kind.

A picture's place is made from its id, so that ids survive where a format takes them from file names.
"""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sightline.core.images.files import is_image_name
from sightline.lab.data.base import Split
from sightline.lab.data.download.shards import ShardWriter, encode_json, name_shard

SHARD_SIZE = 1_000
"""Pictures of a webdataset shard."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One pair ready to be written."""

    split: Split
    id: str
    captions: tuple[str, ...]
    data: bytes
    """The encoded picture."""
    suffix: str
    """Of its format, without a dot."""
    width: int
    height: int


class DatasetWriter(ABC):
    """Writes samples below an empty folder. A context manager; all methods raise OSError where the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Write one sample."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abandon()

    @abstractmethod
    def abandon(self) -> None:
        """Close what is open after a failure, without raising another."""

    def _choose_place(self, sample: Sample, *, below: str = "") -> str:
        """A path below the folder, `/` between its parts, that no other sample has."""
        stem, _, extension = safe_place(sample.id, sample.suffix).rpartition(".")
        return f"{self._choose_free(below + stem, extension)}.{extension}"

    def _choose_free(self, name: str, kind: str) -> str:
        """The name, with a number where another sample of this kind has it, upper and lower case alike."""
        chosen, number = name, 1
        while (mark := f"{chosen}.{kind}".casefold()) in self._taken:
            number += 1
            chosen = f"{name}-{number}"
        self._taken.add(mark)
        return chosen

    def _write_picture(self, place: str, sample: Sample) -> None:
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)


def safe_place(identity: str, suffix: str) -> str:
    """An id as a path that stays below its folder on every system; with `suffix` where it has no image's extension."""
    parts = [
        _UNSAFE.sub("_", part) for part in identity.replace("\\", "/").split("/") if part.strip(". ") and part != "~"
    ]
    place = "/".join(parts) or "picture"
    return place if is_image_name(place) else f"{place}.{suffix}"


class FolderWriter(DatasetWriter):
    """Pictures, and a `metadata.jsonl` with `file_name`, `text` (a list where a picture has several) and `split`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lines = (folder / "metadata.jsonl").open("w", encoding="utf-8")

    def add(self, sample: Sample) -> None:
        """Write the picture and its line."""
        place = self._choose_place(sample)
        self._write_picture(place, sample)
        text = sample.captions[0] if len(sample.captions) == 1 else list(sample.captions)
        self._lines.write(_to_line({"file_name": place, "text": text, "split": sample.split}))

    def finish(self) -> None:
        """Flush the lines."""
        self._lines.close()

    def abandon(self) -> None:
        """Close the lines."""
        _close_quietly(self._lines)


class CsvWriter(DatasetWriter):
    """Pictures, and a `captions.csv` with `filepath`, `title` and `split`, a row a caption."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = (folder / "captions.csv").open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["filepath", "title", "split"])

    def add(self, sample: Sample) -> None:
        """Write the picture and its rows."""
        place = self._choose_place(sample)
        self._write_picture(place, sample)
        self._rows.writerows([place, caption, sample.split] for caption in sample.captions)

    def finish(self) -> None:
        """Flush the rows."""
        self._file.close()

    def abandon(self) -> None:
        """Close the table."""
        _close_quietly(self._file)


class CocoWriter(DatasetWriter):
    """A folder of pictures a split, and `annotations/captions_SPLIT.json` in COCO's structure."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._splits: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._next_annotation = 1

    def add(self, sample: Sample) -> None:
        """Write the picture and remember its captions."""
        below = f"{sample.split}/"
        place = self._choose_place(sample, below=below)
        self._write_picture(place, sample)
        content = self._splits.setdefault(sample.split, {"images": [], "annotations": []})
        image_id = len(content["images"]) + 1
        content["images"].append(
            {
                "id": image_id,
                "file_name": place.removeprefix(below),
                "width": sample.width,
                "height": sample.height,
            }
        )
        for caption in sample.captions:
            content["annotations"].append({"id": self._next_annotation, "image_id": image_id, "caption": caption})
            self._next_annotation += 1

    def abandon(self) -> None:
        """Nothing is kept open."""

    def finish(self) -> None:
        """Write the annotations."""
        (self._folder / "annotations").mkdir()
        for split, content in self._splits.items():
            with (self._folder / "annotations" / f"captions_{split}.json").open("w", encoding="utf-8") as file:
                json.dump({"info": {"description": "Written by Sightline"}, **content}, file, ensure_ascii=False)


class WebdatasetWriter(DatasetWriter):
    """Tars of 1,000 pictures, a folder a split; one caption is a `.txt`, several are `captions` in the `.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._shard: ShardWriter | None = None
        self._split: str | None = None
        self._in_shard = 0
        self._shards_of_split = 0

    def add(self, sample: Sample) -> None:
        """Append the sample to the open shard, or begin the next."""
        if self._split != sample.split or self._in_shard == SHARD_SIZE:
            self._begin_shard(sample.split)
        assert self._shard is not None
        stem = safe_place(sample.id, sample.suffix).rpartition(".")[0]
        key = self._choose_free(stem.replace("/", "_").replace(".", "_"), sample.split)  # a key ends at its first dot
        facts: dict[str, Any] = {"id": sample.id, "width": sample.width, "height": sample.height}
        members = {sample.suffix: sample.data}
        if len(sample.captions) == 1:
            members["txt"] = sample.captions[0].encode()
        else:
            facts["captions"] = list(sample.captions)
        self._shard.add(key, {**members, "json": encode_json(facts)})
        self._in_shard += 1

    def finish(self) -> None:
        """Complete the last shard."""
        if self._shard is not None:
            self._shard.finish()
            self._shard = None

    def abandon(self) -> None:
        """Leave no shard open."""
        if self._shard is not None:
            self._shard.abandon()

    def _begin_shard(self, split: str) -> None:
        self.finish()
        if self._split != split:
            self._split, self._shards_of_split = split, 0
        (self._folder / split).mkdir(exist_ok=True)
        self._shard = ShardWriter(self._folder / split / name_shard(self._shards_of_split))
        self._shards_of_split += 1
        self._in_shard = 0


WRITERS: Mapping[str, type[DatasetWriter]] = {
    "folder": FolderWriter,
    "csv": CsvWriter,
    "coco": CocoWriter,
    "webdataset": WebdatasetWriter,
}
"""Kind, as in an address -> what writes it."""


def _to_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _close_quietly(file: IO[str]) -> None:
    """On a full disk closing fails too, for what is still in the buffer."""
    with suppress(OSError):
        file.close()

"""Conceptual Captions: lists of captions and URLs as Google publishes them, and the shards that these become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.config import is_file
from sightline.lab.data.base import SPLITS, Dataset, Split
from sightline.lab.data.download.url_lists import open_url_list
from sightline.lab.data.text_files import first_line
from sightline.lab.data.webdataset import READER as WEBDATASET
from sightline.lab.data.webdataset import find_shards


class ConceptualReader:
    """CC3M and CC12M: a TSV of caption and URL (either first), and the webdataset shards downloaded from it.

    The path is a folder with shards, with or without its list, or a list that has shards beside it.
    """

    kind = "cc"

    def recognises(self, path: Path) -> bool:
        """Whether a file, or one in a folder, is such a list."""
        return any(_is_list(path) for path in _tables(path))

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split of the shards, as `webdataset` does.

        Raises InputError for a list with other columns, for a list whose images were not downloaded (with the
        command that does), and what a damaged shard raises.
        """
        self._require_shards(path)
        return replace(WEBDATASET.load(_shards_of(path), split=split), name=f"cc:{path}")

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that there are shards of."""
        self._require_shards(path)
        known = {shard.split for shard in find_shards(_shards_of(path))}
        return tuple(split for split in SPLITS if split in known)

    def _require_shards(self, path: Path) -> None:
        tables = _tables(path)
        for table in tables:
            if not _is_list(table):
                open_url_list(table)  # which says what is wrong with its columns
        if WEBDATASET.recognises(_shards_of(path)):
            return
        if not tables:
            raise InputError(
                f"{path} holds neither shards (00000.tar, ...) nor a list of captions and URLs such as "
                "Train_GCC-training.tsv. Get them with: sightline data get cc3m FOLDER"
            )
        n_rows = sum(open_url_list(table).n_rows for table in tables)
        name = "cc12m" if "12m" in tables[0].name.lower() else "cc3m"
        raise InputError(
            f"{path} lists {n_rows:,} images by URL, and none is downloaded: there are no shards (00000.tar, ...) in "
            f"{_shards_of(path)}. Download them first: "
            f"sightline data get {name} {_shards_of(path)} --list {tables[0]}"
        )


def _shards_of(path: Path) -> Path:
    return path.parent if is_file(path) and path.suffix == ".tsv" else path


def _tables(path: Path) -> list[Path]:
    if is_file(path):
        return [path] if path.suffix == ".tsv" else []
    return sorted(path.glob("*.tsv"))


def _is_list(path: Path) -> bool:
    """Whether the first row has two cells of which one is a URL, or is a heading of such."""
    cells = [cell.strip().lower() for cell in first_line(path).split("\t")]
    urls = [cell.startswith(("http://", "https://")) for cell in cells]
    return len(cells) == 2 and (sum(urls) == 1 or {*cells} == {"url", "caption"})


READER = ConceptualReader()

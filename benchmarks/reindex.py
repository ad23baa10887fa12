"""Indexing again what hasn't changed: 100,000 files, each with a row, compared by size and mtime alone.

python benchmarks/reindex.py [--quick]

Beside it rclip's way: one query for each file. Files are a few bytes under an image's name, and their rows are written
straight into the store: what is timed never opens a file.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from report import Row, paired, seconds, show

import sightline as sl
from sightline.core.images.files import walk_images
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Embedding, ImageInfo, ImageRecord

FILES_PER_FOLDER = 500
DIM = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 files")
    count = 5_000 if parser.parse_args().quick else 100_000
    with tempfile.TemporaryDirectory() as scratch:
        photos = make_files(Path(scratch) / "photos", count)
        fill(Path(scratch) / "library", photos)
        plain = fill_plain(Path(scratch) / "plain.db", photos)
        with sl.Library.open(Path(scratch) / "library", model="starter") as library:
            assert library.index(photos).unchanged == count
            ours_s, plain_s, ratio = paired(
                lambda: library.index(photos), lambda: compare_plainly(plain, photos), pairs=3
            )
        goal_s = 3.0
        row = Row(
            journey=f"re-index {count:,} unchanged files",
            unit="s",
            ours=ours_s,
            other=plain_s,
            alternative="one query a file",
            ratio=ratio,
            goal=f"<= {goal_s:g} s",
            reached=ours_s <= goal_s,
            limit=f"{walk_s(photos):.2f} s for listing the folders and asking for each file's size and mtime",
        )
        show("reindex", [row])


def make_files(folder: Path, count: int) -> Path:
    for number in range(count):
        inside = folder / f"{number // FILES_PER_FOLDER:04}"
        if number % FILES_PER_FOLDER == 0:
            inside.mkdir(parents=True)
        (inside / f"IMG_{number:06}.jpg").write_bytes(b"%d" % number)
    return folder


def fill(library: Path, photos: Path) -> None:
    """Rows as indexing would leave them, with random vectors."""
    identity = sl.load_encoder("starter").identity
    rng = np.random.default_rng(0)
    with open_store(library) as store:
        store.add_model(identity)
        entries: list[Entry] = []
        for file in walk_images(photos, on_problem=lambda path, reason: None):
            image = ImageRecord(
                root=photos,
                relative=file.relative,
                size_bytes=file.size_bytes,
                mtime_ns=file.mtime_ns,
                content_hash=file.relative,
                info=ImageInfo(width=4000, height=3000, format="JPEG"),
            )
            vector = rng.normal(size=identity.dim).astype(np.float32)
            vector /= np.linalg.norm(vector)
            embedding = Embedding(model=identity.name, vector=vector)
            entries.append(Entry(image=image, embeddings=[embedding], sketch=np.zeros((32, 32), np.uint8)))
            if len(entries) == FILES_PER_FOLDER:
                store.upsert(entries)
                entries = []
        store.upsert(entries)


def fill_plain(path: Path, photos: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("create table images (filepath text unique, size integer, mtime_ns integer, vector blob)")
    vector = np.zeros(DIM, np.float32).tobytes()
    for file in walk_images(photos, on_problem=lambda path, reason: None):
        row = (str(file.path), file.size_bytes, file.mtime_ns, vector)
        connection.execute("insert into images values (?, ?, ?, ?)", row)
    connection.commit()
    return connection


def compare_plainly(connection: sqlite3.Connection, photos: Path) -> int:
    unchanged = 0
    for path, status in _stats(str(photos)):
        row = connection.execute("select size, mtime_ns from images where filepath = ?", (path,)).fetchone()
        unchanged += row == (status.st_size, status.st_mtime_ns)
    return unchanged


def walk_s(photos: Path) -> float:
    """What any comparison has to do."""
    times = [seconds(lambda: deque(_stats(str(photos)), maxlen=0)) for _ in range(3)]
    return sorted(times)[1]


def _stats(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _stats(entry.path)
        else:
            yield entry.path, entry.stat()


if __name__ == "__main__":
    main()

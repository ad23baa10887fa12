"""Indexing as rclip 3.3 does it, written anew: its own weights come from the Hugging Face hub, ours are made here.

Threads, one a core, read and hash a file, decode it whole with Pillow, resize and normalise it, three batches ahead;
ONNX Runtime runs fp32 on batches of 8; each row is looked up by path and by hash and written to SQLite.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

BATCH = 8
AHEAD = 3 * BATCH
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_Read = tuple[Path, str, NDArray[np.float32]]


def open_graph(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


def index(folder: Path, session: Any, database: Path, *, size_px: int) -> int:
    """Bring a new database up to date with a folder; the number of rows."""
    connection = sqlite3.connect(database)
    connection.execute(
        "create table images (id integer primary key, filepath text not null unique, modified_at real, size integer, "
        "vector blob, hash text)"
    )
    connection.execute("create index hash_index on images(hash)")
    name = session.get_inputs()[0].name
    waiting: list[_Read] = []
    for one in _read_ahead(_new_files(folder, connection), size_px):
        connection.execute("select vector from images where hash = ?", (one[1],)).fetchone()
        waiting.append(one)
        if len(waiting) == BATCH:
            _store(connection, session, name, waiting)
            waiting = []
    if waiting:
        _store(connection, session, name, waiting)
    connection.commit()
    rows = int(connection.execute("select count(*) from images").fetchone()[0])
    connection.close()
    return rows


def _new_files(folder: Path, connection: sqlite3.Connection) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.jpg")):
        if connection.execute("select * from images where filepath = ?", (str(path),)).fetchone() is None:
            yield path


def _read_ahead(paths: Iterator[Path], size_px: int) -> Iterator[_Read]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        flying: deque[Future[_Read]] = deque(pool.submit(_read, path, size_px) for path in islice(paths, AHEAD))
        while flying:
            future = flying.popleft()
            flying.extend(pool.submit(_read, path, size_px) for path in islice(paths, 1))
            yield future.result()


def _read(path: Path, size_px: int) -> _Read:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    with Image.open(path) as file:
        image = file.convert("RGB")
    short = min(image.size)
    width, height = (int(size_px * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size_px) / 2), round((height - size_px) / 2)
    image = image.crop((left, top, left + size_px, top + size_px))
    pixels_SS3 = (np.array(image, np.float32) / 255 - _MEAN) / _STD
    return path, digest, pixels_SS3.transpose(2, 0, 1)


def _store(connection: sqlite3.Connection, session: Any, name: str, batch: list[_Read]) -> None:
    vectors_BD = session.run(None, {name: np.stack([pixels for _, _, pixels in batch])})[0]
    vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    for (path, digest, _), vector in zip(batch, vectors_BD, strict=True):
        status = path.stat()
        row = (str(path), status.st_mtime, status.st_size, vector.tobytes(), digest)
        connection.execute(
            "insert or replace into images (filepath, modified_at, size, vector, hash) values (?, ?, ?, ?, ?)", row
        )

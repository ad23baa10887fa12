"""From a query vector to hits: Sightline's store beside rclip's way (every row read from SQLite, numpy, full sort).

python benchmarks/search_latency.py [ROWS] [DIM]
"""

from __future__ import annotations

import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sightline.store.base import Entry
from sightline.store.sqlite import open_store
from sightline.types import Embedding, ImageInfo, ImageRecord, ModelIdentity

_QUERIES = 30
_TOP = 10


def main(rows: int = 7000, dim: int = 512) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, dim))
    vectors = (centres[rng.integers(0, 50, rows)] + 0.7 * rng.normal(size=(rows, dim))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(0, rows, _QUERIES)] + 0.03 * rng.normal(size=(_QUERIES, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder) / "library", vectors)
        plain = _fill_plain(Path(folder) / "plain.db", vectors)
        with open_store(Path(folder) / "library") as store:
            started = time.perf_counter()
            store.query(queries[0], _TOP, model="m")
            print(f"{platform.processor() or platform.machine()}, {rows:,} x {dim}, {_QUERIES} queries, medians")
            print(f"first query, matrix built  {1000 * (time.perf_counter() - started):9.1f} ms")
            for label, where in [("no filter", None), ("half kept", "width = 100"), ("4% kept", "height < 4")]:
                ours = _median_ms(lambda q, where=where: store.query(q, _TOP, model="m", where=where), queries)
                theirs = _median_ms(lambda q: _query_plain(plain, q), queries)
                print(f"{label:<10} ours {ours:8.2f} ms   rclip's way {theirs:8.2f} ms   ratio {theirs / ours:6.1f}")
            found = [{row for row, _ in store.query(q, _TOP, model="m")} for q in queries]
            exact = [set((np.argsort(-(vectors @ q))[:_TOP] + 1).tolist()) for q in queries]
            recall = statistics.mean(len(a & b) / _TOP for a, b in zip(found, exact, strict=True))
            print(f"recall@{_TOP} against the exact float32 answer: {recall:.3f}")
        plain.close()


def _fill(folder: Path, vectors: np.ndarray) -> None:
    dim = vectors.shape[1]
    with open_store(folder) as store:
        store.add_model(ModelIdentity(name="m", weights_hash="0", preprocessing_version=1, dim=dim))
        entries = [
            Entry(
                image=ImageRecord(
                    root=folder.parent,
                    relative=f"{row:08}.jpg",
                    size_bytes=1,
                    mtime_ns=1,
                    content_hash=str(row),
                    info=ImageInfo(width=100 + row % 2, height=row % 100, format="JPEG"),
                ),
                embeddings=[Embedding(model="m", vector=vector)],
            )
            for row, vector in enumerate(vectors)
        ]
        for start in range(0, len(entries), 500):
            store.upsert(entries[start : start + 500])


def _fill_plain(path: Path, vectors: np.ndarray) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("create table images (filepath text, vector blob)")
    rows = ((f"{row:08}.jpg", vector.tobytes()) for row, vector in enumerate(vectors))
    connection.executemany("insert into images values (?, ?)", rows)
    connection.commit()
    return connection


def _query_plain(connection: sqlite3.Connection, query: np.ndarray) -> list[tuple[float, str]]:
    rows = connection.execute("select filepath, vector from images").fetchall()
    matrix = np.stack([np.frombuffer(vector, np.float32) for _, vector in rows])
    return sorted(zip((matrix @ query).tolist(), (path for path, _ in rows), strict=True), reverse=True)[:_TOP]


def _median_ms(answer: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    times = []
    for query in queries:
        started = time.perf_counter()
        answer(query)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

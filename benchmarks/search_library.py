"""What the search benchmarks share: vectors that lie as CLIP's do, libraries of them, what a user would use instead.

Vectors are generated: a narrow cone around a mean with one component that outweighs all others, in it clusters of
unequal size, and noise whose spectrum falls. Queries are half like pictures (close to a row), half like words (far from
all rows, a little nearer to some).
"""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from search_plain import plain_query

from sightline.core.store.rows import ids_json
from sightline.core.store.sqlite import open_store
from sightline.core.store.texts import refresh_texts
from sightline.core.types import ModelIdentity

TOP = 10
MODEL = "m"
FILTERS = {"no filter": None, "50% kept": "taken_at < '2015'", "4% kept": "camera = 'Camera 7' and width >= 1000"}
_CHUNK = 50_000
_CLUSTERS = 2000


class Space:
    """Where vectors of one seed lie."""

    def __init__(self, dim: int = 512) -> None:
        self.rng = np.random.default_rng(0)
        self.scale_D = (1 + np.arange(dim)) ** -0.5
        self.centre_CD = self.rng.normal(size=(_CLUSTERS, dim)) * self.scale_D
        self.mean_D = 0.3 * self.rng.normal(size=dim) * self.scale_D.mean()
        self.mean_D[dim // 3] = 1.5 * np.linalg.norm(self.scale_D)
        self.share_C = 1 / (1 + np.arange(_CLUSTERS))
        self.share_C /= self.share_C.sum()

    def rows(self, count: int) -> Iterator[np.ndarray]:
        """Unit rows (n, D) float32, some thousands at a time."""
        for start in range(0, count, _CHUNK):
            cluster_N = self.rng.choice(_CLUSTERS, size=min(_CHUNK, count - start), p=self.share_C)
            noise_ND = self.rng.standard_normal((len(cluster_N), len(self.scale_D)), dtype=np.float32)
            yield _unit(self.mean_D + self.centre_CD[cluster_N] + 0.7 * noise_ND * self.scale_D)

    def queries(self, rows_ND: np.ndarray, count: int) -> np.ndarray:
        """Unit queries (count, D): every other one like a picture, the others like words."""
        near_QD = rows_ND[self.rng.integers(0, len(rows_ND), count)]
        noise_QD = self.rng.normal(size=near_QD.shape) * self.scale_D
        noise_QD /= np.linalg.norm(noise_QD, axis=1, keepdims=True)
        words_QD = 0.3 * (near_QD - rows_ND[:1000].mean(axis=0)) + noise_QD
        return _unit(np.where(np.arange(count)[:, None] % 2, words_QD, near_QD + 0.2 * noise_QD))


def _unit(rows_ND: np.ndarray) -> np.ndarray:
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def fill(folder: Path, chunks: Iterator[np.ndarray], identity: ModelIdentity | None = None) -> Iterator[np.ndarray]:
    """Write a library as docs/format.md describes it, without an indexing run; passes the vectors on."""
    with open_store(folder) as store:
        store.add_model(identity or ModelIdentity(name=MODEL, weights_hash="0", preprocessing_version=1, dim=512))
    db = sqlite3.connect(folder / "library.db")
    generation = db.execute("select generation from models").fetchone()[0]
    db.execute("insert into roots (id, path) values (1, '/photos')")
    db.execute("update models set hub_bank = 'bank'")
    first = 1
    for rows_ND in chunks:
        ids = range(first, first + len(rows_ND))
        db.executemany(
            "insert into images (id, root_id, relative, folder, name, size_bytes, mtime_ns, content_hash, format, "
            "width, height, taken_at, camera, indexed_at_ns) values (?, 1, ?, ?, ?, 1, ?, ?, 'JPEG', ?, 1000, ?, ?, 1)",
            [_image(id_) for id_ in ids],
        )
        halves_ND = rows_ND.astype("<f2")
        vectors = ((id_, generation, halves_ND[i].tobytes(), id_ % 997 / 2000) for i, id_ in enumerate(ids))
        db.executemany("insert into vectors values (?, 1, ?, 'fp32', ?, ?)", vectors)
        refresh_texts(db, ids_json(ids))
        first = ids.stop
        yield rows_ND
    db.commit()
    db.close()


def _image(id_: int) -> tuple[object, ...]:
    """Dates over ten years that only partly follow the ids, 25 cameras, pictures that are all wide enough."""
    year, day = 2010 + id_ * 7919 % 10, 1 + id_ % 28
    folder, name = f"{year}/{id_ % 97}", f"{id_:08}.jpg"
    taken_at = f"{year}-{1 + id_ % 12:02}-{day:02}T{id_ % 24:02}:{id_ % 60:02}:00"
    camera = f"Camera {id_ * 7907 % 25}"
    return id_, f"{folder}/{name}", folder, name, id_, str(id_), 1000 + id_ % 500, taken_at, camera


def kept_rows(folder: Path, where: str | None, count: int) -> np.ndarray:
    """Which rows (N,) a filter keeps, asked in SQL."""
    if where is None:
        return np.ones(count, dtype=bool)
    db = sqlite3.connect(folder / "library.db")
    found = [row[0] for row in db.execute(f"select id from images where {where}")]
    db.close()
    mask_N = np.zeros(count, dtype=bool)
    mask_N[np.array(found, dtype=np.int64) - 1] = True
    return mask_N


def exact_ids(rows_ND: np.ndarray, query_D: np.ndarray, kept_N: np.ndarray) -> set[int]:
    """Ids of the nearest rows, in float32."""
    cosine_N = np.where(kept_N, rows_ND @ query_D, -np.inf)
    return set((np.argpartition(-cosine_N, TOP)[:TOP] + 1).tolist())


def recall_percent(
    answer: Callable[[np.ndarray], Sequence[int]],
    queries_QD: np.ndarray,
    exact: Sequence[set[int]],
) -> float:
    """How many of the exact nearest an answer names, on average."""
    return 100 * statistics.mean(
        len(set(answer(query)) & best) / TOP for query, best in zip(queries_QD, exact, strict=True)
    )


class Plain:
    """rclip's way: one SQLite row a picture, all read for each query, numpy, a full sort."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path)
        self._db.execute("create table images (id integer primary key, filepath text, vector blob)")
        self._count = 0

    def add(self, rows_ND: np.ndarray) -> None:
        """Write rows as float32 blobs."""
        rows = [(self._count + i + 1, f"/photos/{self._count + i}.jpg", row.tobytes()) for i, row in enumerate(rows_ND)]
        self._db.executemany("insert into images (id, filepath, vector) values (?, ?, ?)", rows)
        self._db.commit()
        self._count += len(rows)

    def query(self, query_D: np.ndarray) -> list[tuple[float, str]]:
        """The best paths with their cosines."""
        return plain_query(self._db, query_D)

    def close(self) -> None:
        """Release the file."""
        self._db.close()


class Flat:
    """FAISS flat: float32 rows in memory, inner product; filtered by a bitmap that is made beforehand."""

    def __init__(self, rows_ND: np.ndarray) -> None:
        import faiss

        self._faiss = faiss
        faiss.omp_set_num_threads(2)
        self._index = faiss.IndexFlatIP(rows_ND.shape[1])
        self._index.add(rows_ND)

    def query(self, query_D: np.ndarray, kept_N: np.ndarray | None) -> list[int]:
        """Ids of the best rows."""
        how = {}
        if kept_N is not None:
            bits = np.packbits(kept_N, bitorder="little")
            selector = self._faiss.IDSelectorBitmap(len(kept_N), self._faiss.swig_ptr(bits))
            how = {"params": self._faiss.SearchParameters(sel=selector)}
        found = self._index.search(query_D[None], TOP, **how)[1][0]
        return [int(row) + 1 for row in found]

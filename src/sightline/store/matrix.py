"""The matrix that a query scans: a model's vectors as int8 rows in one memory-mapped file, derived from SQLite.

Each row is scaled by its own largest component to [-127, 127]. Cosine doesn't depend on a row's length, so no scale is
kept, and rows can be made, copied and dropped one by one. `docs/format.md` describes the file.

Shape suffixes: N rows, D dimension, K candidates.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from usearch.compiled import MetricKind
from usearch.index import search

from sightline.store.vectors import CHUNK_ROWS, ModelRow, read_vectors

MAGIC = b"SIGHTMTX"
FORMAT_VERSION = 1
_HEADER = struct.Struct("<8sIIQq")
"""Magic, format version, D, N, generation."""
_CHECKSUM = struct.Struct("<I")
"""CRC-32 of the header, the ids and the generations of the rows."""
_START_BYTES = 64
_PADDING = _START_BYTES - _HEADER.size - _CHECKSUM.size
GATHERED_ROWS = 65_536
"""Rows copied at once when a filter selects some: bounds the memory a filtered scan takes."""
_LEFTOVER_AGE_S = 3600


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Quantised rows of one model, by ascending image id."""

    generation: int
    ids: NDArray[np.int64]
    generations: NDArray[np.int64]
    rows: NDArray[np.int8]
    """(N, D)."""

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where the rows of some ids are; ids without a row are left out."""
        return np.flatnonzero(np.isin(self.ids, ids))

    def nearest(
        self, query_D: NDArray[np.float32], count: int, positions: NDArray[np.intp] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids (K,) and int8 cosine distances (K,) of the `count` nearest rows, of all or of those at `positions`."""
        query_1D = quantise(query_D[None])
        if positions is None:
            keys, distances = _scan(self.rows, query_1D, count)
            return self.ids[keys], distances
        found = [(np.empty(0, dtype=np.intp), np.empty(0, dtype=np.float32))]
        for start in range(0, len(positions), GATHERED_ROWS):
            block = positions[start : start + GATHERED_ROWS]
            keys, distances = _scan(self.rows[block], query_1D, count)
            found.append((block[keys], distances))
        keys_K, distances_K = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(distances_K, kind="stable")[:count]
        return self.ids[keys_K[order]], distances_K[order]


def _scan(
    rows_ND: NDArray[np.int8], query_1D: NDArray[np.int8], count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    count = min(count, len(rows_ND))
    if count == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.float32)
    matches = search(rows_ND, query_1D, count, MetricKind.Cos, exact=True, threads=os.cpu_count() or 1)
    return matches.keys.astype(np.intp), matches.distances


def quantise(vectors_ND: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rows (N, D) scaled so that each one's largest component is 127 in size, rounded."""
    largest_N1 = np.abs(vectors_ND).max(axis=1, keepdims=True)
    rows_ND: NDArray[np.int8] = np.rint(vectors_ND * (127 / largest_N1)).astype(np.int8)
    return rows_ND


class MatrixFiles:
    """The matrices of one open library. Where the folder can't be written they live in memory only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[int, Matrix] = {}

    def path(self, model_id: int) -> Path:
        """The file of a model's matrix."""
        return self._folder / f"{model_id}.matrix"

    def close(self) -> None:
        """Let go of the mapped files."""
        self._loaded.clear()

    def remove(self, model_id: int) -> None:
        """Delete a dropped model's matrix; harmless where it can't be, since model ids never recur."""
        self._loaded.pop(model_id, None)
        with suppress(OSError):
            self.path(model_id).unlink(missing_ok=True)

    def current(self, db: sqlite3.Connection, model: ModelRow) -> Matrix:
        """The matrix of the vectors as they are now, taken from memory or its file, or rebuilt and kept."""
        matrix = self._loaded.get(model.id)
        if matrix is None or matrix.generation != model.generation:
            matrix = read_matrix(self.path(model.id), model.identity.dim) or matrix
        if matrix is None or matrix.generation != model.generation:
            matrix = self._rebuild(db, model, matrix)
        self._loaded[model.id] = matrix
        return matrix

    def _rebuild(self, db: sqlite3.Connection, model: ModelRow, old: Matrix | None) -> Matrix:
        plan = _Plan.make(db, model, old)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_matrix(self.path(model.id), plan, db)
        except OSError:
            # A read-only medium, a full disk, a file in use on Windows: the scan works from memory just as well.
            return plan.in_memory(db)
        made = read_matrix(self.path(model.id), model.identity.dim)
        # Another process, which still sees an older state, may have put its own file there meanwhile.
        return made if made is not None and made.generation == model.generation else plan.in_memory(db)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """How a matrix is made: which rows are copied from the old one, and which are read from SQLite."""

    model: ModelRow
    old: Matrix | None
    ids: NDArray[np.int64]
    generations: NDArray[np.int64]
    old_positions: NDArray[np.intp]
    """Row of the old matrix that still holds, or -1."""

    @classmethod
    def make(cls, db: sqlite3.Connection, model: ModelRow, old: Matrix | None) -> _Plan:
        sql = "select image_id, generation from vectors where model_id = ? order by image_id"
        listed = np.array(db.execute(sql, (model.id,)).fetchall(), dtype=np.int64).reshape(-1, 2)
        ids_N, generations_N = np.ascontiguousarray(listed[:, 0]), np.ascontiguousarray(listed[:, 1])
        position_N = np.full(len(ids_N), -1, dtype=np.intp)
        if old is not None and len(old.ids):
            at_N = np.minimum(np.searchsorted(old.ids, ids_N), len(old.ids) - 1)
            holds_N = (old.ids[at_N] == ids_N) & (old.generations[at_N] == generations_N)
            position_N[holds_N] = at_N[holds_N]
        return cls(model=model, old=old, ids=ids_N, generations=generations_N, old_positions=position_N)

    def chunks(self, db: sqlite3.Connection) -> Iterator[NDArray[np.int8]]:
        """The rows in order, some thousands at a time."""
        dim = self.model.identity.dim
        for start in range(0, len(self.ids), CHUNK_ROWS):
            position_C = self.old_positions[start : start + CHUNK_ROWS]
            rows_CD = np.empty((len(position_C), dim), dtype=np.int8)
            kept_C = position_C >= 0
            if self.old is not None:
                rows_CD[kept_C] = self.old.rows[position_C[kept_C]]
            if not kept_C.all():
                wanted = self.ids[start : start + CHUNK_ROWS][~kept_C]
                fetched = [quantise(vectors) for _, vectors in read_vectors(db, self.model, wanted.tolist())]
                rows_CD[~kept_C] = np.concatenate(fetched)
            yield rows_CD

    def in_memory(self, db: sqlite3.Connection) -> Matrix:
        empty = np.empty((0, self.model.identity.dim), dtype=np.int8)
        return Matrix(
            generation=self.model.generation,
            ids=self.ids,
            generations=self.generations,
            rows=np.concatenate([empty, *self.chunks(db)]),
        )


def write_matrix(path: Path, plan: _Plan, db: sqlite3.Connection) -> None:
    """Write a matrix beside its place and rename it there, so that readers see a whole file. Raises OSError."""
    _remove_leftovers(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, plan, db)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, plan: _Plan, db: sqlite3.Connection) -> None:
    tables = plan.ids.astype("<i8").tobytes() + plan.generations.astype("<i8").tobytes()
    dim, generation = plan.model.identity.dim, plan.model.generation
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, dim, len(plan.ids), generation)
    file.write(header + _CHECKSUM.pack(zlib.crc32(header + tables)) + bytes(_PADDING))
    file.write(tables)
    for rows in plan.chunks(db):
        file.write(rows.tobytes())


def read_matrix(path: Path, dim: int) -> Matrix | None:
    """Map a matrix file; None where it is missing, of another format or dimension, cut short or damaged."""
    try:
        with path.open("rb") as file:
            return _read(file, dim)
    except OSError:
        return None


def _read(file: BinaryIO, dim: int) -> Matrix | None:
    start = file.read(_START_BYTES)
    if len(start) != _START_BYTES:
        return None
    header = start[: _HEADER.size]
    magic, version, file_dim, count, generation = _HEADER.unpack(header)
    size = os.fstat(file.fileno()).st_size
    if (magic, version, file_dim) != (MAGIC, FORMAT_VERSION, dim) or size != _START_BYTES + count * (16 + dim):
        return None
    tables = file.read(16 * count)
    if start[_HEADER.size :] != _CHECKSUM.pack(zlib.crc32(header + tables)) + bytes(_PADDING):
        return None
    ids_N, generations_N = np.frombuffer(tables, dtype="<i8").reshape(2, count)
    rows_ND: NDArray[np.int8] = np.empty((0, dim), dtype=np.int8)
    if count:
        # By the open file, not its name: another process may put a newer file there at any time.
        rows_ND = np.memmap(file, dtype=np.int8, mode="r", offset=file.tell(), shape=(count, dim))
    return Matrix(generation=generation, ids=ids_N, generations=generations_N, rows=rows_ND)


def _remove_leftovers(folder: Path) -> None:
    """Files that a killed process was writing; recent ones may be another process's work in progress."""
    for leftover in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                leftover.unlink()

"""The matrix that a query scans: a model's vectors as int8 rows in one memory-mapped file, derived from SQLite.

A search never waits for a file. What changed since the file was made is put behind its rows in memory; where too much
did, as in a library that has no file yet, the search compares the rest as SQLite holds it until the file is there.

Each row is scaled by its own largest component to [-127, 127]. Cosine doesn't depend on a row's length, so no scale is
kept, and rows can be made, copied and dropped one by one. `docs/format.md` describes the file.

Shape suffixes: N rows, D dimension, C a chunk of rows.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numkong
import numpy as np
from numpy.typing import NDArray

from sightline.core.store.base import Lift
from sightline.core.store.vectors import (
    ModelRow,
    are_among,
    compare_vectors,
    list_models,
    read_halves,
    read_hubness,
    read_table,
)
from sightline.errors import InputError, StoreError
from sightline.kit.work import map_ahead, usable_cpus

MAGIC = b"SIGHTMTX"
FORMAT_VERSION = 2
_HEADER = struct.Struct("<8sIIQq")
"""Magic, format version, D, N, generation."""
_CHECKSUM = struct.Struct("<I")
"""CRC-32 of the header, the ids, the generations and the hubness of the rows."""
_START_BYTES = 64
_PADDING = _START_BYTES - _HEADER.size - _CHECKSUM.size
_TABLE_BYTES = 8 + 8 + 4
"""Of a row: its id, its generation, its hubness."""
CHUNK_ROWS = 1024
"""Rows that are quantised at once: few enough to stay in the processor's cache."""
COPIED_ROWS = 8192
"""Rows written to a file at once: bounds the memory that a build takes."""
_SAMPLED_ROWS = 256
_LEFTOVER_AGE_S = 3600

READ_ROWS = 8192
"""So many new vectors a search reads into memory before it scans, which takes some 50 ms."""
_LACKING_FRACTION = 1 / 8
"""A file that differs from the library by more rows than this part of them is made anew."""

MIN_CANDIDATES = 50
MAX_CANDIDATES_PER_RESULT = 4
_ROUNDING = 1e-6
"""Equal rows may get cosines that differ by this much."""
_READ_ALL_FRACTION = 0.5
"""From this part of the rows on, reading all vectors is faster than looking each up."""

SCANNED_ROWS = 32_768
"""Rows compared in one call, which bounds the memory for its float64 answer."""
SHARED_ROWS = 262_144
"""From so many rows on, all CPUs compare them: fewer take less time than starting threads is worth."""
GATHERED_ROWS = 4096
"""Rows copied together at once, where a mask keeps few: they stay in the processor's cache until they are compared."""
GATHERED_FRACTION = 0.3
"""Below this part of the rows, copying those that are kept and comparing only them is faster than comparing all."""

Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Ids, generations and hubness of rows."""


class Matrices:
    """One matrix for each model. Calls of `current` take turns; building is done by threads of its own."""

    def __init__(self, folder: Path, *, open_reader: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        """`open_reader` gives a thread that builds a connection of its own."""
        self._folder = folder
        self._open_reader = open_reader
        self._loaded: dict[int, Matrix] = {}
        self._stamps: dict[int, tuple[int, int, int] | None] = {}
        """Of each file inode, time and size when it was last looked at."""
        self._built: dict[int, Matrix] = {}
        self._builders: dict[int, threading.Thread] = {}

    def path(self, model_id: int) -> Path:
        """The file of a model's matrix."""
        return self._folder / f"{model_id}.matrix"

    def current(self, db: sqlite3.Connection, model: ModelRow) -> Matrix:
        """The matrix of the vectors as this connection sees them; those in `missing` it doesn't hold yet."""
        matrix = self._built.pop(model.id, None) or self._loaded.get(model.id)
        if matrix is None or matrix.generation != model.generation:
            matrix = self._newest(model, matrix)
        if matrix is None or matrix.generation != model.generation:
            plan = MatrixPlan.make(db, model, matrix)
            matrix = plan.updated(db, read=len(plan.missing) <= READ_ROWS)
        self._loaded[model.id] = matrix
        if len(matrix.missing) or matrix.outdated or matrix.lacking > _LACKING_FRACTION * matrix.count:
            self._start_build(model, matrix)
        return matrix

    def nearest(self, db: sqlite3.Connection, model: ModelRow, wanted: Wanted) -> list[tuple[int, float]]:
        """The k best rows as (id, cosine), best first, ties by id. Raises InputError as `normalise_query` does."""
        query_D = normalise_query(wanted.query, model)
        matrix = self.current(db, model)
        hub_weight = wanted.hub_weight if matrix.knows_hubs else 0.0
        ids_C = _propose(matrix, wanted, query_D, hub_weight=hub_weight)
        if len(matrix.missing):
            mask_M = wanted.mask(matrix.missing)
            ids_C = np.concatenate([ids_C, matrix.missing if mask_M is None else matrix.missing[mask_M]])
        every = len(ids_C) > _READ_ALL_FRACTION * matrix.count
        ids_C, cosine_C = compare_vectors(db, model, ids_C, query_D, every=every)
        rank_C = cosine_C - hub_weight * read_hubness(db, model, ids_C.tolist())[1] if hub_weight else cosine_C
        if wanted.lift is not None:
            rank_C = rank_C + wanted.lift.of(ids_C)
        best = np.lexsort((ids_C, -rank_C))[: wanted.k]
        return list(zip(ids_C[best].tolist(), cosine_C[best].tolist(), strict=True))

    def sample(self, db: sqlite3.Connection, model: ModelRow, wanted: Wanted) -> tuple[int, NDArray[np.float32]]:
        """How many rows may be found, and what up to k of them (S,), evenly spread, rank by.

        Raises InputError as `normalise_query` does.
        """
        query_D = normalise_query(wanted.query, model)
        matrix = self.current(db, model)
        mask_N = _mask(matrix, wanted)
        position_S = np.arange(len(matrix.ids)) if mask_N is None else np.flatnonzero(mask_N)
        count = len(position_S)
        if len(matrix.missing):  # no file yet: those that came first stand for all
            mask_M = wanted.mask(matrix.missing)
            ids_M = matrix.missing if mask_M is None else matrix.missing[mask_M]
            count += len(ids_M)
            if len(position_S) < wanted.k:
                _, cosine_S = compare_vectors(db, model, ids_M[_spread(len(ids_M), wanted.k)], query_D, every=False)
                return count, cosine_S.astype(np.float32)
        if not len(position_S):
            return count, np.empty(0, dtype=np.float32)
        position_S = position_S[_spread(len(position_S), wanted.k)]
        rows_SD = _gather(matrix.blocks, position_S)
        score_S = 1 - _angular_distances(quantise(query_D[None]), rows_SD)
        if wanted.hub_weight and matrix.knows_hubs:
            score_S -= wanted.hub_weight * matrix.hubness[position_S]
        return count, score_S.astype(np.float32)

    def wait(self) -> None:
        """Wait until no file is being made."""
        for builder in list(self._builders.values()):
            builder.join()

    def close(self) -> None:
        """Let go of the mapped files, once those that are being made are there: the next process finds them."""
        self.wait()
        self._loaded.clear()
        self._built.clear()

    def remove(self, model_id: int) -> None:
        """Delete a dropped model's matrix; harmless where it can't be, since model ids never recur."""
        if builder := self._builders.get(model_id):
            builder.join()
        self._loaded.pop(model_id, None)
        self._built.pop(model_id, None)
        with suppress(OSError):
            self.path(model_id).unlink(missing_ok=True)

    def _newest(self, model: ModelRow, known: Matrix | None) -> Matrix | None:
        """The matrix in memory, or the file where another process made a newer one."""
        stamp = None
        with suppress(OSError):
            stat = self.path(model.id).stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if known is not None and stamp == self._stamps.get(model.id):
            return known
        self._stamps[model.id] = stamp
        found = read_matrix(self.path(model.id), model.identity.dim)
        return known if found is None or (known is not None and known.generation >= found.generation) else found

    def _start_build(self, model: ModelRow, old: Matrix) -> None:
        running = self._builders.get(model.id)
        if running is None or not running.is_alive():
            build = threading.Thread(target=self._build, args=(model.id, old), name="sightline-matrix", daemon=True)
            self._builders[model.id] = build
            build.start()

    def _build(self, model_id: int, old: Matrix) -> None:
        # Of a damaged library the searches tell, which read the same vectors.
        with suppress(StoreError), self._open_reader() as db:
            models = {model.id: model for model in list_models(db).values()}
            if model_id in models:
                self._built[model_id] = self._make(db, MatrixPlan.make(db, models[model_id], old))

    def _make(self, db: sqlite3.Connection, plan: MatrixPlan) -> Matrix:
        path = self.path(plan.model.id)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_matrix(path, plan, db)
        except OSError:
            # A read-only medium, a full disk, a file in use on Windows: the scan works from memory just as well.
            return plan.in_memory(db)
        made = read_matrix(path, plan.model.identity.dim)
        # Another process, which still sees an older state, may have put its own file there meanwhile.
        return made if made is not None and made.generation == plan.model.generation else plan.in_memory(db)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Quantised rows of one model: those of its file by ascending image id, then those that came later."""

    generation: int
    """The model's, as of which `ids` and `missing` are right."""
    ids: NDArray[np.int64]
    generations: NDArray[np.int64]
    hubness: NDArray[np.float32]
    """Of each row (N,); NaN where it isn't known."""
    blocks: tuple[NDArray[np.int8], ...]
    """Arrays of rows, (N, D) together: the mapped file, and in memory what came later."""
    late: int = 0
    """Number of rows that came later; where there are some, they are the last block."""
    alive: NDArray[np.bool_] | None = None
    """True for the rows that still hold (N,); None where all do."""
    missing: NDArray[np.int64]
    """Ids of the vectors that aren't here yet, ascending."""
    knows_hubs: bool = False
    """True where every vector of the library has its hubness: hubs are corrected for all images or for none."""
    outdated: bool = False
    """True where the file has another hubness of a row."""

    @property
    def count(self) -> int:
        """Number of vectors that the library has."""
        return len(self.ids) - self._gone + len(self.missing)

    @cached_property
    def _gone(self) -> int:
        return 0 if self.alive is None else int(np.count_nonzero(~self.alive))

    @property
    def lacking(self) -> int:
        """Number of rows that a new file would have and the present one doesn't, and the other way round."""
        return self.late + len(self.missing) + self._gone

    @cached_property
    def margin(self) -> float:
        """The distance that rounding may have put between two cosines: four standard deviations.

        Rounding errors are uniform in [-0.5, 0.5], so that of a product with a unit vector has a standard deviation of
        sqrt(1 / 12) / |row|, and that of the difference of two such products sqrt(2) times as much.
        """
        rows_ND = self.blocks[0] if self.blocks else np.empty((0, 1), dtype=np.int8)
        sample_ND = rows_ND[:: max(1, len(rows_ND) // _SAMPLED_ROWS)].astype(np.float32)
        if not len(sample_ND):
            return 0.0
        return float(4 * (2 / 12) ** 0.5 / np.linalg.norm(sample_ND, axis=1).mean())


def quantise(vectors_ND: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rows (N, D) scaled so that each one's largest component is 127 in size, rounded."""
    largest_N1 = np.maximum(vectors_ND.max(axis=1, keepdims=True), -vectors_ND.min(axis=1, keepdims=True))
    scaled_ND = vectors_ND * (127 / largest_N1)
    rows_ND: NDArray[np.int8] = np.rint(scaled_ND, out=scaled_ND).astype(np.int8)
    return rows_ND


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixPlan:
    """The way to a matrix that is up to date: rows that are kept from an old one, and those that SQLite must give."""

    model: ModelRow
    old: Matrix
    ids: NDArray[np.int64]
    """Those of all vectors as they are now, ascending."""
    generations: NDArray[np.int64]
    hubness: NDArray[np.float32]
    old_positions: NDArray[np.intp]
    """For each vector the row of the old matrix that still holds, or -1."""

    @classmethod
    def make(cls, db: sqlite3.Connection, model: ModelRow, old: Matrix | None) -> MatrixPlan:
        """Compare an old matrix, if there is one, with the vectors as they are now."""
        none = np.empty(0, dtype=np.int64)
        nothing = np.empty((0, model.identity.dim), dtype=np.int8)
        old = old or _whole(0, (none, none, np.empty(0, dtype=np.float32)), nothing)
        ids_N, generations_N, hubness_N = read_table(db, model)
        position_N = np.full(len(ids_N), -1, dtype=np.intp)
        if len(old.ids) and len(ids_N):
            at_M = np.minimum(np.searchsorted(ids_N, old.ids), len(ids_N) - 1)
            # A vector that was written again has an older row too: only that of its generation holds.
            holds_M = (ids_N[at_M] == old.ids) & (generations_N[at_M] == old.generations)
            position_N[at_M[holds_M]] = np.flatnonzero(holds_M)
        return cls(
            model=model, old=old, ids=ids_N, generations=generations_N, hubness=hubness_N, old_positions=position_N
        )

    @property
    def missing(self) -> NDArray[np.int64]:
        """Ids that the old matrix has no row for."""
        missing_N: NDArray[np.int64] = self.ids[self.old_positions < 0]
        return missing_N

    def updated(self, db: sqlite3.Connection, *, read: bool) -> Matrix:
        """The old matrix with what changed put behind it, or, unless it shall be `read`, named as missing."""
        old, kept_N = self.old, self.old_positions >= 0
        alive_N = np.zeros(len(old.ids), dtype=np.bool_)
        alive_N[self.old_positions[kept_N]] = True
        hubness_O = np.zeros(len(old.ids), dtype=np.float32)
        hubness_O[self.old_positions[kept_N]] = self.hubness[kept_N]
        same = np.array_equal(old.hubness[alive_N], hubness_O[alive_N], equal_nan=True)
        kept = Matrix(
            generation=self.model.generation,
            ids=old.ids,
            generations=old.generations,
            hubness=hubness_O,
            blocks=old.blocks,
            late=old.late,
            alive=None if alive_N.all() else alive_N,
            missing=self.ids[~kept_N],
            knows_hubs=_knows(self.hubness),
            outdated=old.outdated or not same,
        )
        return self._with_late(kept, ~kept_N, db) if read and not kept_N.all() else kept

    def _with_late(self, kept: Matrix, missing_N: NDArray[np.bool_], db: sqlite3.Connection) -> Matrix:
        """What is missing, read and put behind the rows that were kept."""
        settled = len(kept.blocks) - (kept.late > 0)
        ids_M = self.ids[missing_N]
        late_MD = np.concatenate([*kept.blocks[settled:], *_read_rows(db, self.model, ids_M)])
        return replace(
            kept,
            ids=np.concatenate([kept.ids, ids_M]),
            generations=np.concatenate([kept.generations, self.generations[missing_N]]),
            hubness=np.concatenate([kept.hubness, self.hubness[missing_N]]),
            blocks=(*kept.blocks[:settled], late_MD),
            late=len(late_MD),
            alive=None if kept.alive is None else np.concatenate([kept.alive, np.ones(len(ids_M), dtype=np.bool_)]),
            missing=ids_M[:0],
        )

    def chunks(self, db: sqlite3.Connection) -> Iterator[NDArray[np.int8]]:
        """All rows in order, some thousands at a time."""
        for start in range(0, len(self.ids), COPIED_ROWS):
            position_C = self.old_positions[start : start + COPIED_ROWS]
            rows_CD = np.empty((len(position_C), self.model.identity.dim), dtype=np.int8)
            first = 0
            for block in self.old.blocks:
                here_C = (position_C >= first) & (position_C < first + len(block))
                rows_CD[here_C] = block[position_C[here_C] - first]
                first += len(block)
            if (lacking_C := position_C < 0).any():
                wanted = self.ids[start : start + COPIED_ROWS][lacking_C]
                rows_CD[lacking_C] = np.concatenate(list(_read_rows(db, self.model, wanted)))
            yield rows_CD

    def in_memory(self, db: sqlite3.Connection) -> Matrix:
        """A whole new matrix that has no file."""
        rows = np.concatenate([np.empty((0, self.model.identity.dim), dtype=np.int8), *self.chunks(db)])
        return _whole(self.model.generation, (self.ids, self.generations, self.hubness), rows)


def write_matrix(path: Path, plan: MatrixPlan, db: sqlite3.Connection) -> None:
    """Write a matrix beside its place and rename it there, so that readers see a whole file. Raises OSError."""
    _remove_leftovers(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            columns = ((plan.ids, "<i8"), (plan.generations, "<i8"), (plan.hubness, "<f4"))
            tables = b"".join(values_N.astype(kind).tobytes() for values_N, kind in columns)
            dim, generation = plan.model.identity.dim, plan.model.generation
            header = _HEADER.pack(MAGIC, FORMAT_VERSION, dim, len(plan.ids), generation)
            file.write(header + _CHECKSUM.pack(zlib.crc32(header + tables)) + bytes(_PADDING) + tables)
            for rows in plan.chunks(db):
                file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_matrix(path: Path, dim: int) -> Matrix | None:
    """Map a matrix file; None where it is missing, of another format or dimension, cut short or damaged."""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(_START_BYTES)
        header = start[: _HEADER.size]
        if len(start) != _START_BYTES:
            return None
        magic, version, file_dim, count, generation = _HEADER.unpack(header)
        whole = _START_BYTES + count * (_TABLE_BYTES + dim)
        if (magic, version, file_dim) != (MAGIC, FORMAT_VERSION, dim) or os.fstat(file.fileno()).st_size != whole:
            return None
        tables = file.read(_TABLE_BYTES * count)
        if start[_HEADER.size :] != _CHECKSUM.pack(zlib.crc32(header + tables)) + bytes(_PADDING):
            return None
        ids_N, generations_N = np.frombuffer(tables, dtype="<i8", count=2 * count).reshape(2, count)
        hubness_N = np.frombuffer(tables, dtype="<f4", offset=16 * count)
        rows_ND: NDArray[np.int8] = np.empty((0, dim), dtype=np.int8)
        if count:
            # By the open file, not its name: another process may put a newer file there at any time.
            rows_ND = np.memmap(file, dtype=np.int8, mode="r", offset=file.tell(), shape=(count, dim))
        return _whole(generation, (ids_N, generations_N, hubness_N), rows_ND)
    return None


def _whole(generation: int, table: Table, rows_ND: NDArray[np.int8]) -> Matrix:
    ids_N, generations_N, hubness_N = table
    return Matrix(
        generation=generation,
        ids=ids_N,
        generations=generations_N,
        hubness=hubness_N,
        blocks=(rows_ND,) if len(ids_N) else (),
        missing=ids_N[:0],
        knows_hubs=_knows(hubness_N),
    )


def _knows(hubness_N: NDArray[np.float32]) -> bool:
    return len(hubness_N) > 0 and not np.isnan(hubness_N).any()


def _read_rows(db: sqlite3.Connection, model: ModelRow, ids: NDArray[np.int64]) -> Iterator[NDArray[np.int8]]:
    """Quantised rows of vectors, by ascending id, read from SQLite."""
    for _, halves_CD in read_halves(db, model, ids.tolist(), chunk_rows=CHUNK_ROWS):
        yield quantise(halves_CD.astype(np.float32))


def _remove_leftovers(folder: Path) -> None:
    """Files that a killed process was writing; recent ones may be another process's work in progress."""
    for leftover in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                leftover.unlink()


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """A query for the nearest rows."""

    query: NDArray[np.float32]
    """(D,), of any length."""
    k: int
    kept: NDArray[np.int64] | None
    """Ids of the images that meet the filter; None where there is none."""
    excluded: NDArray[np.int64]
    hub_weight: float = 0.0
    """Rows rank by cosine less this times their hubness."""
    lift: Lift | None = None
    """What some rank by beside it."""

    def mask(self, ids_M: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """True for the ids (M,) that may be found; None where all may."""
        mask_M: NDArray[np.bool_] | None = None
        if self.kept is not None:
            mask_M = are_among(ids_M, self.kept)
        if len(self.excluded):
            others_M = ~np.isin(ids_M, self.excluded)
            mask_M = others_M if mask_M is None else mask_M & others_M
        return mask_M


def normalise_query(vector: NDArray[np.float32], model: ModelRow) -> NDArray[np.float32]:
    """A query (D,) at length 1. Raises InputError for another dimension, zero, NaN or infinity."""
    query = np.asarray(vector, dtype=np.float32)
    dim, name = model.identity.dim, model.identity.name
    if query.shape != (dim,):
        raise InputError(f"The query has shape {query.shape}, but vectors of {name!r} have shape ({dim},).")
    largest = float(np.abs(query).max())
    if not np.isfinite(largest) or largest == 0:
        raise InputError("The query vector is zero or holds NaN or infinity; it has no direction to search in.")
    # Divided by the largest first: squares of very large or small numbers leave float32's range.
    query = query / np.float32(largest)
    return np.asarray(query / np.linalg.norm(query), dtype=np.float32)


def scan(
    blocks: Sequence[NDArray[np.int8]], query_1D: NDArray[np.int8], mask_N: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Cosine distances (N,) of the rows of all blocks, (N, D) together; infinite where the mask is False."""
    distances_N = np.empty(sum(map(len, blocks)), dtype=np.float32)
    first = 0
    for block_ND in blocks:
        own = slice(first, first + len(block_ND))
        _scan_block(block_ND, query_1D, None if mask_N is None else mask_N[own], distances_N[own])
        first = own.stop
    return distances_N


def _propose(matrix: Matrix, wanted: Wanted, query_D: NDArray[np.float32], *, hub_weight: float) -> NDArray[np.int64]:
    """The rows that can be among the k nearest: those that rounding may have put behind the k-th, and all that tie."""
    mask_N = _mask(matrix, wanted)
    distance_N = scan(matrix.blocks, quantise(query_D[None]), mask_N)
    if hub_weight:
        distance_N += np.float32(hub_weight) * matrix.hubness
    if wanted.lift is not None:
        distance_N -= wanted.lift.of(matrix.ids)
    available = int(np.count_nonzero(np.isfinite(distance_N)))
    k = min(wanted.k, available)
    if k == 0:
        return matrix.ids[:0]
    limit = np.partition(distance_N, k - 1)[k - 1] + matrix.margin
    within = int(np.count_nonzero(distance_N <= limit))
    count = min(max(within, MIN_CANDIDATES), max(MIN_CANDIDATES, MAX_CANDIDATES_PER_RESULT * k), available)
    if count != within:
        limit = np.partition(distance_N, count - 1)[count - 1]
    # Among many equal rows (copies of one image) all must compete for the lowest ids.
    proposed_C: NDArray[np.int64] = matrix.ids[distance_N <= limit + _ROUNDING]
    return proposed_C


def _mask(matrix: Matrix, wanted: Wanted) -> NDArray[np.bool_] | None:
    """True for the rows (N,) that hold and may be found; None where all do."""
    mask_N = wanted.mask(matrix.ids)
    if matrix.alive is not None:
        mask_N = matrix.alive if mask_N is None else mask_N & matrix.alive
    return mask_N


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` places (S,) among `count`, evenly spread; all, where there are fewer."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)


def _gather(blocks: Sequence[NDArray[np.int8]], position_S: NDArray[np.int64]) -> NDArray[np.int8]:
    """Rows (S, D) at ascending places in all blocks."""
    firsts = np.cumsum([0, *map(len, blocks)])
    parts = [
        block[position_S[(position_S >= first) & (position_S < first + len(block))] - first]
        for first, block in zip(firsts, blocks, strict=False)
    ]
    return np.concatenate(parts)


def _scan_block(
    rows_ND: NDArray[np.int8],
    query_1D: NDArray[np.int8],
    mask_N: NDArray[np.bool_] | None,
    distances_N: NDArray[np.float32],
) -> None:
    if mask_N is not None and np.count_nonzero(mask_N) < GATHERED_FRACTION * len(mask_N):
        distances_N[:] = np.inf
        kept = np.flatnonzero(mask_N)
        for start in range(0, len(kept), GATHERED_ROWS):
            position_C = kept[start : start + GATHERED_ROWS]
            distances_N[position_C] = _angular_distances(query_1D, rows_ND[position_C])
        return

    def compare(start: int) -> None:
        chunk = slice(start, start + SCANNED_ROWS)
        distances_N[chunk] = _angular_distances(query_1D, rows_ND[chunk])

    starts, threads = range(0, len(rows_ND), SCANNED_ROWS), usable_cpus() if len(rows_ND) >= SHARED_ROWS else 1
    for _ in map(compare, starts) if threads == 1 else map_ahead(compare, starts, threads=threads, ahead=len(starts)):
        pass
    if mask_N is not None:
        distances_N[~mask_N] = np.inf


def _angular_distances(query_1D: NDArray[np.int8], rows_CD: NDArray[np.int8]) -> NDArray[np.float64]:
    """Cosine distances (C,). numkong answers in float64: asked for less, it takes a path ten times slower."""
    distances_1C = np.asarray(numkong.cdist(query_1D, rows_CD, "angular"), dtype=np.float64)
    return distances_1C.reshape(len(rows_CD))

"""The matrices of one open library: up to date with every write at once, their files made anew in the background.

A search never waits for a file. What changed since the file was made is put behind its rows in memory; where too much
did, as in a library that has no file yet, the search compares the rest as SQLite holds it until the file is there.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from sightline.errors import StoreError
from sightline.store.connection import Database
from sightline.store.matrix import Matrix, Plan, read_matrix, write_matrix
from sightline.store.vectors import ModelRow, list_models

READ_ROWS = 8192
"""So many new vectors a search reads into memory before it scans, which takes some 50 ms."""
_LACKING_FRACTION = 1 / 8
"""A file that differs from the library by more rows than this part of them is made anew."""

Stamp = tuple[int, int, int]


class Matrices:
    """One matrix for each model. Calls of `current` take turns; building is done by threads of its own."""

    def __init__(self, folder: Path, *, open_reader: Callable[[], Database]) -> None:
        """`open_reader` gives a thread that builds a connection of its own."""
        self._folder = folder
        self._open_reader = open_reader
        self._loaded: dict[int, Matrix] = {}
        self._stamps: dict[int, Stamp | None] = {}
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
            plan = Plan.make(db, model, matrix)
            matrix = plan.updated(db, read=len(plan.missing) <= READ_ROWS)
        self._loaded[model.id] = matrix
        if len(matrix.missing) or matrix.lacking > _LACKING_FRACTION * matrix.count:
            self._start_build(model, matrix)
        return matrix

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
        """What is in memory, or the file where another process made a newer one."""
        stamp = self._read_stamp(model.id)
        if known is not None and stamp == self._stamps.get(model.id):
            return known
        self._stamps[model.id] = stamp
        found = read_matrix(self.path(model.id), model.identity.dim)
        return known if found is None or (known is not None and known.generation >= found.generation) else found

    def _read_stamp(self, model_id: int) -> Stamp | None:
        try:
            stat = self.path(model_id).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _start_build(self, model: ModelRow, old: Matrix) -> None:
        running = self._builders.get(model.id)
        if running is None or not running.is_alive():
            build = threading.Thread(target=self._build, args=(model.id, old), name="sightline-matrix", daemon=True)
            self._builders[model.id] = build
            build.start()

    def _build(self, model_id: int, old: Matrix) -> None:
        # Of a damaged library the searches tell, which read the same vectors.
        with suppress(StoreError), closing(self._open_reader()) as reader, reader.reading() as db:
            models = {model.id: model for model in list_models(db).values()}
            if model_id in models:
                self._built[model_id] = self._make(db, Plan.make(db, models[model_id], old))

    def _make(self, db: sqlite3.Connection, plan: Plan) -> Matrix:
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

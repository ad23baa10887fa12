"""Small copies of a library's images, each made once, and tiny ones that are shown, blurred, until those have come.

Derived: may be deleted. They lie in `LIBRARY/thumbnails/thumbnails.db` by content hash, so that renamed files and
copies share one. One file instead of two for each image: a hundred thousand small files are slow to copy, to scan and
to delete.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sightline.core.images.decode import read_image
from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.core.types import ImageRecord

SIZES_PX = (320, 640)
"""Longer sides."""
PLACEHOLDER_PX = 10
"""Longer side of a placeholder: about 80 bytes as WEBP, 130 characters as a `data:` address in each hit."""

_FORMAT = 3
_TABLES = (
    "create table if not exists thumbnails (content_hash text not null, size_px integer not null, webp blob not null, "
    "unique (content_hash, size_px))",
    "create table if not exists placeholders (content_hash text primary key, webp blob not null) without rowid",
    f"pragma user_version = {_FORMAT}",
)
_BUSY_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class Thumbnails:
    """The thumbnails of one library. Where the folder can't be written, each is made when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "thumbnails.db"
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._retry_at_s = -math.inf

    def find(self, content_hash: str, size_px: int) -> bytes | None:
        """A thumbnail (WEBP) that was made before."""
        sql = "select webp from thumbnails where content_hash = ? and size_px = ?"
        rows = self._read(sql, (content_hash, size_px))
        return bytes(rows[0][0]) if rows else None

    def make(self, record: ImageRecord, size_px: int) -> bytes:
        """The thumbnail (WEBP) of an image as its file is now, kept if that is what was indexed.

        Raises ImageError where the file is gone or can't be read.
        """
        rgb_HW3 = read_image(record.path, min_side_px=size_px // 2).rgb
        webp = make_thumbnail(rgb_HW3, size_px=size_px, format="WEBP")
        if _is_as_indexed(record):
            tiny = make_thumbnail(rgb_HW3, size_px=PLACEHOLDER_PX, format="WEBP", quality=40)
            self._write(record.content_hash, size_px, webp, tiny)
        return webp

    def placeholders(self, content_hashes: Iterable[str]) -> dict[str, str]:
        """Blurred pictures of some pixels, as `data:` addresses, of the contents whose thumbnails were made."""
        sql = "select content_hash, webp from placeholders where content_hash in (select value from json_each(?))"
        rows = self._read(sql, (json.dumps(list(content_hashes)),))
        return {content_hash: data_uri(webp, "WEBP") for content_hash, webp in rows}

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._closed = True
            if self._db is not None:
                self._db.close()
                self._db = None

    def _read(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                db = self._connected()
                return db.execute(sql, parameters).fetchall() if db is not None else []
            except sqlite3.Error as error:
                self._drop(error)
                return []

    def _write(self, content_hash: str, size_px: int, webp: bytes, tiny: bytes) -> None:
        with self._lock:
            try:
                if (db := self._connected()) is not None:
                    kept = "insert or replace into thumbnails (content_hash, size_px, webp) values (?, ?, ?)"
                    # First what nobody asks for again once the thumbnail is there.
                    db.execute("insert or replace into placeholders values (?, ?)", (content_hash, tiny))
                    db.execute(kept, (content_hash, size_px, webp))
            except sqlite3.Error as error:
                self._drop(error)

    def _connected(self) -> sqlite3.Connection | None:
        if self._db is None and not self._closed and time.monotonic() >= self._retry_at_s:
            try:
                self._db = _open(self.path)
            except (OSError, sqlite3.Error) as error:
                _log.warning("Thumbnails can't be kept in %s: %s", self.path, error)
                self._retry_at_s = time.monotonic() + 60.0  # a disk that is full needn't stay so
        return self._db

    def _drop(self, error: sqlite3.Error) -> None:
        """Throw away what is damaged: it can be made again. What is only in use, or full, is kept."""
        _log.warning("%s: %s", self.path, error)
        if self._db is None or not isinstance(error, sqlite3.DatabaseError) or _is_passing(error):
            return
        self._db.close()
        self._db = None
        for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-shm"):
            with suppress(OSError):
                self.path.with_name(name).unlink(missing_ok=True)


def _is_as_indexed(record: ImageRecord) -> bool:
    with suppress(OSError):
        stat = record.path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (record.size_bytes, record.mtime_ns)
    return False


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")  # what a power cut takes is made again
        if _prepare(db):
            return db
        db.close()
    except sqlite3.DatabaseError as error:
        db.close()
        if _is_passing(error) or path.stat().st_size == 0:
            raise
    path.unlink()  # it is no database, or one of another version's
    return _open(path)


def _prepare(db: sqlite3.Connection) -> bool:
    """Make the tables where there are none; whether they are this version's."""
    db.execute("begin immediate")  # another process may be making them
    try:
        version = db.execute("pragma user_version").fetchone()[0]
        is_new = not db.execute("select count(*) from sqlite_master").fetchone()[0]
        for statement in _TABLES if is_new else ():
            db.execute(statement)
        db.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("rollback")
        raise
    return is_new or version == _FORMAT


def _is_passing(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY) & 0xFF
    return code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

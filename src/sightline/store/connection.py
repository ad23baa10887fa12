"""One connection to `library.db`: how it is opened, how transactions run, what its errors mean to the user."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sightline.errors import StoreError
from sightline.store import schema

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another process's write to end."""

_BUSY_PAUSE_S = 0.01

DATABASE_NAME = "library.db"


class Database:
    """A connection that threads share under a lock; a write is one transaction, a read sees one state.

    Not to be carried over a fork: open the library again in the child.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self.path = folder / DATABASE_NAME
        self.read_only = read_only
        self._lock = threading.RLock()
        with translated_errors(self.path):
            self._connection: sqlite3.Connection | None = _open_read_only(self.path) if read_only else _open(self.path)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"The library at {self.path.parent} was closed; open it again.")
        return self._connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, with every statement inside seeing the same state. Raises StoreError."""
        with self._lock, translated_errors(self.path):
            db = self._connected()
            if db.in_transaction:
                yield db
                return
            db.execute("begin")
            try:
                yield db
            finally:
                # After some errors SQLite has ended the transaction by itself.
                with suppress(sqlite3.Error):
                    db.execute("rollback")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a write transaction: committed at the end, undone on any exception. Raises StoreError."""
        with self._lock, translated_errors(self.path):
            db = self._connected()
            if self.read_only:
                raise StoreError(f"The library at {self.path.parent} was opened for reading only.")
            if db.in_transaction:  # a read that Ctrl-C cut short just before it ended
                db.execute("rollback")
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                # A rollback that fails too (the disk again) leaves the log uncommitted, which SQLite ignores later.
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("rollback")
                raise


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path).encode('utf-8', 'surrogateescape'))}?{options}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma temp_store = memory")
        db.execute("pragma foreign_keys = on")
        db.execute("pragma cache_size = -4096")  # KiB; eight times as much made writing 100,000 rows no faster
        schema.check_version(schema.read_version(db))
    except BaseException:
        db.close()
        raise
    return db


def _open(path: Path) -> sqlite3.Connection:
    db = _connect(path, "mode=rwc")
    try:
        _switch_to_wal(db)
        # In WAL mode NORMAL can lose the last transactions in a power cut but never damages the file.
        db.execute("pragma synchronous = normal")
        db.execute("pragma journal_size_limit = 67108864")
        if schema.read_version(db) < schema.SCHEMA_VERSION:
            schema.migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite's busy timeout doesn't cover this, so waiting for others is done here."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
            time.sleep(_BUSY_PAUSE_S)


def _open_read_only(path: Path) -> sqlite3.Connection:
    try:
        db = _connect(path, "mode=ro")
    except sqlite3.OperationalError:
        # On a read-only medium SQLite can't make the shared-memory file of a WAL database. Without a log to
        # replay the file alone is the whole truth, and nobody can be writing it.
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size > 0:
            raise
        db = _connect(path, "mode=ro&immutable=1")
    if (version := schema.read_version(db)) < schema.OLDEST_READABLE:
        db.close()
        raise StoreError(
            f"The library at {path.parent} has the older schema version {version} and was opened for reading only; "
            "open it once for writing (`sightline index` does) to bring it up to date."
        )
    return db


def check_integrity(path: Path) -> list[str]:
    """What SQLite's own check finds wrong with a library file; empty for a sound one."""
    with translated_errors(path), closing(_connect(path, "mode=ro")) as db:
        found = [str(row[0]) for row in db.execute("pragma integrity_check")]
    return [] if found == ["ok"] else found


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into StoreError with what to do next."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_explain(error, path)) from error
    except UnicodeEncodeError as error:
        raise StoreError(f"The text {error.object!a} is not valid Unicode and can't be kept in {path}.") from error


def _explain(error: sqlite3.Error, path: Path) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    match code & 0xFF if code is not None else None:
        case sqlite3.SQLITE_FULL:
            return f"The disk of {path} is full: nothing of this batch was written. Free space and run again."
        case sqlite3.SQLITE_IOERR:
            return (
                f"The disk of {path} is full, over its quota or failing ({error}): nothing of this batch was written. "
                "Free space and run again."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return (
                f"Another process is writing to {path} and did not finish within {BUSY_TIMEOUT_S:.0f} s. "
                "Wait until it is done, then run again."
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return (
                f"{path} is damaged or not a Sightline library ({error}). Put back a copy of it, or move it away and "
                "index again."
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
            return f"{path} can't be opened or written ({error}). Check that the folder exists and that you may write."
        case _:
            return f"The library {path} failed: {error}."

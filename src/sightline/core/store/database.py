"""`library.db`: how it is opened, what its errors mean to the user, its tables and their version.

`PRAGMA user_version` holds the schema version, `PRAGMA application_id` marks the file as Sightline's. `docs/format.md`
says what every table means.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from sightline.core.store.texts import rebuild_texts
from sightline.errors import DISTRIBUTION, StoreError

BUSY_TIMEOUT_S = 30.0
"""Time that a writer waits for another process's write to end."""

_BUSY_PAUSE_S = 0.01

DATABASE_NAME = "library.db"

APPLICATION_ID = 0x53494748
"""`SIGH` in ASCII, at byte 68 of the file."""

Migration = Callable[[sqlite3.Connection], None]


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a library file, made where it is missing and brought to the newest schema. Raises StoreError."""
    try:
        return _open_read_only(path) if read_only else _open(path)
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise explain(error, path) from error


def check_integrity(path: Path) -> list[str]:
    """Faults that SQLite's own check finds in a library file; empty for a sound one. Raises StoreError."""
    try:
        with closing(_connect(path, "mode=ro")) as db:
            found = [str(row[0]) for row in db.execute("pragma integrity_check")]
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return [] if found == ["ok"] else found


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path).encode('utf-8', 'surrogateescape'))}?{options}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma temp_store = memory")
        db.execute("pragma foreign_keys = on")
        db.execute("pragma cache_size = -4096")  # KiB; eight times as much made writing 100,000 rows no faster
        check_version(read_version(db))
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
        if read_version(db) < SCHEMA_VERSION:
            migrate(db)
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
    if (version := read_version(db)) < OLDEST_READABLE:
        db.close()
        raise StoreError(
            f"The library at {path.parent} has the older schema version {version} and was opened for reading only; "
            "open it once for writing (`sightline index` does) to bring it up to date."
        )
    _fill_in(db, version)
    return db


def _fill_in(db: sqlite3.Connection, version: int) -> None:
    """Let an older library that is read as it is have the columns and tables of version 6, empty ones."""
    if version >= _WITH_FACTS:
        return
    script = _read_script("schema_6.sql")
    columns = re.findall(r"add column (\w+) \w+(?: not null default (\d+))?;", script)
    filled = ", ".join(f"{default or 'null'} as {name}" for name, default in columns)
    db.execute(f"create temp view images as select *, {filled} from main.images")
    tables = re.findall(r"^create (table .*?\));$", script, re.DOTALL | re.MULTILINE)
    for table in tables:
        db.execute(f"create temp {table}")


def explain(error: sqlite3.Error | UnicodeEncodeError, path: Path) -> StoreError:
    """An error of SQLite's, or of a text that it can't hold, as one that says what to do next."""
    if isinstance(error, UnicodeEncodeError):
        return StoreError(f"The text {error.object!a} is not valid Unicode and can't be kept in {path}.")
    return StoreError(_describe(error, path))


def _describe(error: sqlite3.Error, path: Path) -> str:
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


def read_version(db: sqlite3.Connection) -> int:
    """The schema version of an open file; 0 for an empty one. Raises StoreError where it isn't a library."""
    alone = not db.in_transaction
    if alone:
        db.execute("begin")  # for one state of all three: another process may be making the library
    try:
        version: int = db.execute("pragma user_version").fetchone()[0]
        application_id: int = db.execute("pragma application_id").fetchone()[0]
        tables: int = db.execute("select count(*) from sqlite_master").fetchone()[0]
    finally:
        if alone and db.in_transaction:
            db.execute("rollback")
    if application_id == APPLICATION_ID or (version == 0 and tables == 0):
        return version
    file = db.execute("pragma database_list").fetchone()[2]
    raise StoreError(f"{file} is a database of another program, not a Sightline library; choose another folder.")


def check_version(version: int) -> None:
    """Raise StoreError where a library was written by a newer Sightline than this one."""
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"The library has schema version {version}; this Sightline knows versions up to {SCHEMA_VERSION}. "
            f"Upgrade Sightline to open it: `pip install --upgrade {DISTRIBUTION}`, or update its checkout."
        )


def migrate(db: sqlite3.Connection) -> None:
    """Bring an open, writable file to the newest version in one transaction, or leave it as it was.

    The version is read again inside the transaction: another process may have migrated meanwhile.
    """
    db.execute("begin immediate")
    try:
        version = read_version(db)
        check_version(version)
        for step in MIGRATIONS[version:]:
            step(db)
        if version < _WITH_FACTS:
            rebuild_texts(db)
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            db.execute("rollback")
        raise


def _run_script(name: str, db: sqlite3.Connection) -> None:
    """Run the statements of a file beside this one; unlike `executescript`, inside the transaction that is open."""
    for statement in _read_script(name).split(";\n"):
        db.execute(statement)


def _read_script(name: str) -> str:
    return (resources.files("sightline.core.store") / name).read_text(encoding="utf-8")


_WITH_FACTS = 6
MIGRATIONS: tuple[Migration, ...] = tuple(
    partial(_run_script, f"schema_{number}.sql") for number in range(1, _WITH_FACTS + 1)
)
"""Step i brings version i to i + 1; version 0 is an empty file. A step is never changed once released."""

SCHEMA_VERSION = len(MIGRATIONS)

OLDEST_READABLE = 1
"""The oldest version that is read as it is, as from a read-only medium: `Caption` knows the former source, such a
library has no words of its own, vectors without a hubness rank by cosine alone, and facts are empty."""

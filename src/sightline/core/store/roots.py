"""Where files lie: their paths as SQLite holds them, and the roots (folders that were indexed) as they lie now.

A root is kept twice, absolute and relative to the library's folder, so that photos copied together with their
library are found at the new place. No root lies inside another: a file has one row however it was reached.
SQLite holds text only as UTF-8 while file systems hold any bytes.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError

SqlPath = str | bytes
"""TEXT where a path is valid UTF-8, else BLOB."""

Parameter = SqlPath | int | float


@dataclass(frozen=True, kw_only=True)
class Sql:
    """A piece of SQL over the table `images`, with the parameters for its question marks."""

    text: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A part of the library: all that lies below `prefix` in one root."""

    root_id: int
    prefix: str

    def condition(self, table: str) -> Sql:
        """True for the rows of `table` (images or failures) inside this scope."""
        if not self.prefix:
            return Sql(text=f"{table}.root_id = ?", parameters=(self.root_id,))
        start = f"{self.prefix}/".encode("utf-8", "surrogateescape")
        return Sql(
            text=f"({table}.root_id = ? and substr(cast({table}.relative as blob), 1, ?) = ?)",
            parameters=(self.root_id, len(start), start),
        )


class Roots:
    """The roots of one open library. Where a root lies is decided once, when it is first seen by this object."""

    def __init__(self, library: Path) -> None:
        self._library = library.resolve()
        self._located: dict[SqlPath, Path] = {}

    def load(self, db: sqlite3.Connection) -> dict[int, Path]:
        """Root ids and where they lie now."""
        rows = db.execute("select id, path, from_library from roots order by id").fetchall()
        for _, stored, from_library in rows:
            if stored not in self._located:
                self._located[stored] = self._locate(stored, from_library)
        return {id_: self._located[stored] for id_, stored, _ in rows}

    def _locate(self, stored: SqlPath, from_library: SqlPath | None) -> Path:
        path = Path(path_from_sql(stored))
        if path.exists() or from_library is None:
            return path
        beside = Path(os.path.normpath(self._library / path_from_sql(from_library)))
        return beside if beside.exists() else path

    def scopes(self, db: sqlite3.Connection, folder: Path) -> list[Scope]:
        """What the library holds of a folder: a part of one root, or all roots inside it; empty where nothing."""
        folder = normalise(folder)
        inside = []
        for root_id, root in self.load(db).items():
            if folder.is_relative_to(root):
                return [Scope(root_id=root_id, prefix=_below(folder, root))]
            if root.is_relative_to(folder):
                inside.append(Scope(root_id=root_id, prefix=""))
        return inside

    def find(self, db: sqlite3.Connection, folder: Path) -> Scope | None:
        """The scope of a folder that is a known root or lies in one."""
        folder = normalise(folder)
        for root_id, root in self.load(db).items():
            if folder.is_relative_to(root):
                return Scope(root_id=root_id, prefix=_below(folder, root))
        return None

    def ensure(self, db: sqlite3.Connection, folder: Path) -> Scope:
        """The scope of a folder, made a root where it lies in none; roots inside a new root become part of it."""
        if not folder.is_absolute():
            raise InputError(f"The root {str(folder)!r} is not absolute; give the folder's full path.")
        if scope := self.find(db, folder):
            return scope
        folder = normalise(folder)
        inside = {id_: path for id_, path in self.load(db).items() if path.is_relative_to(folder)}
        insert = "insert into roots (path, from_library) values (?, ?) returning id"
        stored = path_to_sql(str(folder))
        root_id: int = db.execute(insert, (stored, self._from_library(folder))).fetchone()[0]
        for old_id, path in inside.items():
            _adopt(db, old_id=old_id, new_id=root_id, prefix=_below(path, folder))
        self._located[stored] = folder
        return Scope(root_id=root_id, prefix="")

    def _from_library(self, folder: Path) -> SqlPath | None:
        try:
            return path_to_sql(os.path.relpath(folder, self._library))
        except ValueError:  # another drive of Windows
            return None


def normalise(path: Path) -> Path:
    """An absolute path without `..`; symbolic links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib has no lexical equivalent


def resolve(path: Path) -> Path:
    """An absolute path with symbolic links followed as far as that goes; a loop or an impossible name is no error."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null byte
        return normalise(path)


def prune(db: sqlite3.Connection) -> None:
    """Forget roots of which nothing is kept."""
    db.execute(
        "delete from roots where not exists (select 1 from images where root_id = roots.id) "
        "and not exists (select 1 from failures where root_id = roots.id)"
    )


def path_to_sql(path: str) -> SqlPath:
    """A path as Python holds it (surrogate escapes for odd bytes) -> what SQLite can hold."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
    return path


def path_from_sql(value: SqlPath) -> str:
    """The inverse of `path_to_sql`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def storable_text(text: str) -> str:
    """Free text (captions, reasons) as SQLite can hold it: what is not valid Unicode is spelled out as `\\udc..`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_relative(relative: str) -> tuple[str, str]:
    """`a/b/c.jpg` -> (`a/b`, `c.jpg`). Raises InputError for a path that doesn't name a file below a root."""
    folder, _, name = relative.rpartition("/")
    if not name or relative.startswith("/") or ".." in relative.split("/"):
        raise InputError(f"{relative!r} is not a file's path below a root, such as 'holiday/beach.jpg'.")
    return folder, name


def join_relative(prefix: str, relative: str) -> str:
    """Two paths below a root as one; either may be empty."""
    return f"{prefix}/{relative}" if prefix and relative else prefix or relative


def _adopt(db: sqlite3.Connection, *, old_id: int, new_id: int, prefix: str) -> None:
    rows = db.execute("select id, relative from images where root_id = ?", (old_id,)).fetchall()
    moved = [(join_relative(prefix, path_from_sql(relative)), id_) for id_, relative in rows]
    db.executemany(
        "update images set root_id = ?, relative = ?, folder = ? where id = ?",
        [(new_id, path_to_sql(to), path_to_sql(split_relative(to)[0]), id_) for to, id_ in moved],
    )
    failed = [row[0] for row in db.execute("select relative from failures where root_id = ?", (old_id,))]
    db.executemany(
        "update failures set root_id = ?, relative = ? where root_id = ? and relative = ?",
        [(new_id, path_to_sql(join_relative(prefix, path_from_sql(old))), old_id, old) for old in failed],
    )
    db.execute("delete from roots where id = ?", (old_id,))


def _below(path: Path, root: Path) -> str:
    below = path.relative_to(root).as_posix()
    return "" if below == "." else below

"""Files that could not be read, remembered so that an unchanged one is not tried at every run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from sightline.store.base import Failure
from sightline.store.filters import Sql
from sightline.store.paths import join_relative, path_from_sql, path_to_sql, storable_text
from sightline.store.roots import Roots
from sightline.store.rows import find_places
from sightline.store.vectors import ids_json


def put_failures(db: sqlite3.Connection, roots: Roots, failures: Sequence[Failure]) -> None:
    """Remember failures, each in place of an older one of the same file."""
    places = find_places(db, roots, [(failure.root, failure.relative) for failure in failures])
    db.executemany(
        "insert or replace into failures (root_id, relative, size_bytes, mtime_ns, reason) values (?, ?, ?, ?, ?)",
        [
            (*place, failure.size_bytes, failure.mtime_ns, storable_text(failure.reason))
            for place, failure in zip(places, failures, strict=True)
        ],
    )


def forget_written(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Drop the failures of files that have become images."""
    db.execute(
        "delete from failures where (root_id, relative) in "
        "(select root_id, relative from images where id in (select value from json_each(?)))",
        (ids_json(ids),),
    )


def read_failures(db: sqlite3.Connection, roots: Roots, condition: Sql) -> list[Failure]:
    """The failures that meet a condition, by root and path."""
    paths = roots.load(db)
    rows = db.execute(
        "select root_id, relative, size_bytes, mtime_ns, reason from failures "
        f"where {condition.text} order by root_id, relative",
        condition.parameters,
    )
    return [
        Failure(
            root=paths[root_id],
            relative=path_from_sql(relative),
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            reason=reason,
        )
        for root_id, relative, size_bytes, mtime_ns, reason in rows
    ]


def forget_failures(db: sqlite3.Connection, roots: Roots, root: Path, relatives: Iterable[str]) -> None:
    """Drop the failures of some files below a folder."""
    if scope := roots.find(db, root):
        db.executemany(
            "delete from failures where root_id = ? and relative = ?",
            [(scope.root_id, path_to_sql(join_relative(scope.prefix, relative))) for relative in relatives],
        )

"""The tables of `library.db`, their version, and the steps that bring an older library up to date.

`PRAGMA user_version` holds the schema version, `PRAGMA application_id` marks the file as Sightline's.
`docs/format.md` says what every table means.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sightline.errors import DISTRIBUTION, StoreError

APPLICATION_ID = 0x53494748
"""`SIGH` in ASCII, at byte 68 of the file."""

Migration = Callable[[sqlite3.Connection], None]

_TABLES = """
create table settings (
    name text primary key,
    value text not null
) without rowid;

create table roots (
    id integer primary key,
    path not null unique,
    from_library
);

create table images (
    id integer primary key autoincrement,
    root_id integer not null references roots (id),
    relative not null,
    folder not null,
    name not null,
    size_bytes integer not null,
    mtime_ns integer not null,
    content_hash text not null,
    format text not null,
    width integer not null,
    height integer not null,
    taken_at text,
    camera text,
    latitude real,
    longitude real,
    indexed_at_ns integer not null,
    unique (root_id, relative)
);
create index images_by_hash on images (content_hash);

create table models (
    id integer primary key autoincrement,
    name text not null unique,
    weights_hash text not null,
    preprocessing_version integer not null,
    dim integer not null,
    generation integer not null
);

create table vectors (
    image_id integer not null references images (id) on delete cascade,
    model_id integer not null references models (id) on delete cascade,
    generation integer not null,
    precision text not null check (precision in ('fp32', 'int8')),
    vector blob not null,
    unique (image_id, model_id)
);
create index vectors_by_generation on vectors (model_id, image_id, generation);

create table captions (
    id integer primary key,
    image_id integer not null references images (id) on delete cascade,
    source text not null check (source in ('clip', 'blip', 'user')),
    text text not null,
    similarity real,
    log_prob real,
    model text,
    best integer not null check (best in (0, 1))
);
create index captions_by_image on captions (image_id);

create virtual table texts using fts5 (name, captions, tokenize = 'porter unicode61 remove_diacritics 2');

create table failures (
    root_id integer not null references roots (id),
    relative not null,
    size_bytes integer not null,
    mtime_ns integer not null,
    reason text not null,
    primary key (root_id, relative)
) without rowid;
"""


def _create_tables(db: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)


_CAPTIONS_2 = """
create table captions_2 (
    id integer primary key,
    image_id integer not null references images (id) on delete cascade,
    source text not null check (source in ('clip', 'generated', 'user')),
    text text not null,
    similarity real,
    log_prob real,
    model text,
    best integer not null check (best in (0, 1))
)
"""


def _name_generated(db: sqlite3.Connection) -> None:
    """What a captioner wrote has the source `generated`, not `blip`; SQLite changes no check but with its table."""
    db.execute(_CAPTIONS_2)
    db.execute(
        "insert into captions_2 select id, image_id, case source when 'blip' then 'generated' else source end, "
        "text, similarity, log_prob, model, best from captions"
    )
    db.execute("drop table captions")
    db.execute("alter table captions_2 rename to captions")
    db.execute("create index captions_by_image on captions (image_id)")


MIGRATIONS: tuple[Migration, ...] = (_create_tables, _name_generated)
"""Step i brings version i to i + 1; version 0 is an empty file. A step is never changed once released."""

SCHEMA_VERSION = len(MIGRATIONS)

OLDEST_READABLE = 1
"""The oldest version that is read as it is, as from a read-only medium: `Caption` knows the former source."""


def read_version(db: sqlite3.Connection) -> int:
    """The schema version of an open file; 0 for an empty one. Raises StoreError where it isn't a library."""
    version, application_id, tables = _read_header(db)
    if application_id == APPLICATION_ID:
        return version
    if version == 0 and tables == 0:
        return 0
    file = db.execute("pragma database_list").fetchone()[2]
    raise StoreError(f"{file} is a database of another program, not a Sightline library; choose another folder.")


def _read_header(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Version, application id and number of tables, of one state: another process may be making the library."""
    alone = not db.in_transaction
    if alone:
        db.execute("begin")
    try:
        version: int = db.execute("pragma user_version").fetchone()[0]
        application_id: int = db.execute("pragma application_id").fetchone()[0]
        tables: int = db.execute("select count(*) from sqlite_master").fetchone()[0]
    finally:
        if alone and db.in_transaction:
            db.execute("rollback")
    return version, application_id, tables


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
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            db.execute("rollback")
        raise

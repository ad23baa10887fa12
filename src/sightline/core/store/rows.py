"""Rows of images with their roots, captions, words for full-text search and failures: between records and SQLite.

A root is a folder that was indexed. It is kept twice, absolute and relative to the library's folder, so that images
copied together with their library are found at the new place. No root lies inside another: a file has one row however
it was reached. SQLite holds text only as UTF-8 while file systems hold any bytes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.preprocess import SKETCH_SIDE_PX
from sightline.core.store.base import Entry, Failure
from sightline.core.store.texts import refresh_texts
from sightline.core.store.vectors import VectorBlob, mark_dropped, put_vectors, read_blobs
from sightline.core.types import (
    Caption,
    CaptionSource,
    Facts,
    ImageInfo,
    ImageRecord,
    TextLine,
    TextReading,
)
from sightline.errors import InputError, StoreError, UnknownImageError

SqlPath = str | bytes
"""TEXT where a path is valid UTF-8, else BLOB."""
Parameter = SqlPath | int | float
Place = tuple[int, SqlPath]
"""A root's id and the path below it, as SQLite holds it: what is unique for a row."""

_INFO = ("format", "width", "height", "taken_at", "camera", "latitude", "longitude")
_FACTS = tuple(one.name for one in fields(Facts) if one.name != "version")
_INFO_COLUMNS = (*_INFO, "pixels_version", *_FACTS, "facts_version")
_COLUMNS = ("root_id", "relative", "folder", "name", "size_bytes", "mtime_ns", "content_hash", *_INFO_COLUMNS)
_SELECT = f"select id, root_id, relative, size_bytes, mtime_ns, content_hash, {', '.join(_INFO_COLUMNS)} from images"
_PUT = (
    f"insert into images (id, {', '.join(_COLUMNS)}, indexed_at_ns) values (?, {'?, ' * len(_COLUMNS)}?) "
    f"on conflict (id) do update set {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)}, "
    "indexed_at_ns = excluded.indexed_at_ns returning id"
)
_IS_WHOLE = f"length(grey) = {SKETCH_SIDE_PX**2}"
_OF_IDS = "in (select value from json_each(?))"
"""Compares with ids that are bound as one parameter (`ids_json`)."""


class Sql(NamedTuple):
    """A piece of SQL over the table `images`, with the parameters for its question marks."""

    text: str
    parameters: tuple[Parameter, ...] = ()


class Scope(NamedTuple):
    """A part of the library: all that lies below `prefix` in one root."""

    root_id: int
    prefix: str = ""


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

    def find(self, db: sqlite3.Connection, folder: Path) -> Scope | None:
        """The scope of a folder that is a known root or lies in one."""
        return next((scope for scope, holds in self.related(db, folder) if holds), None)

    def condition(self, db: sqlite3.Connection, folder: Path, *, table: str) -> Sql:
        """True for the rows of `table` (images or failures) of a folder, also one given through symbolic links."""
        parts, parameters = [], list[Parameter]()
        for root_id, prefix in self.scopes(db, folder) or self.scopes(db, resolve(folder)):
            parts.append(f"{table}.root_id = ?")
            parameters.append(root_id)
            if prefix:
                start = f"{prefix}/".encode("utf-8", "surrogateescape")
                parts[-1] += f" and substr(cast({table}.relative as blob), 1, ?) = ?"
                parameters += [len(start), start]
        return Sql(f"({' or '.join(parts) or 'false'})", tuple(parameters))

    def scopes(self, db: sqlite3.Connection, folder: Path) -> list[Scope]:
        """The library's part in a folder: a part of one root, or all roots inside it; empty where there is none."""
        related = self.related(db, folder)
        return [scope for scope, holds in related if holds] or [scope for scope, _ in related]

    def related(self, db: sqlite3.Connection, folder: Path) -> list[tuple[Scope, bool]]:
        """The roots that hold a folder or lie in it: the scope they share with it, and whether they hold it."""
        folder = normalise(folder)
        related = []
        for root_id, root in self.load(db).items():
            if folder.is_relative_to(root):
                related.append((Scope(root_id, _below(folder, root)), True))
            elif root.is_relative_to(folder):
                related.append((Scope(root_id), False))
        return related

    def ensure(self, db: sqlite3.Connection, folder: Path) -> Scope:
        """The scope of a folder, made a root where it lies in none; roots inside a new root become part of it."""
        if not folder.is_absolute():
            raise InputError(f"The root {str(folder)!r} is not absolute; give the folder's full path.")
        if scope := self.find(db, folder):
            return scope
        folder = normalise(folder)
        inside = {id_: path for id_, path in self.load(db).items() if path.is_relative_to(folder)}
        try:
            from_library = path_to_sql(os.path.relpath(folder, self._library))
        except ValueError:  # another drive of Windows
            from_library = None
        stored = path_to_sql(str(folder))
        insert = "insert into roots (path, from_library) values (?, ?) returning id"
        root_id: int = db.execute(insert, (stored, from_library)).fetchone()[0]
        for old_id, path in inside.items():
            _adopt(db, old_id=old_id, new_id=root_id, prefix=_below(path, folder))
        self._located[stored] = folder
        return Scope(root_id)


def normalise(path: Path) -> Path:
    """An absolute path without `..`; symbolic links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib has no lexical equivalent


def resolve(path: Path) -> Path:
    """An absolute path with symbolic links followed as far as that goes; a loop or an impossible name is no error."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null byte
        return normalise(path)


def prune_roots(db: sqlite3.Connection) -> None:
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


def read_records(db: sqlite3.Connection, roots: Roots, condition: Sql) -> list[ImageRecord]:
    """The records that meet a condition, in no order."""
    rows = db.execute(f"{_SELECT} where {condition.text}", condition.parameters).fetchall()
    located = roots.load(db) if rows else {}
    return [_to_record(row, located) for row in rows]


def get_records(db: sqlite3.Connection, roots: Roots, ids: Sequence[int]) -> list[ImageRecord]:
    """The records of those ids that are there, in the order asked."""
    by_id = {record.id: record for record in read_records(db, roots, having_ids(ids))}
    return [by_id[id_] for id_ in ids if id_ in by_id]


def find_record(db: sqlite3.Connection, roots: Roots, path: Path) -> ImageRecord | None:
    """The record of a file, by absolute path, also through symbolic links."""
    for candidate in dict.fromkeys((normalise(path), resolve(path))):
        if scope := roots.find(db, candidate):
            place = (scope.root_id, path_to_sql(scope.prefix))
            if found := read_records(db, roots, Sql("root_id = ? and relative = ?", place)):
                return found[0]
    return None


def read_ids(db: sqlite3.Connection, condition: Sql, *, order_by: str = "id") -> list[int]:
    """The ids of rows that meet a condition."""
    sql = f"select images.id from images where {condition.text} order by {order_by}"
    return [row[0] for row in db.execute(sql, condition.parameters)]


def having_ids(ids: Iterable[int]) -> Sql:
    """The condition of being one of some ids."""
    return Sql(f"images.id {_OF_IDS}", (ids_json(ids),))


def ids_json(ids: Iterable[int]) -> str:
    """Ids as the JSON array that `json_each` reads: any number of them is one parameter."""
    return json.dumps([int(id_) for id_ in ids])


def put_entries(
    db: sqlite3.Connection, roots: Roots, entries: Sequence[Entry], *, failures: Sequence[Failure] = ()
) -> list[int]:
    """Write images with their vectors, then failures; the images' ids in order. Raises StoreError and InputError."""
    entries = _renew_lost(db, entries)
    places = _find_places(db, roots, [(entry.image.root, entry.image.relative) for entry in entries])
    shared = _read_shared(db, entries)
    _free_places(db, entries, places)
    ids = [_put_image(db, entry.image, place) for entry, place in zip(entries, places, strict=True)]
    if repainted := {
        id_: entry.keep_captions for entry, id_ in zip(entries, ids, strict=True) if not entry.keep_vectors
    }:
        known = {id_ for id_, found in zip(ids, shared, strict=True) if found.known and not repainted.get(id_, True)}
        _drop_computed(db, repainted)
        db.executemany("delete from captions where image_id = ?", [(id_,) for id_ in known])
    blobs = {id_: found.blobs for id_, found in zip(ids, shared, strict=True)}
    put_vectors(db, [(id_, entry.embeddings) for entry, id_ in zip(entries, ids, strict=True)], blobs=blobs)
    put_sketches(db, {entry.image.content_hash: entry.sketch for entry in entries if entry.sketch is not None})
    wanted = ids_json(ids)
    db.execute(
        f"delete from failures where (root_id, relative) in (select root_id, relative from images where id {_OF_IDS})",
        (wanted,),
    )
    refresh_texts(db, wanted)
    put_captions(db, {id_: found.captions for id_, found in zip(ids, shared, strict=True) if found.captions})
    failed = _find_places(db, roots, [(failure.root, failure.relative) for failure in failures])
    db.executemany(
        "insert or replace into failures (root_id, relative, size_bytes, mtime_ns, reason) values (?, ?, ?, ?, ?)",
        [
            (*place, failure.size_bytes, failure.mtime_ns, storable_text(failure.reason))
            for place, failure in zip(failed, failures, strict=True)
        ],
    )
    prune_roots(db)
    return ids


def put_sketches(db: sqlite3.Connection, sketches: Mapping[str, NDArray[np.uint8]]) -> None:
    """Keep sketches by the hash of the content, of which there must be a row. Raises StoreError for another shape."""
    side = SKETCH_SIDE_PX
    for grey in sketches.values():
        if grey.shape != (side, side) or grey.dtype != np.uint8:
            raise StoreError(f"A sketch is ({side}, {side}) uint8; this one is {grey.shape} {grey.dtype}.")
    db.executemany(
        "insert or replace into sketches (content_hash, grey) select ?, ? "
        "where exists (select 1 from images where content_hash = ?)",
        [(content, grey.tobytes(), content) for content, grey in sketches.items()],
    )


def read_sketches(db: sqlite3.Connection) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The lowest id (N,) of each content that has a sketch, ascending, and the sketches (N, S, S)."""
    if not _have_sketches(db):
        return np.empty(0, np.int64), np.empty((0, SKETCH_SIDE_PX, SKETCH_SIDE_PX), np.uint8)
    rows = db.execute(
        "select min(images.id) as first, grey from sketches join images using (content_hash) "
        f"where {_IS_WHOLE} group by content_hash order by first"
    ).fetchall()
    grey_NSS = np.frombuffer(b"".join(grey for _, grey in rows), np.uint8)
    return np.array([first for first, _ in rows], np.int64), grey_NSS.reshape(-1, SKETCH_SIDE_PX, SKETCH_SIDE_PX)


def read_unsketched(db: sqlite3.Connection) -> set[int]:
    """The ids of rows whose content has no sketch."""
    sketched = f"select 1 from sketches where content_hash = images.content_hash and {_IS_WHOLE}"
    return set(read_ids(db, Sql(f"not exists ({sketched})" if _have_sketches(db) else "true")))


def _have_sketches(db: sqlite3.Connection) -> bool:
    """False for a library of an older version that is opened for reading only."""
    return db.execute("select 1 from sqlite_master where name = 'sketches'").fetchone() is not None


def read_unplaced(db: sqlite3.Connection) -> dict[int, tuple[float, float]]:
    """The positions of rows whose place was not looked up."""
    sql = "select id, latitude, longitude from images where facts_version % 2 = 1 and latitude + longitude is not null"
    return {id_: (latitude, longitude) for id_, latitude, longitude in db.execute(sql)}


def put_places(db: sqlite3.Connection, places: Mapping[int, Sequence[str | None]]) -> None:
    """Give rows city, region and country where a file tells of none of its own."""
    db.executemany(
        "update images set city = coalesce(city, ?), region = coalesce(region, ?), country = coalesce(country, ?), "
        "facts_version = facts_version + 1 where id = ? and facts_version % 2 = 1",
        [(*place, id_) for id_, place in places.items()],
    )
    refresh_texts(db, ids_json(places))


def read_place_names(db: sqlite3.Connection) -> frozenset[str]:
    """All names of cities, regions and countries."""
    columns = ("city", "region", "country")
    sql = " union ".join(f"select {name} from images where {name} is not null" for name in columns)
    return frozenset(name for (name,) in db.execute(sql))


def put_readings(db: sqlite3.Connection, readings: Mapping[str, TextReading]) -> None:
    """Keep readings by the hash of the content, of which there must be a row, and index the text of its rows."""
    db.executemany(
        "insert or replace into readings (content_hash, engine, text, boxes) select ?, ?, ?, ? "
        "where exists (select 1 from images where content_hash = ?)",
        [
            (
                content,
                one.engine,
                storable_text(one.text),
                json.dumps([[*astuple(line)] for line in one.lines]),
                content,
            )
            for content, one in readings.items()
        ],
    )
    of_contents = "select id from images where content_hash in (select value from json_each(?))"
    refresh_texts(db, ids_json(row[0] for row in db.execute(of_contents, (json.dumps([*readings]),))))


def read_readings(db: sqlite3.Connection, content_hashes: Iterable[str]) -> dict[str, TextReading]:
    """The readings of contents that have one."""
    sql = "select content_hash, engine, boxes from readings where content_hash in (select value from json_each(?))"
    return {
        content: TextReading(
            engine=engine,
            lines=tuple(TextLine(text, score, tuple(corners)) for text, score, corners in json.loads(boxes)),
        )
        for content, engine, boxes in db.execute(sql, (json.dumps([*content_hashes]),))
    }


def read_equal_rows(db: sqlite3.Connection) -> dict[int, int]:
    """The ids of rows that share their content with others -> the lowest id among those."""
    repeated = "select content_hash, min(id) as first from images group by content_hash having count(*) > 1"
    return dict(db.execute(f"select id, first from images join ({repeated}) using (content_hash)"))


def delete_images(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Remove rows with their vectors, captions and texts; the number removed."""
    wanted = ids_json(ids)
    mark_dropped(db, wanted)
    db.execute(f"delete from texts where rowid {_OF_IDS}", (wanted,))
    return db.execute(f"delete from images where id {_OF_IDS}", (wanted,)).rowcount


def read_failures(db: sqlite3.Connection, roots: Roots, folder: Path | None) -> list[Failure]:
    """The failures, by root and path; all or those below a folder."""
    below = Sql("true") if folder is None else roots.condition(db, folder, table="failures")
    paths = roots.load(db)
    sql = "select root_id, relative, size_bytes, mtime_ns, reason from failures"
    rows = db.execute(f"{sql} where {below.text} order by root_id, relative", below.parameters)
    return [
        Failure(root=paths[root], relative=path_from_sql(relative), size_bytes=size, mtime_ns=mtime_ns, reason=reason)
        for root, relative, size, mtime_ns, reason in rows
    ]


def forget_failures(db: sqlite3.Connection, roots: Roots, root: Path, relatives: Iterable[str]) -> None:
    """Drop the failures of some files below a folder."""
    if scope := roots.find(db, root):
        db.executemany(
            "delete from failures where root_id = ? and relative = ?",
            [(scope.root_id, path_to_sql(join_relative(scope.prefix, relative))) for relative in relatives],
        )


def put_captions(db: sqlite3.Connection, captions: Mapping[int, Sequence[Caption]]) -> None:
    """Replace each image's captions of the sources given. Raises StoreError for an unknown image."""
    captions = {int(image_id): given for image_id, given in captions.items()}
    check_known(db, captions)
    replaced = {(image_id, caption.source) for image_id, given in captions.items() for caption in given}
    chosen = {image_id for image_id, given in captions.items() if any(caption.best for caption in given)}
    db.executemany("delete from captions where image_id = ? and source = ?", list(replaced))
    db.executemany("update captions set best = 0 where image_id = ?", [(image_id,) for image_id in chosen])
    db.executemany(
        "insert into captions (image_id, source, text, similarity, log_prob, model, best) values (?, ?, ?, ?, ?, ?, ?)",
        [_caption_values(image_id, caption) for image_id, given in captions.items() for caption in given],
    )
    refresh_texts(db, ids_json(captions))


def remove_captions(db: sqlite3.Connection, ids: Iterable[int], source: CaptionSource) -> int:
    """Drop the captions of one source; the number dropped."""
    wanted = ids_json(ids)
    dropped = db.execute(f"delete from captions where source = ? and image_id {_OF_IDS}", (source, wanted))
    refresh_texts(db, wanted)
    return dropped.rowcount


def read_captions(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, list[Caption]]:
    """Captions of images: the chosen one first, then by similarity."""
    captions: dict[int, list[Caption]] = {int(id_): [] for id_ in ids}
    rows = db.execute(
        f"select image_id, text, source, similarity, log_prob, model, best from captions where image_id {_OF_IDS} "
        "order by image_id, best desc, similarity desc nulls last, id",
        (ids_json(captions),),
    )
    for image_id, text, source, similarity, log_prob, model, best in rows:
        captions[image_id].append(
            Caption(text=text, source=source, similarity=similarity, log_prob=log_prob, model=model, best=bool(best))
        )
    return captions


def check_known(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Raise UnknownImageError where an id is no row of `images`."""
    if unknown := (wanted := set(ids)).difference(read_ids(db, having_ids(wanted))):
        listed = ", ".join(str(id_) for id_ in sorted(unknown)[:5])
        message = f"The library has no image with the id {listed}{', ...' if len(unknown) > 5 else ''}."
        raise UnknownImageError(message, ids=frozenset(unknown))


def _find_places(db: sqlite3.Connection, roots: Roots, files: Sequence[tuple[Path, str]]) -> list[Place]:
    """The places of files, each a root and a path below it; new roots are made known."""
    folders = {root for root, _ in files}
    for folder in folders:
        roots.ensure(db, folder)
    # Looked up again when all are known: a root may have become part of another one.
    scopes = {folder: roots.ensure(db, folder) for folder in folders}
    places = []
    for root, relative in files:
        split_relative(relative)
        places.append((scopes[root].root_id, path_to_sql(join_relative(scopes[root].prefix, relative))))
    return places


def _renew_lost(db: sqlite3.Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose row was deleted meanwhile become new ones."""
    given = [entry.image.id for entry in entries if entry.image.id is not None]
    if not given:
        return list(entries)
    lost = set(given).difference(read_ids(db, having_ids(given)))
    return [
        replace(entry, image=replace(entry.image, id=None)) if entry.image.id in lost else entry for entry in entries
    ]


class _Shared(NamedTuple):
    """Vectors and captions that a row gets from another one of the same content."""

    known: bool = False
    blobs: Sequence[VectorBlob] = ()
    captions: Sequence[Caption] = ()


def _read_shared(db: sqlite3.Connection, entries: Sequence[Entry]) -> list[_Shared]:
    """Whatever each entry gets from `same_pixels_as`: read before the write, which can change those rows too."""
    wanted = {entry.same_pixels_as for entry in entries if entry.same_pixels_as is not None}
    if not wanted:
        return [_Shared()] * len(entries)
    listed = ids_json(wanted)
    hashes = dict(db.execute(f"select id, content_hash from images where id {_OF_IDS}", (listed,)))
    blobs, captions = read_blobs(db, listed), read_captions(db, list(wanted))
    shared = []
    for entry in entries:
        source = entry.same_pixels_as
        if source is None or hashes.get(source) != entry.image.content_hash:
            shared.append(_Shared())
        else:
            shared.append(
                _Shared(
                    True, blobs.get(source, ()), () if entry.keep_vectors or entry.keep_captions else captions[source]
                )
            )
    return shared


def _free_places(db: sqlite3.Connection, entries: Sequence[Entry], places: Sequence[Place]) -> None:
    """Move renamed rows out of each other's way, so that two files may have swapped their names."""
    moves = {entry.image.id: place for entry, place in zip(entries, places, strict=True) if entry.image.id is not None}
    if len(set(moves.values())) < len(moves):
        raise StoreError("Two images of one batch have the same path but different ids; a path has one row.")
    # No path holds a NUL, so a parked row meets no file's name.
    db.executemany("update images set relative = ? where id = ?", [(b"\0%d" % id_, id_) for id_ in moves])


def _put_image(db: sqlite3.Connection, image: ImageRecord, place: Place) -> int:
    folder, name = split_relative(path_from_sql(place[1]))
    found = db.execute("select id from images where root_id = ? and relative = ?", place).fetchone()
    id_ = image.id if image.id is not None or found is None else found[0]
    if found is not None and found[0] != id_:
        delete_images(db, found)
    file = (path_to_sql(folder), path_to_sql(name), image.size_bytes, image.mtime_ns, image.content_hash)
    return int(db.execute(_PUT, (id_, *place, *file, *_info_values(image.info), time.time_ns())).fetchone()[0])


def _info_values(info: ImageInfo) -> list[Any]:
    """As `_INFO_COLUMNS` has them."""
    facts = [getattr(info.facts, name) for name in _FACTS]
    values = [*(getattr(info, name) for name in _INFO), info.pixels_version, *facts, info.facts.version]
    texts = ["\n".join(value) or None if isinstance(value, tuple) else value for value in values]
    return [storable_text(value) if isinstance(value, str) else value for value in texts]


def _drop_computed(db: sqlite3.Connection, repainted: Mapping[int, bool]) -> None:
    """Remove what was computed from pixels that have changed: all vectors, and captions not written by the user.

    Those stay of images of which True is said.
    """
    wanted = ids_json(repainted)
    mark_dropped(db, wanted)
    db.execute(f"delete from vectors where image_id {_OF_IDS}", (wanted,))
    changed = ids_json(id_ for id_, keeps in repainted.items() if not keeps)
    db.execute(f"delete from captions where source != 'user' and image_id {_OF_IDS}", (changed,))


def _to_record(row: tuple[Any, ...], roots: Mapping[int, Path]) -> ImageRecord:
    id_, root_id, relative, size_bytes, mtime_ns, content_hash, *info = row
    return ImageRecord(
        id=id_,
        root=roots[root_id],
        relative=path_from_sql(relative),
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        content_hash=content_hash,
        info=_to_info(dict(zip(_INFO_COLUMNS, info, strict=True))),
    )


def _to_info(values: Mapping[str, Any]) -> ImageInfo:
    facts = {name: values[name] for name in _FACTS}
    facts["keywords"] = tuple((facts["keywords"] or "").splitlines())
    own = {name: values[name] for name in (*_INFO, "pixels_version")}
    return ImageInfo(**own, facts=Facts(**facts, version=values["facts_version"]))


def _caption_values(image_id: int, caption: Caption) -> tuple[Any, ...]:
    # numpy's float32, which encoders give, is no type that SQLite binds.
    similarity, log_prob = (None if value is None else float(value) for value in (caption.similarity, caption.log_prob))
    text = storable_text(caption.text)
    return image_id, caption.source, text, similarity, log_prob, caption.model, int(caption.best)

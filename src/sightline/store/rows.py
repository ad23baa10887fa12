"""Rows of images: between records and SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.errors import StoreError
from sightline.store.base import Entry
from sightline.store.filters import Sql
from sightline.store.paths import SqlPath, join_relative, path_from_sql, path_to_sql, split_relative, storable_text
from sightline.store.roots import Roots
from sightline.store.texts import put_captions, read_captions, refresh_texts
from sightline.store.vectors import VectorBlob, ids_json, mark_dropped, put_vectors, read_blobs
from sightline.types import Caption, ImageInfo, ImageRecord

Place = tuple[int, SqlPath]
"""A root's id and the path below it, as SQLite holds it: what is unique for a row."""

_SELECT = (
    "select id, root_id, relative, size_bytes, mtime_ns, content_hash, format, width, height, taken_at, camera, "
    "latitude, longitude from images"
)
_PUT = """
insert into images (id, root_id, relative, folder, name, size_bytes, mtime_ns, content_hash, format, width, height,
                    taken_at, camera, latitude, longitude, indexed_at_ns)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (id) do update set
    root_id = excluded.root_id, relative = excluded.relative, folder = excluded.folder, name = excluded.name,
    size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, content_hash = excluded.content_hash,
    format = excluded.format, width = excluded.width, height = excluded.height, taken_at = excluded.taken_at,
    camera = excluded.camera, latitude = excluded.latitude, longitude = excluded.longitude,
    indexed_at_ns = excluded.indexed_at_ns
returning id
"""


def read_records(db: sqlite3.Connection, roots: Mapping[int, Path], condition: Sql) -> list[ImageRecord]:
    """The records that meet a condition, in no order."""
    rows = db.execute(f"{_SELECT} where {condition.text}", condition.parameters)
    return [_to_record(row, roots) for row in rows]


def read_ids(db: sqlite3.Connection, condition: Sql, *, order_by: str = "id") -> list[int]:
    """The ids of rows that meet a condition."""
    sql = f"select images.id from images where {condition.text} order by {order_by}"
    return [row[0] for row in db.execute(sql, condition.parameters)]


def lacking_vector(condition: Sql, model_id: int) -> Sql:
    """A condition, and that of having no vector of a model."""
    exists = "exists (select 1 from vectors where image_id = images.id and model_id = ?)"
    return Sql(text=f"{condition.text} and not {exists}", parameters=(*condition.parameters, model_id))


def having_ids(ids: Iterable[int]) -> Sql:
    """The condition of being one of some ids."""
    return Sql(text="images.id in (select value from json_each(?))", parameters=(ids_json(ids),))


def put_entries(db: sqlite3.Connection, roots: Roots, entries: Sequence[Entry]) -> list[int]:
    """Write images with their vectors; their ids in order. Raises StoreError and InputError."""
    entries = _renew_lost(db, entries)
    places = find_places(db, roots, [(entry.image.root, entry.image.relative) for entry in entries])
    shared = _read_shared(db, entries)
    _free_places(db, entries, places)
    ids = [_put_image(db, entry.image, place) for entry, place in zip(entries, places, strict=True)]
    if repainted := [id_ for entry, id_ in zip(entries, ids, strict=True) if not entry.keep_vectors]:
        drop_computed(db, repainted)
        known = {id_ for id_, found in zip(ids, shared, strict=True) if found.known}
        db.executemany("delete from captions where image_id = ?", [(id_,) for id_ in known.intersection(repainted)])
    blobs = {id_: found.blobs for id_, found in zip(ids, shared, strict=True)}
    put_vectors(db, [(id_, entry.embeddings) for entry, id_ in zip(entries, ids, strict=True)], blobs=blobs)
    refresh_texts(db, set(ids))
    put_captions(db, {id_: found.captions for id_, found in zip(ids, shared, strict=True) if found.captions})
    return ids


def find_places(db: sqlite3.Connection, roots: Roots, files: Sequence[tuple[Path, str]]) -> list[Place]:
    """Where files, each a root and a path below it, have their rows; new roots are made known."""
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


def delete_images(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Remove rows with their vectors, captions and texts; the number removed."""
    wanted = ids_json(ids)
    mark_dropped(db, wanted)
    db.execute("delete from texts where rowid in (select value from json_each(?))", (wanted,))
    return db.execute("delete from images where id in (select value from json_each(?))", (wanted,)).rowcount


def drop_computed(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Remove what was computed from pixels that have changed: all vectors, and captions not written by the user."""
    wanted = ids_json(ids)
    mark_dropped(db, wanted)
    db.execute("delete from vectors where image_id in (select value from json_each(?))", (wanted,))
    db.execute(
        "delete from captions where source != 'user' and image_id in (select value from json_each(?))", (wanted,)
    )


def _renew_lost(db: sqlite3.Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose row was deleted meanwhile become new ones."""
    given = [entry.image.id for entry in entries if entry.image.id is not None]
    lost = set(given).difference(read_ids(db, having_ids(given)))
    return [
        replace(entry, image=replace(entry.image, id=None)) if entry.image.id in lost else entry for entry in entries
    ]


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What a row gets from another one of the same content."""

    known: bool = False
    blobs: Sequence[VectorBlob] = ()
    captions: Sequence[Caption] = ()


def _read_shared(db: sqlite3.Connection, entries: Sequence[Entry]) -> list[_Shared]:
    """What each entry gets from `same_pixels_as`: read before the write, which can change those rows too."""
    wanted = {entry.same_pixels_as for entry in entries if entry.same_pixels_as is not None}
    sql = "select id, content_hash from images where id in (select value from json_each(?))"
    hashes: dict[int | None, str] = dict(db.execute(sql, (ids_json(wanted),)))
    blobs, captions = read_blobs(db, wanted), read_captions(db, list(wanted))
    shared = []
    for entry in entries:
        source = entry.same_pixels_as
        if source is None or hashes.get(source) != entry.image.content_hash:
            shared.append(_Shared())
        else:
            shared.append(
                _Shared(known=True, blobs=blobs[source], captions=() if entry.keep_vectors else captions[source])
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
    info = image.info
    values = (
        id_,
        *place,
        path_to_sql(folder),
        path_to_sql(name),
        image.size_bytes,
        image.mtime_ns,
        image.content_hash,
        info.format,
        info.width,
        info.height,
        info.taken_at,
        None if info.camera is None else storable_text(info.camera),
        info.latitude,
        info.longitude,
        time.time_ns(),
    )
    return int(db.execute(_PUT, values).fetchone()[0])


def _to_record(row: tuple[Any, ...], roots: Mapping[int, Path]) -> ImageRecord:
    id_, root_id, relative, size_bytes, mtime_ns, content_hash, format_, width, height, *exif = row
    taken_at, camera, latitude, longitude = exif
    return ImageRecord(
        id=id_,
        root=roots[root_id],
        relative=path_from_sql(relative),
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        content_hash=content_hash,
        info=ImageInfo(
            width=width,
            height=height,
            format=format_,
            taken_at=taken_at,
            camera=camera,
            latitude=latitude,
            longitude=longitude,
        ),
    )

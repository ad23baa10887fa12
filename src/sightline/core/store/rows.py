"""Rows of images, with their captions, texts for full-text search, and failures: between records and SQLite."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.core.store.base import Entry, Failure
from sightline.core.store.roots import (
    Roots,
    Sql,
    SqlPath,
    join_relative,
    path_from_sql,
    path_to_sql,
    split_relative,
    storable_text,
)
from sightline.core.store.vectors import VectorBlob, ids_json, mark_dropped, put_vectors, read_blobs
from sightline.core.types import Caption, CaptionSource, ImageInfo, ImageRecord
from sightline.errors import StoreError

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

_SEPARATORS = re.compile(r"[\x00-\x1f!-/:-@\[-`{-~]+")
"""ASCII punctuation and control characters; the rest is left to SQLite's own tokenizer."""
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


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
    refresh_texts(db, captions)


def remove_captions(db: sqlite3.Connection, ids: Iterable[int], source: CaptionSource) -> int:
    """Drop the captions of one source; the number dropped."""
    ids = list(ids)
    sql = "delete from captions where source = ? and image_id in (select value from json_each(?))"
    dropped = db.execute(sql, (source, ids_json(ids))).rowcount
    refresh_texts(db, ids)
    return dropped


def read_captions(db: sqlite3.Connection, ids: Sequence[int]) -> dict[int, list[Caption]]:
    """Captions of images: the chosen one first, then by similarity."""
    captions: dict[int, list[Caption]] = {int(id_): [] for id_ in ids}
    rows = db.execute(
        "select image_id, text, source, similarity, log_prob, model, best from captions "
        "where image_id in (select value from json_each(?)) "
        "order by image_id, best desc, similarity desc nulls last, id",
        (ids_json(captions),),
    )
    for image_id, text, source, similarity, log_prob, model, best in rows:
        captions[image_id].append(
            Caption(text=text, source=source, similarity=similarity, log_prob=log_prob, model=model, best=bool(best))
        )
    return captions


def check_known(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Raise StoreError where an id is no row of `images`."""
    wanted = set(ids)
    found = db.execute("select id from images where id in (select value from json_each(?))", (ids_json(wanted),))
    if unknown := wanted - {row[0] for row in found}:
        listed = ", ".join(str(id_) for id_ in sorted(unknown)[:5])
        raise StoreError(f"The library has no image with the id {listed}{', ...' if len(unknown) > 5 else ''}.")


def match_texts(db: sqlite3.Connection, text: str, k: int, condition: Sql) -> list[tuple[int, float]]:
    """Rows whose name or captions hold any word of `text`, by BM25: (id, relevance), best first, ties by id."""
    expression = match_expression(text)
    if not expression:
        return []
    rows = db.execute(
        "select texts.rowid, -texts.rank from texts join images on images.id = texts.rowid "
        f"where texts match ? and {condition.text} order by texts.rank, texts.rowid limit ?",
        (expression, *condition.parameters, k),
    )
    return [(int(id_), float(relevance)) for id_, relevance in rows]


def refresh_texts(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Index again the names and captions of images."""
    wanted = ids_json(ids)
    db.execute("delete from texts where rowid in (select value from json_each(?))", (wanted,))
    rows = db.execute(
        "select id, name, (select group_concat(text, char(10)) from captions where image_id = images.id) "
        "from images where id in (select value from json_each(?))",
        (wanted,),
    ).fetchall()
    db.executemany(
        "insert into texts (rowid, name, captions) values (?, ?, ?)",
        [(id_, name_words(path_from_sql(name)), captions or "") for id_, name, captions in rows],
    )


def name_words(name: str) -> str:
    """The words of a file name for the index: `beachDay_2024-05.jpg` -> `beachDay 2024 05 beach Day`."""
    stem = storable_text(name.rpartition(".")[0] or name)
    words = _SEPARATORS.sub(" ", stem).split()
    parts = [part for word in words for part in _HUMPS.split(word)]
    return " ".join([*words, *(part for part in parts if part not in words)])


def match_expression(text: str) -> str:
    """User text -> an FTS5 expression that can't be malformed: any of its words, the last one as a prefix too."""
    words = _SEPARATORS.sub(" ", storable_text(text)).split()
    return " OR ".join(f'"{word}"' for word in words) + "*" if words else ""


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


def _caption_values(image_id: int, caption: Caption) -> tuple[Any, ...]:
    # numpy's float32, which encoders give, is no type that SQLite binds.
    similarity, log_prob = (None if value is None else float(value) for value in (caption.similarity, caption.log_prob))
    text = storable_text(caption.text)
    return image_id, caption.source, text, similarity, log_prob, caption.model, int(caption.best)

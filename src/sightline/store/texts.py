"""Captions, and the full-text index over captions and file names."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sightline.errors import StoreError
from sightline.store.filters import Sql
from sightline.store.paths import path_from_sql, storable_text
from sightline.store.vectors import ids_json
from sightline.types import Caption, CaptionSource

_SEPARATORS = re.compile(r"[\x00-\x1f!-/:-@\[-`{-~]+")
"""ASCII punctuation and control characters; the rest is left to SQLite's own tokenizer."""
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


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
        [_to_row(image_id, caption) for image_id, given in captions.items() for caption in given],
    )
    refresh_texts(db, captions)


def remove_captions(db: sqlite3.Connection, ids: Iterable[int], source: CaptionSource) -> int:
    """Drop the captions of one source; the number dropped."""
    ids = list(ids)
    sql = "delete from captions where source = ? and image_id in (select value from json_each(?))"
    dropped = db.execute(sql, (source, ids_json(ids))).rowcount
    refresh_texts(db, ids)
    return dropped


def _to_row(image_id: int, caption: Caption) -> tuple[Any, ...]:
    # numpy's float32, which encoders give, is no type that SQLite binds.
    similarity, log_prob = (None if value is None else float(value) for value in (caption.similarity, caption.log_prob))
    text = storable_text(caption.text)
    return image_id, caption.source, text, similarity, log_prob, caption.model, int(caption.best)


def check_known(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Raise StoreError where an id is no row of `images`."""
    wanted = set(ids)
    found = db.execute("select id from images where id in (select value from json_each(?))", (ids_json(wanted),))
    if unknown := wanted - {row[0] for row in found}:
        listed = ", ".join(str(id_) for id_ in sorted(unknown)[:5])
        raise StoreError(f"The library has no image with the id {listed}{', ...' if len(unknown) > 5 else ''}.")


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

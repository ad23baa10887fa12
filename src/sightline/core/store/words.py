"""Words of the user's own: their names, the images that they were taught with, and those images' vectors by model."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.store.rows import path_from_sql, path_to_sql, storable_text
from sightline.core.store.vectors import ModelRow, decode_vectors, encode_vector
from sightline.core.types import Embedding, Example, TaughtWord

_OF_WORD = "word_id = (select id from words where folded = ?)"


def list_words(db: sqlite3.Connection) -> list[TaughtWord]:
    """All words, by name. None in a library of an older version that is read as it is."""
    if db.execute("select 1 from sqlite_master where name = 'words'").fetchone() is None:
        return []
    examples: dict[int, list[Example]] = {}
    for word_id, path, content_hash in db.execute("select word_id, path, content_hash from examples order by id"):
        examples.setdefault(word_id, []).append(Example(path=Path(path_from_sql(path)), content_hash=content_hash))
    return [
        TaughtWord(name=name, kind=kind, examples=tuple(examples.get(id_, ())))
        for id_, name, kind in db.execute("select id, name, kind from words order by folded")
    ]


def put_word(db: sqlite3.Connection, word: TaughtWord) -> None:
    """Keep a word in place of one of the same name; vectors of examples that it had before stay."""
    db.execute(
        "insert into words (name, folded, kind) values (?, ?, ?) "
        "on conflict (folded) do update set name = excluded.name, kind = excluded.kind",
        (storable_text(word.name), fold(word.name), None if word.kind is None else storable_text(word.kind)),
    )
    (word_id,) = db.execute("select id from words where folded = ?", (fold(word.name),)).fetchone()
    hashes = [example.content_hash for example in word.examples]
    known = [row[0] for row in db.execute("select content_hash from examples where word_id = ?", (word_id,))]
    db.executemany(
        "delete from examples where word_id = ? and content_hash = ?",
        [(word_id, content_hash) for content_hash in known if content_hash not in hashes],
    )
    db.executemany(
        "insert into examples (word_id, path, content_hash) values (?, ?, ?) "
        "on conflict (word_id, content_hash) do update set path = excluded.path",
        [(word_id, path_to_sql(str(example.path)), example.content_hash) for example in word.examples],
    )


def remove_word(db: sqlite3.Connection, name: str) -> bool:
    """Forget a word with its examples; False where there is none."""
    return db.execute("delete from words where folded = ?", (fold(name),)).rowcount > 0


def put_example_vectors(
    db: sqlite3.Connection, model: ModelRow, name: str, vectors: Mapping[str, NDArray[np.float32]]
) -> None:
    """Keep vectors (D,) of a word's examples by content hash. Raises StoreError for one that is refused."""
    sql = (
        "insert or replace into example_vectors (example_id, model_id, vector) "
        f"select id, ?, ? from examples where {_OF_WORD} and content_hash = ?"
    )
    for content_hash, vector in vectors.items():
        blob = encode_vector(Embedding(model=model.identity.name, vector=vector), model)
        db.execute(sql, (model.id, blob, fold(name), content_hash))


def read_example_vectors(db: sqlite3.Connection, model: ModelRow, name: str) -> dict[str, NDArray[np.float32]]:
    """Unit vectors (D,) of a word's examples by content hash: those that this model has."""
    rows = db.execute(
        "select content_hash, vector from examples join example_vectors on example_id = examples.id "
        f"where model_id = ? and {_OF_WORD} order by examples.id",
        (model.id, fold(name)),
    ).fetchall()
    if not rows:
        return {}
    hashes, blobs = zip(*rows, strict=True)
    return dict(zip(hashes, decode_vectors(blobs, model.identity.dim), strict=True))


def fold(name: str) -> str:
    """A name as names are compared: without regard to case or to the number of spaces."""
    return " ".join(storable_text(name).casefold().split())

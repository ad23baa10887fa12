"""Vectors of models as SQLite keeps them: half-precision blobs, each with the generation in which it was written.

Shape suffixes: N rows, M ids, C candidates, D dimension.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.core.types import Embedding, ModelIdentity
from sightline.errors import StoreError

NORM_TOLERANCE = 0.01
"""Largest distance from 1 of the length of a vector that is given to the store."""

CHUNK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model as the table `models` knows it."""

    id: int
    identity: ModelIdentity
    generation: int
    hub_bank: str | None = None
    """What measured the hubness of its vectors."""


class VectorBlob(NamedTuple):
    """A vector as it is stored."""

    model_id: int
    precision: str
    vector: bytes
    hubness: float | None


def list_models(db: sqlite3.Connection) -> dict[str, ModelRow]:
    """All models by name, in order of arrival."""
    bank = "hub_bank" if has_hubness(db) else "null"
    rows = db.execute(
        f"select id, name, weights_hash, preprocessing_version, dim, generation, {bank} from models order by id"
    )
    return {
        name: ModelRow(
            id=id_,
            identity=ModelIdentity(name=name, weights_hash=weights, preprocessing_version=version, dim=dim),
            generation=generation,
            hub_bank=hub_bank,
        )
        for id_, name, weights, version, dim, generation, hub_bank in rows
    }


def has_hubness(db: sqlite3.Connection) -> bool:
    """False in a library of an older schema, which is open for reading only."""
    return db.execute("select 1 from pragma_table_info('models') where name = 'hub_bank'").fetchone() is not None


def get_model(db: sqlite3.Connection, name: str) -> ModelRow:
    """A model by name. Raises StoreError for an unknown one."""
    models = list_models(db)
    if name not in models:
        known = ", ".join(models) or "none yet"
        raise StoreError(
            f"The library has no vectors of the model {name!r}; it has: {known}. "
            f"`sightline index --model {name}` adds them."
        )
    return models[name]


def is_known(db: sqlite3.Connection, identity: ModelIdentity) -> bool:
    """True where there is room for this model already. Raises StoreError where its name has another identity."""
    known = list_models(db).get(identity.name)
    if known is not None and known.identity != identity:
        raise StoreError(
            f"The library's vectors of {identity.name!r} were made with {_describe(known.identity)}; "
            f"this model is {_describe(identity)}, and the two can't be compared. `sightline index` embeds "
            "the pictures anew where the model came with a newer Sightline, and keeps the old vectors beside. Else use "
            f"the former model, or drop its vectors with `sightline remove --model {identity.name}` and index again."
        )
    return known is not None


def add_model(db: sqlite3.Connection, identity: ModelIdentity) -> None:
    """Make room for a model. Raises StoreError where its name is known with another identity."""
    if not is_known(db, identity):
        values = (identity.name, identity.weights_hash, identity.preprocessing_version, identity.dim)
        db.execute(
            "insert into models (name, weights_hash, preprocessing_version, dim, generation) values (?, ?, ?, ?, ?)",
            (*values, next_generation(db)),
        )


def _describe(identity: ModelIdentity) -> str:
    return (
        f"weights {identity.weights_hash[:12]}, preprocessing {identity.preprocessing_version}, "
        f"{identity.dim} dimensions"
    )


def next_generation(db: sqlite3.Connection) -> int:
    """A number for one write: nanoseconds of the clock, above all earlier ones.

    Taken from the clock so that none recurs where an older copy of the library is put back beside newer matrices.
    """
    latest: int = db.execute("select coalesce(max(generation), 0) from models").fetchone()[0]
    return max(time.time_ns(), latest + 1)


def encode_vector(embedding: Embedding, model: ModelRow) -> bytes:
    """A vector (D,) as little-endian fp16. Raises StoreError where it isn't a unit vector of the model's dimension."""
    vector = np.asarray(embedding.vector)
    dim = model.identity.dim
    if vector.shape != (dim,):
        raise StoreError(
            f"A vector of shape {vector.shape} was given for {embedding.model!r}, whose shape is ({dim},)."
        )
    norm = float(np.linalg.norm(vector.astype(np.float32)))
    if not abs(norm - 1) <= NORM_TOLERANCE:
        raise StoreError(
            f"A vector of length {norm:.4g} was given for {embedding.model!r}; vectors must be finite and of length 1. "
            "Normalise what the encoder gives."
        )
    return vector.astype("<f2").tobytes()


def read_blobs(db: sqlite3.Connection, wanted: str) -> dict[int, list[VectorBlob]]:
    """All vectors of images (a JSON array of ids) as they are stored."""
    blobs: dict[int, list[VectorBlob]] = {}
    sql = (
        "select image_id, model_id, precision, vector, hubness from vectors "
        "where image_id in (select value from json_each(?))"
    )
    for image_id, *blob in db.execute(sql, (wanted,)):
        blobs.setdefault(image_id, []).append(VectorBlob(*blob))
    return blobs


def put_vectors(
    db: sqlite3.Connection,
    written: Sequence[tuple[int, Sequence[Embedding]]],
    *,
    blobs: Mapping[int, Sequence[VectorBlob]],
) -> None:
    """Write the embeddings of images, and stored vectors of others that they take over, in one new generation.

    They replace those of the same models; an embedding goes before a stored vector.
    """
    models = list_models(db)
    generation = next_generation(db)
    rows = [
        (image_id, blob.model_id, generation, blob.precision, blob.vector, blob.hubness)
        for image_id, found in blobs.items()
        for blob in found
    ]
    for image_id, embeddings in written:
        for embedding in embeddings:
            model = models.get(embedding.model) or get_model(db, embedding.model)
            blob = encode_vector(embedding, model)
            rows.append(
                (image_id, model.id, generation, embedding.precision, blob, _checked_hubness(embedding.hubness))
            )
    db.executemany(
        "insert into vectors (image_id, model_id, generation, precision, vector, hubness) values (?, ?, ?, ?, ?, ?) "
        "on conflict (image_id, model_id) do update set generation = excluded.generation, "
        "precision = excluded.precision, vector = excluded.vector, hubness = excluded.hubness",
        rows,
    )
    touched = {(generation, row[1]) for row in rows}
    db.executemany("update models set generation = ? where id = ?", list(touched))


def take_hub_bank(db: sqlite3.Connection, model: ModelRow, bank: str) -> None:
    """Have the hubness of a model's vectors measured by this bank from now on; what another one said is forgotten."""
    if model.hub_bank != bank:
        db.execute("update models set hub_bank = ?, generation = ? where id = ?", (bank, next_generation(db), model.id))
        db.execute("update vectors set hubness = null where model_id = ? and hubness is not null", (model.id,))


def put_hubness(db: sqlite3.Connection, model: ModelRow, values: Mapping[int, float]) -> None:
    """Keep the hubness of images by id; those without a vector are passed over. The vectors stay as they are."""
    rows = [(_checked_hubness(value), model.id, id_) for id_, value in values.items()]
    db.executemany("update vectors set hubness = ? where model_id = ? and image_id = ?", rows)
    db.execute("update models set generation = ? where id = ?", (next_generation(db), model.id))


def _checked_hubness(value: float | None) -> float | None:
    """A mean of cosines, to five decimals: finer than vectors are kept. Raises StoreError for another number."""
    if value is None:
        return None
    if not abs(value) <= 1 + NORM_TOLERANCE:
        raise StoreError(f"A hubness of {value:.4g} was given; it is a mean of cosines.")
    return round(float(value), 5)


def read_table(
    db: sqlite3.Connection, model: ModelRow
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Ids (N,), ascending, generations and hubness of a model's vectors; NaN where hubness isn't known.

    By way of texts, which take a third of the time of rows.
    """
    hubness = "ifnull(hubness, 'nan')" if has_hubness(db) else "'nan'"
    sql = (
        "select group_concat(image_id), group_concat(generation), group_concat(value) from "
        f"(select image_id, generation, {hubness} as value from vectors where model_id = ? order by image_id)"
    )
    ids, generations, values = (text or "" for text in db.execute(sql, (model.id,)).fetchone())
    return (
        np.fromstring(ids, dtype=np.int64, sep=","),
        np.fromstring(generations, dtype=np.int64, sep=","),
        np.fromstring(values, dtype=np.float32, sep=","),
    )


def read_hubness(
    db: sqlite3.Connection, model: ModelRow, ids: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids (N,), ascending, and hubness (N,) of those of some images that have one."""
    sql = (
        "select image_id, hubness from vectors where model_id = ? and hubness is not null "
        "and image_id in (select value from json_each(?)) order by image_id"
    )
    found = db.execute(sql, (model.id, json.dumps([int(id_) for id_ in ids]))).fetchall()
    pairs_N2 = np.array(found, dtype=np.float64).reshape(len(found), 2)
    return pairs_N2[:, 0].astype(np.int64), pairs_N2[:, 1]


def mark_dropped(db: sqlite3.Connection, wanted: str) -> None:
    """Give the models that have vectors of images (a JSON array of ids) a new generation, before they are deleted."""
    db.execute(
        "update models set generation = ? where id in "
        "(select model_id from vectors where image_id in (select value from json_each(?)))",
        (next_generation(db), wanted),
    )


def are_among(ids_M: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the ids (M,) that are among some others; by way of a table, many times as fast as a search."""
    is_kept = np.zeros(kept.max(initial=0) + 2, dtype=np.bool_)  # by id; the last one stands for all above
    is_kept[kept] = True
    among_M: NDArray[np.bool_] = is_kept[np.minimum(ids_M, len(is_kept) - 1)]
    return among_M


def read_halves(
    db: sqlite3.Connection, model: ModelRow, ids: Sequence[int] | None = None, *, chunk_rows: int = CHUNK_ROWS
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Chunks of ids (N,) ascending and vectors (N, D) as they are stored: all of a model, or those of `ids` it has.

    Raises StoreError for blobs of another length.
    """
    dim = model.identity.dim
    sql = "select image_id, vector from vectors where model_id = ?"
    parameters: tuple[int | str, ...] = (model.id,)
    if ids is not None:
        sql += " and image_id in (select value from json_each(?))"
        parameters = (model.id, json.dumps([int(id_) for id_ in ids]))
    cursor = db.execute(sql + " order by image_id", parameters)
    while rows := cursor.fetchmany(chunk_rows):
        found, blobs = zip(*rows, strict=True)
        yield np.array(found, dtype=np.int64), _join_halves(blobs, dim)


def _join_halves(blobs: Sequence[bytes], dim: int) -> NDArray[np.float16]:
    """Stored vectors (N, D) as they are. Raises StoreError for blobs of another length."""
    joined = b"".join(blobs)
    if len(joined) != 2 * dim * len(blobs):
        raise StoreError(f"The library is damaged: a stored vector doesn't have {dim} dimensions. Index again.")
    return np.frombuffer(joined, dtype="<f2").reshape(len(blobs), dim)


def decode_vectors(blobs: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Stored vectors (N, D), L2-normalised again. Raises StoreError for blobs of another length."""
    return _normalise(_join_halves(blobs, dim))


def _normalise(halves_ND: NDArray[np.float16]) -> NDArray[np.float32]:
    vectors_ND = halves_ND.astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND


def read_vectors(
    db: sqlite3.Connection, model: ModelRow, ids: Sequence[int] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """`read_halves` as float32, rows L2-normalised again."""
    for found, halves_ND in read_halves(db, model, ids):
        yield found, _normalise(halves_ND)


def gather_vectors(
    db: sqlite3.Connection, model: ModelRow, ids: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`read_vectors` in two arrays."""
    chunks = list(read_vectors(db, model, ids))
    if not chunks:
        return np.empty(0, dtype=np.int64), np.empty((0, model.identity.dim), dtype=np.float32)
    found, vectors = zip(*chunks, strict=True)
    return np.concatenate(found), np.concatenate(vectors)


def compare_vectors(
    db: sqlite3.Connection, model: ModelRow, ids_M: NDArray[np.int64], query_D: NDArray[np.float32], *, every: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids (C,) and cosines (C,) of those of `ids_M` that have a vector; `every` vector is read, or these alone."""
    ids, cosines = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float64)]
    for found, vectors_CD in read_vectors(db, model, None if every else ids_M.tolist()):
        # Summed row by row, not by BLAS: equal vectors must get equal cosines wherever they stand.
        ids.append(found)
        cosines.append((vectors_CD * query_D).sum(axis=1, dtype=np.float64).clip(-1, 1))
    id_C, cosine_C = np.concatenate(ids), np.concatenate(cosines)
    if not every:
        return id_C, cosine_C
    wanted_C = np.isin(id_C, ids_M)
    return id_C[wanted_C], cosine_C[wanted_C]

"""Filters as masks over columns: what SQL says, value by value, and never older than the library."""

import random
from pathlib import Path

import numpy as np
import pytest

from sightline.core.store import columns
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Embedding, ImageInfo, ImageRecord, ModelIdentity

PHOTOS = Path("/photos")
CONDITIONS = [
    "width > 640",
    "width != 640",
    "width in (640, 800)",
    "aspect between 1.3 and 1.4",
    "latitude < 10",
    "latitude = 3.5",
    "latitude is null",
    "longitude is not null",
    "camera = 'Leica'",
    "camera != 'Leica'",
    "camera like 'can%'",
    "camera not like '%n'",
    "camera in ('Canon', 'Nikon')",
    "camera between 'B' and 'M'",
    "camera is null",
    "format = 'png'",
    "format <> 'png'",
    "format between 'GIF' and 'jpeg'",
    "taken_at = '2021'",
    "taken_at != '2021-03'",
    "taken_at <= '2021-06-15'",
    "taken_at > '2021-06-15 10'",
    "taken_at < '2022' and taken_at >= '2021-02'",
    "taken_at between '2020-12' and '2021-02-03'",
    "taken_at in ('2020', '2022-05')",
    "taken_at like '%-03-%'",
    "taken_at is not null",
    "modified_at < '2023-11-15'",
    "indexed_at > '2020'",
    "captioned = 1",
    "caption like '%dog%'",
    "caption not like '%dog%'",
    "path like '%/b/%'",
    "name = '7.jpg'",
    "folder = '/photos/a'",
]


def make_record(number, rng):
    return ImageRecord(
        root=PHOTOS,
        relative=f"{rng.choice('abc')}/{number}.jpg",
        size_bytes=number,
        mtime_ns=1_700_000_000_000_000_000 + rng.randrange(10**6) * 10**9,
        content_hash=str(number),
        info=ImageInfo(
            width=rng.choice([640, 800, 1200]),
            height=rng.choice([480, 600]),
            format=rng.choice(["JPEG", "PNG", "GIF"]),
            taken_at=rng.choice([None, f"202{rng.randrange(3)}-0{rng.randrange(1, 10)}-15T10:00:0{rng.randrange(10)}"]),
            camera=rng.choice([None, "Leica", "Canon", "Nikon", "Ünïcode 雪"]),
            latitude=rng.choice([None, 3.5, 20.0]),
            longitude=rng.choice([None, -1.0]),
        ),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = random.Random(0)
    with open_store(tmp_path_factory.mktemp("columns") / "library") as store:
        ids = store.upsert([Entry(image=make_record(number, rng)) for number in range(300)])
        store.delete(ids[::17])
        for id_ in store.ids()[::5].tolist():
            store.put_captions({id_: [Caption(text=rng.choice(["a dog", "a cat"]), source="user")]})
        yield store


def by_sql(store, where):
    return {record.id for record in store.scan(where=where)}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_and_its_opposite_mean_what_sql_means(store, where):
    assert set(store.ids(where=where).tolist()) == by_sql(store, where)
    assert set(store.ids(where=f"not ({where})").tolist()) == by_sql(store, f"not ({where})")


def make_filter(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(CONDITIONS)
    parts = [f"({make_filter(rng, depth - 1)})" for _ in range(rng.randint(2, 3))]
    return rng.choice(["", "not "]) + "(" + rng.choice([" and ", " or "]).join(parts) + ")"


def test_any_combination_means_what_sql_means(store):
    rng = random.Random(1)
    for _ in range(150):
        where = make_filter(rng, 3)
        assert set(store.ids(where=where).tolist()) == by_sql(store, where), where


def test_ids_come_in_the_order_that_sql_gives(store):
    ordered = sorted(
        store.scan(),
        key=lambda r: (r.info.taken_at or "", r.id),
    )
    dated = [r.id for r in ordered if r.info.taken_at][::-1]
    assert store.ids(where="taken_at is not null").tolist() == dated


def test_masks_of_many_filters_are_kept_and_the_oldest_forgotten(store):
    for width in range(columns._KEPT_MASKS + 3):
        assert len(store.ids(where=f"width < {width}")) == 0
    assert len(store._columns._table._masks) == columns._KEPT_MASKS


def record(name, **info):
    image = ImageInfo(**{"width": 1, "height": 1, "format": "JPEG", **info})
    return ImageRecord(root=PHOTOS, relative=name, size_bytes=1, mtime_ns=1, content_hash=name, info=image)


def unit(*components):
    return np.array(components, dtype=np.float32) / np.linalg.norm(components)


@pytest.fixture
def pair(tmp_path):
    """The same library, opened twice."""
    with open_store(tmp_path / "library") as first, open_store(tmp_path / "library") as second:
        first.add_model(ModelIdentity(name="m", weights_hash="w", preprocessing_version=1, dim=2))
        yield first, second


def test_every_write_of_any_opening_is_seen_by_the_next_filter(pair):
    for writer in pair:
        made = {}
        for reader in pair:
            assert reader.ids(where="camera = 'X'").tolist() == []
        made["a"] = writer.upsert(
            [Entry(image=record("a.jpg", camera="X"), embeddings=[Embedding(model="m", vector=unit(1, 0))])]
        )[0]
        made["b"] = writer.upsert([Entry(image=record("b.jpg", camera="X"))])[0]
        for reader in pair:
            assert set(reader.ids(where="camera = 'X'").tolist()) == set(made.values())
            assert reader.ids(where="camera = 'X'", model="m").tolist() == [made["a"]]
            assert [i for i, _ in reader.query(unit(1, 0), 9, model="m", where="camera = 'X'")] == [made["a"]]
        writer.put_captions({made["b"]: [Caption(text="words", source="user")]})
        for reader in pair:
            assert reader.ids(where="captioned = 1").tolist() == [made["b"]]
        writer.upsert([Entry(image=record("a.jpg", camera="Y"))])
        for reader in pair:
            assert reader.ids(where="camera = 'X'").tolist() == [made["b"]]
            assert reader.query(unit(1, 0), 9, model="m", where="camera = 'X'") == []
        writer.delete(made.values())
        for reader in pair:
            assert reader.ids(where="camera is not null").tolist() == []


def test_a_filtered_query_leaves_out_rows_without_an_image_or_vector(pair):
    store, _ = pair
    entries = [
        Entry(image=record(f"{n}.jpg", width=n), embeddings=[Embedding(model="m", vector=unit(1, n))] * (n % 2))
        for n in range(1, 9)
    ]
    ids = store.upsert(entries)
    assert [i for i, _ in store.query(unit(1, 0), 9, model="m", where="width > 2")] == [ids[2], ids[4], ids[6]]
    store.delete([ids[4]])
    assert [i for i, _ in store.query(unit(1, 0), 9, model="m", where="width > 2")] == [ids[2], ids[6]]
    assert store.query(unit(1, 0), 9, model="m", where="width > 100") == []


def test_columns_are_read_once_for_many_filters(pair, monkeypatch):
    store, _ = pair
    store.upsert([Entry(image=record("a.jpg", camera="X"))])
    asked = []
    read = columns._Table._read
    monkeypatch.setattr(columns._Table, "_read", lambda table, sql: asked.append(sql) or read(table, sql))
    for width in range(5):
        store.ids(where=f"width > {width} and camera = 'X'")
    assert sorted(asked)[:1] == ["coalesce(images.taken_at, " + columns.FIELDS["modified_at"].sql + ")"]
    assert sorted(asked)[1:] == ["images.camera", "images.width"]

import os
import sqlite3
import time
import unicodedata
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from sightline.core.store import sqlite as sqlite_store
from sightline.core.store.base import Entry
from sightline.core.store.filters import FIELDS, compile_filter
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, Embedding, ImageInfo, ImageRecord, ModelIdentity
from sightline.errors import InputError

PHOTOS = Path("/photos")


def entry(relative, *, root=PHOTOS, mtime="2024-03-01T08:00:00", **info):
    image = ImageRecord(
        root=root,
        relative=relative,
        size_bytes=len(relative) * 1000,
        mtime_ns=int(datetime.fromisoformat(mtime).timestamp()) * 10**9,
        content_hash=f"{relative!a}",
        info=ImageInfo(**{"width": 640, "height": 480, "format": "JPEG", **info}),
    )
    return Entry(image=image)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("filters") / "library") as store:
        ids = store.upsert(
            [
                entry(
                    "holiday/beach.jpg", taken_at="2024-01-01T12:00:00", camera="Leica Q", latitude=43.5, longitude=7.0
                ),
                entry("holiday/2023/snow it's.jpg", taken_at="2023-12-24T18:30:00", width=4000),
                entry("work/scan_100%.png", format="PNG", mtime="2020-05-05T00:00:00", camera="Canon"),
                entry("odd\udcff/name\udcfe.jpg"),
                entry("top.gif", root=Path("/other place"), format="GIF", latitude=-10.25),
            ]
        )
        store.put_captions(
            {
                ids[0]: [Caption(text="a sandy beach", source="clip"), Caption(text="people swim", source="generated")],
                ids[1]: [Caption(text="snow on trees", source="user")],
            }
        )
        yield store


NAMES = {
    "beach.jpg": "beach",
    "snow it's.jpg": "snow",
    "scan_100%.png": "scan",
    "name\udcfe.jpg": "odd",
    "top.gif": "top",
}


def found(store, where):
    """What SQL finds, which is what the columns must find too."""
    records = list(store.scan(where=where))
    assert sorted(store.ids(where=where).tolist()) == sorted(record.id for record in records)
    return sorted(NAMES[record.path.name] for record in records)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("taken_at > '2023-12-31' and path like '%holiday%'", "beach"),
        ("path = '/photos/holiday/beach.jpg'", "beach"),
        ("path = '/photos/odd\udcff/name\udcfe.jpg'", "odd"),
        ("path in ('/other place/top.gif', '/photos/odd\udcff/name\udcfe.jpg')", "odd top"),
        ('path like "/other place/%"', "top"),
        ("folder = '/other place'", "top"),
        ("folder = '/photos/holiday/2023'", "snow"),
        ("folder like '%odd\udcff'", "odd"),
        ("name = 'snow it''s.jpg'", "snow"),
        ('name = "snow it\'s.jpg"', "snow"),
        ("name = 'name\udcfe.jpg'", "odd"),
        ("name like '%.PNG'", "scan"),
        ("name not like '%.jpg'", "scan top"),
        ("format = 'jpeg'", "beach odd snow"),
        ("format in ('png', 'GIF')", "scan top"),
        ("not format in ('png', 'GIF')", "beach odd snow"),
        ("format not in ('png', 'GIF')", "beach odd snow"),
        ("WIDTH >= 4000", "snow"),
        ("width <> 640", "snow"),
        ("width != 640 or height < 480 OR latitude < 0", "snow top"),
        ("width between 1000 and 5e3", "snow"),
        ("width not between 1000 and 5000", "beach odd scan top"),
        ("aspect > 2", "snow"),
        ("aspect between 1.3 and 1.4", "beach odd scan top"),
        ("size_bytes<8000", "top"),
        ("latitude is not null and latitude > -.5", "beach"),
        ("latitude = -10.25", "top"),
        ("longitude is null", "odd scan snow top"),
        ("camera is null", "odd snow top"),
        ("camera != 'Canon'", "beach"),
        ("camera like 'leica%'", "beach"),
        ("taken_at = '2024'", "beach"),
        ("taken_at != '2024'", "snow"),
        ("taken_at >= '2024-01-01'", "beach"),
        ("taken_at > '2024-01-01'", ""),
        ("taken_at > '2024-01-01 11:59'", "beach"),
        ("taken_at > '2024-01-01T12:00:00'", ""),
        ("taken_at <= '2023-12-24'", "snow"),
        ("taken_at < '2023-12-24'", ""),
        ("taken_at between '2023-12' and '2024-01'", "beach snow"),
        ("taken_at in ('2023-12-24', '1999')", "snow"),
        ("taken_at like '____-12-%'", "snow"),
        ("modified_at < '2021'", "scan"),
        ("modified_at = '2024-03-01 08:00'", "beach odd snow top"),
        ("indexed_at >= '2025'", "beach odd scan snow top"),
        ("caption like '%swim%'", "beach"),
        ("caption like '%sand%' and caption like '%swim%'", "beach"),
        ("caption not like '%swim%'", "odd scan snow top"),
        ("caption = 'people swim'", "beach"),
        ("caption != 'people swim'", "odd scan snow top"),
        ("caption is null", "odd scan top"),
        ("caption is not null", "beach snow"),
        ("not caption like '%swim%'", "odd scan snow top"),
        ("captioned = 1", "beach snow"),
        ("captioned = 0 and not (format = 'GIF' or format = 'PNG')", "odd"),
        ("not not (width = 4000)", "snow"),
        ("width = 4000 or width = 640 and format = 'PNG'", "scan snow"),
        ("(width = 4000 or width = 640) and format = 'PNG'", "scan"),
        ("width < 99999999999999999999999999", "beach odd scan snow top"),
        ("width < 1e999", "beach odd scan snow top"),
        ("name = ''", ""),
        (" \n width = 4000 \t", "snow"),
    ],
)
def test_filters_mean_what_they_say(store, where, expected):
    assert found(store, where) == expected.split()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "needs a field's name.*position 1, but has its end"),
        ("width", "needs one of the operators =, .*position 6, but has its end"),
        ("width = ", "a number or a text in quotes at position 9, but has its end"),
        ("width = height", "a number or a text in quotes at position 9, but has 'height'"),
        ("width == 3", "position 8, but has '='"),
        ("width = 3 height = 4", "'and', 'or' or the end of the filter at position 11, but has 'height'"),
        ("(width = 3", "'and', 'or' or '\\)' at position 11"),
        ("width = 3)", "the end of the filter at position 10"),
        ("width in 3", "'\\(' after 'in' at position 10"),
        ("width in (3", "',' or '\\)'.*position 12"),
        ("width in ()", "position 11"),
        ("width between 1 or 2", "'and' between the two values.*position 17"),
        ("width is 3", "one of the operators.*position 7"),
        ("width not 3", "one of the operators.*position 11"),
        ("like = 3", "field's name.*position 1, but has 'like'"),
        ("widht = 3", "'widht' at position 1, which is no field. Did you mean 'width'.*Fields are path, name"),
        ("a = 1 and zzz = 3", "'a' at position 1, which is no field. Fields are path"),
        ("name = 'it", "from position 8 has no closing ': 'it.*doubled"),
        ('name = "it', 'no closing "'),
        ("width = 3 ; drop", "'; drop' at position 11, which is no part of a filter"),
        ("width = 1.2.3", "no part of a filter"),
        ("width = 12abc", "no part of a filter"),
        ("width > '100'", "width \\(position 1\\) is a number; write '100' as a number without quotes"),
        ("name = 2024", "name \\(position 1\\) is a text; put 2024 in quotes"),
        ("width like '1%'", "'like' needs a text field and a text in quotes; see width"),
        ("name not like 3", "'not like' needs a text field"),
        ("taken_at > 'yesterday'", "taken_at \\(position 1\\) with 'yesterday', which is no date.*2024-05-01 12:30"),
        ("taken_at > 2024", "with 2024, which is no date"),
        ("taken_at > '2024-13-45'", "with '2024-13-45', which is no date"),
        ("taken_at > '2023-02-29'", "which is no date"),
        ("taken_at > '2024-05-01 24:00'", "which is no date"),
        (f"path like '{'x' * 60_000}'", "pattern for path .position 1. is too long; at most 50,000 bytes"),
        ("taken_at in ('2024', '1.5.2024')", "1.5.2024"),
        ("caption like 3", "'like' needs"),
        ("(" * 60 + "width = 3" + ")" * 60, "nested deeper than 50"),
        (" or ".join(["width = 3"] * 201), "more than 200 conditions"),
        ("width in (" + ",".join(["1"] * 1001) + ")", "lists 1001 values; at most 1000"),
        (" or ".join(["width in (" + ",".join(["1"] * 1000) + ")"] * 31), "too many values in all"),
    ],
)
def test_a_wrong_filter_is_refused_with_place_and_remedy(store, where, message):
    for use in (store.scan, store.ids):
        with pytest.raises(InputError, match=message):
            use(where=where)


@pytest.mark.parametrize(
    "where",
    [
        "1=1; drop table images",
        "1 = 1",
        "' or 1=1 --",
        "width = 1 -- comment",
        "width = 1 /* comment */",
        "width = (select 1)",
        "width in (select id from images)",
        "length(name) = 3",
        "name = upper('x')",
        "name = load_extension('x')",
        "images.width = 1",
        "width = 1 union select 1",
        "name = 'a' || 'b'",
        "name glob '*'",
        "name = 'x' collate nocase",
        "name like 'a' escape 'b'",
        "rowid = 1",
        "root_id = 1",
        "name = ?",
        "name = :a",
        "name = $a",
        "name = `x`",
        "[name] = 'x'",
        "name = x'00'",
        "exists (select 1)",
        "width = 1 + 1",
        "width",
        "width = \u0661",
    ],
)
def test_sql_is_no_filter(store, where):
    with pytest.raises(InputError):
        store.scan(where=where)
    assert store.stats().images == 5


@pytest.mark.parametrize("value", ["' or 1=1 --", "'; drop table images; --", '" or ""="', "?", "%' or '1' = '1", "\0"])
def test_sql_inside_quotes_is_plain_data(store, value):
    quoted = value.replace("'", "''")
    assert found(store, f"name = '{quoted}'") == []
    assert found(store, f"caption = '{quoted}' or name = 'top.gif'") == ["top"]
    assert compile_filter(f"name = '{quoted}'", {}).text == compile_filter("name = 'x'", {}).text


def test_the_largest_filter_allowed_runs(store):
    where = " or ".join(["width in (" + ",".join(["4000"] * 500) + ")"] * 50 + ["name = 'x'"] * 150)
    assert found(store, where) == ["snow"]
    nested = "(" * 50 + "not width = 3" + ")" * 50
    assert len(found(store, nested)) == 5


def test_every_field_compiles_and_is_documented(store):
    page = Path(__file__).resolve().parents[1] / "docs" / "format.md"
    for name in FIELDS:
        assert list(store.scan(where=f"{name} is null")) is not None
        assert f"`{name}`" in page.read_text(encoding="utf-8")


def test_path_filters_work_without_roots(tmp_path):
    with open_store(tmp_path / "library") as store:
        assert list(store.scan(where="path like '%a%' or folder = 'x'")) == []


def test_times_are_shown_in_local_time(store, monkeypatch):
    moment = datetime.fromisoformat("2024-03-01T08:00:00").timestamp()
    sql = compile_filter("modified_at = '2024-03-01 08'", {}).text
    db = sqlite3.connect(":memory:")
    db.execute("create table images (mtime_ns)")
    db.execute("insert into images values (?)", (int(moment) * 10**9,))
    assert db.execute(f"select {sql} from images", ("2024-03-01T08", "2024-03-01T08~")).fetchone() == (1,)
    monkeypatch.setenv("TZ", "UTC+5" if os.environ.get("TZ") != "UTC+5" else "UTC+6")
    time.tzset()
    try:
        assert db.execute(f"select {sql} from images", ("2024-03-01T08", "2024-03-01T08~")).fetchone() == (0,)
    finally:
        monkeypatch.undo()
        time.tzset()
        db.close()


def test_a_list_of_as_many_dates_as_are_allowed_is_answered(store):
    days = [
        f"'{year}-{month:02}-{day:02}'" for year in range(2020, 2024) for month in range(1, 13) for day in range(1, 28)
    ]
    assert found(store, f"taken_at in ({', '.join(days[-1000:])})") == ["snow"]
    assert found(store, f"taken_at not in ({', '.join(days[-1000:])})") == ["beach"], "without a date is no answer"


# Answers that are kept until the library changes


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


def test_ids_come_newest_first(pair):
    store, _ = pair
    days = [None, "2021-03-15T10:00:00", "2020-01-01T00:00:00", "2021-03-15T10:00:00", None]
    ids = store.upsert([Entry(image=record(f"{n}.jpg", taken_at=day)) for n, day in enumerate(days)])
    newest = [ids[3], ids[1], ids[2], ids[4], ids[0]]  # without a date the file's own time counts: 1970 here
    assert store.ids().tolist() == newest
    assert store.ids(where="taken_at is not null").tolist() == newest[:3]


def test_answers_of_many_filters_are_kept_and_the_oldest_forgotten(pair):
    store, _ = pair
    store.upsert([Entry(image=record("a.jpg"))])
    first = store.ids(where="width = 1")
    kept = list(store._answers.values())
    store.ids(where="width = 1")
    assert [id(answer) for answer in store._answers.values()] == [id(answer) for answer in kept]
    for width in range(2, sqlite_store._KEPT_ANSWERS + 4):
        assert len(store.ids(where=f"width = {width}")) == 0
    assert len(store._answers) == sqlite_store._KEPT_ANSWERS
    assert store.ids(where="width = 1").tolist() == first.tolist()


@pytest.fixture(scope="module")
def spelled(tmp_path_factory):
    """Names in both Unicode forms, by number."""
    names = [unicodedata.normalize("NFD", "naïve.jpg"), "ÉTÉ.JPG", "ete.jpg", "Straße/ünter.png", "日本.jpg"]
    with open_store(tmp_path_factory.mktemp("spelled") / "library") as store:
        store.upsert([entry(name) for name in names])
        yield store, names


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("name = 'naïve.jpg'", [0]),
        ("name in ('naïve.jpg', 'x')", [0]),
        ("name != 'naïve.jpg'", [1, 2, 3, 4]),
        ("name like 'NAÏVE%'", [0]),
        ("name like 'naive%'", [0]),
        ("name like '%été%'", [1, 2]),
        ("name not like '%été%'", [0, 3, 4]),
        ("name = 'été.jpg'", []),
        ("path like '%strasse/UNTER%'", [3]),
        ("folder = '/photos/Straße'", [3]),
        ("name like '日%'", [4]),
        ("name between 'e' and 'n'", [2]),
        ("camera like '%é%'", []),
        ("camera not like '%é%'", []),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unicode_forms_are_alike_and_like_knows_no_accents(spelled, where, numbers, form):
    store, names = spelled
    found = {record.relative for record in store.scan(where=unicodedata.normalize(form, where))}
    assert found == {names[number] for number in numbers}

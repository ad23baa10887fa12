import sqlite3
from contextlib import closing

import pytest

from sightline.errors import StoreError
from sightline.store import connection, schema
from sightline.store.sqlite import open_store


def version(library):
    with closing(sqlite3.connect(library / "library.db")) as db:
        return db.execute("pragma user_version").fetchone()[0]


def append_step(monkeypatch, step):
    """As a newer Sightline would have it."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(schema.MIGRATIONS))
    monkeypatch.setattr(schema, "OLDEST_READABLE", len(schema.MIGRATIONS))


@pytest.fixture
def library(tmp_path):
    with open_store(tmp_path / "library") as store:
        store.set_setting("model", "starter")
    return tmp_path / "library"


def test_an_empty_file_is_version_0_and_is_brought_up_to_date(tmp_path):
    (tmp_path / "library.db").touch()
    with open_store(tmp_path, create=False) as store:
        assert store.stats().images == 0
    assert version(tmp_path) == schema.SCHEMA_VERSION


def test_an_older_library_is_migrated_with_its_content(library, monkeypatch):
    def add_note(db):
        db.execute("alter table settings add column note text default 'migrated'")

    append_step(monkeypatch, add_note)
    with pytest.raises(StoreError, match=r"older schema version 2.*open it once for writing"):
        open_store(library, read_only=True)
    with open_store(library) as store:
        assert store.setting("model") == "starter"
    assert version(library) == 3
    with closing(sqlite3.connect(library / "library.db")) as db:
        assert db.execute("select note from settings").fetchone() == ("migrated",)
    with open_store(library, read_only=True) as store:
        assert store.setting("model") == "starter"


def test_a_migration_that_fails_leaves_the_library_as_it_was(library, monkeypatch):
    def fail_halfway(db):
        db.execute("create table half (x)")
        db.execute("insert into nowhere values (1)")

    with monkeypatch.context() as patched:
        append_step(patched, fail_halfway)
        with pytest.raises(StoreError, match="nowhere"):
            open_store(library)
    with closing(sqlite3.connect(library / "library.db")) as db:
        assert db.execute("select count(*) from sqlite_master where name = 'half'").fetchone() == (0,)
    assert version(library) == 2
    with open_store(library) as store:
        assert store.setting("model") == "starter"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_library_is_refused_and_not_touched(library, read_only):
    with closing(sqlite3.connect(library / "library.db")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(
        StoreError,
        match=r"schema version 99; this Sightline knows versions up to 2\. .* --upgrade sightline-images`",
    ):
        open_store(library, read_only=read_only)
    assert version(library) == 99


@pytest.mark.parametrize("read_only", [False, True])
def test_another_programs_database_is_refused_and_not_touched(tmp_path, read_only):
    with closing(sqlite3.connect(tmp_path / "library.db")) as db:
        db.execute("create table recipes (x)")
    with pytest.raises(StoreError, match=r"library\.db is a database of another program"):
        open_store(tmp_path, read_only=read_only)
    with closing(sqlite3.connect(tmp_path / "library.db")) as db:
        assert db.execute("select name from sqlite_master").fetchall() == [("recipes",)]


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    (tmp_path / "library.db").write_bytes(b"shopping list\n" * 200)
    with pytest.raises(StoreError, match=r"damaged or not a Sightline library.*Put back a copy"):
        open_store(tmp_path)
    assert (tmp_path / "library.db").read_bytes() == b"shopping list\n" * 200


def test_a_library_damaged_in_its_middle_says_so(library):
    with open_store(library) as store:
        for i in range(300):
            store.set_setting(f"name {i:04}", "x" * 500)
    file = library / "library.db"
    content = bytearray(file.read_bytes())
    content[4096 : len(content)] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), open_store(library) as store:
        store.setting("name 0001")
    with pytest.raises(StoreError, match="damaged"):
        connection.check_integrity(file)


def test_tables_refuse_what_would_break_them(library):
    with closing(sqlite3.connect(library / "library.db")) as db:
        db.execute("pragma foreign_keys = on")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            db.execute("insert into captions (image_id, source, text, best) values (1, 'user', 'x', 0)")
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            db.execute("insert into captions (image_id, source, text, best) values (1, 'someone', 'x', 0)")

"""Opening, several processes, kills and full disks."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import sightline
from sightline.core.store import database
from sightline.core.store.base import Entry
from sightline.core.store.sqlite import open_store
from sightline.core.types import Embedding, Facts, ImageInfo, ImageRecord, ModelIdentity
from sightline.errors import StoreError

DIM = 64
BATCH = 50

# The same batches in this process and in scripts run beside it.
SAMPLES = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from sightline.errors import StoreError
    from sightline.core.store.base import Entry
    from sightline.core.store.sqlite import open_store
    from sightline.core.types import Embedding, Facts, ImageInfo, ImageRecord, ModelIdentity

    DIM, BATCH = 64, 50
    library = Path(sys.argv[1])

    def batch(number):
        rng = np.random.default_rng(number)
        vectors = rng.standard_normal((BATCH, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return [
            Entry(
                image=ImageRecord(
                    root=Path("/photos"), relative=f"{number:05}/{i:03}.jpg", size_bytes=1, mtime_ns=1,
                    content_hash=f"{number}-{i}", info=ImageInfo(width=1, height=1, format="JPEG"),
                ),
                embeddings=[Embedding(model="m", vector=vector)],
            )
            for i, vector in enumerate(vectors)
        ]
    """
)


def batch(number, size=BATCH):
    rng = np.random.default_rng(number)
    vectors = rng.standard_normal((size, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    info = ImageInfo(width=1, height=1, format="JPEG")
    return [
        Entry(
            image=ImageRecord(
                root=Path("/photos"),
                relative=f"{number:05}/{i:03}.jpg",
                size_bytes=1,
                mtime_ns=1,
                content_hash=f"{number}-{i}",
                info=info,
            ),
            embeddings=[Embedding(model="m", vector=vector)],
        )
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "library"
    with open_store(folder) as store:
        store.add_model(ModelIdentity(name="m", weights_hash="w", preprocessing_version=1, dim=DIM))
    return folder


def start(body, *arguments):
    package = str(Path(sightline.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SAMPLES + textwrap.dedent(body), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": package},
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return output


def assert_sound(library, *, batches=None):
    assert database.check_integrity(library / "library.db") == []
    with open_store(library) as store:
        stats = store.stats()
        assert stats.images == stats.models["m"]
        assert stats.images % BATCH == 0, "a batch was written in part"
        if batches is not None:
            assert stats.images == batches * BATCH
        if stats.images:
            query = batch(0)[0].embeddings[0].vector
            assert len(store.query(query, stats.images, model="m")) == stats.images


# Opening


def test_a_new_library_is_one_folder_with_a_readme(tmp_path):
    folder = tmp_path / "new" / "deep" / "library"
    open_store(folder).close()
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "library.db"]
    assert "may be deleted" in (folder / "README.txt").read_text(encoding="utf-8")


def test_a_readme_that_is_there_is_kept(tmp_path):
    (tmp_path / "README.txt").write_text("mine", encoding="utf-8")
    open_store(tmp_path).close()
    assert (tmp_path / "README.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_a_missing_library_is_not_made_unasked(tmp_path, options):
    with pytest.raises(StoreError, match=r"There is no library at .*`sightline index DIR --library"):
        open_store(tmp_path / "nowhere", **options)
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "library").touch()
    with pytest.raises(StoreError, match=r"No library can be made at .*Choose a folder"):
        open_store(tmp_path / "library")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "library.db").mkdir()
    with pytest.raises(StoreError, match="can't be opened or written"):
        open_store(tmp_path)


@pytest.mark.parametrize("name", ["with space", "100%41?x=y#z", "ünï'\"", "odd\udcff"])
def test_a_library_may_have_any_name(tmp_path, name):
    for _ in range(2):
        with open_store(tmp_path / name) as store:
            store.set_setting("model", "starter")
    assert (tmp_path / name / "library.db").exists()
    with open_store(tmp_path / name, read_only=True) as store:
        assert store.setting("model") == "starter"


def test_a_relative_path_is_bound_when_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store(Path("library")) as store:
        monkeypatch.chdir("/")
        assert store.folder == tmp_path / "library"
        assert store.stats().size_bytes > 0


def test_reading_only_refuses_every_write(library):
    with open_store(library) as store:
        (id_, *_) = store.upsert(batch(0))
    with open_store(library, read_only=True) as store:
        assert len(store.query(batch(0)[0].embeddings[0].vector, 5, model="m")) == 5
        for write in (
            lambda: store.upsert(batch(1)),
            lambda: store.delete([id_]),
            lambda: store.set_setting("a", "b"),
            lambda: store.put_captions({}),
            lambda: store.remove_model("m"),
            lambda: store.forget_failures(Path("/photos"), []),
            lambda: store.add_model(ModelIdentity(name="n", weights_hash="w", preprocessing_version=1, dim=2)),
        ):
            with pytest.raises(StoreError, match="opened for reading only"):
                write()
        store.add_model(store.models()["m"])


def test_a_read_only_medium_is_searched(library):
    """Permissions don't stop root, so a root process becomes nobody first."""
    with open_store(library) as store:
        store.upsert(batch(0))
    medium = Path(tempfile.mkdtemp())
    try:
        (medium / "library.db").write_bytes((library / "library.db").read_bytes())
        medium.chmod(0o555)
        process = start(
            """
            import os
            query = batch(0)[7].embeddings[0].vector
            with open_store(Path(sys.argv[2])) as loaded:
                loaded.query(query, 1, model="m")
            if os.getuid() == 0:
                os.setuid(65534)
            with open_store(library, read_only=True) as store:
                print(store.get([store.query(query, 1, model="m")[0][0]])[0].relative)
            try:
                with open_store(library) as store:
                    store.set_setting("a", "b")
            except StoreError as error:
                print(error)
            """,
            medium,
            library,
        )
        lines = finish(process).splitlines()
        assert lines[0] == "00000/007.jpg"
        assert "can't be opened or written" in lines[1]
        assert sorted(p.name for p in medium.iterdir()) == ["library.db"]
    finally:
        medium.chmod(0o755)
        (medium / "library.db").unlink()
        medium.rmdir()


def test_text_that_is_no_unicode_is_refused(library):
    with open_store(library) as store:
        with pytest.raises(StoreError, match="not valid Unicode"):
            store.set_setting("folder", "odd\udcff")
        store.set_setting("folder", "even")


# Threads and processes


def test_threads_share_a_store(library):
    failures = []

    def work(store, number):
        try:
            for i in range(3):
                ids = store.upsert(batch(number * 10 + i, 20))
                query = batch(number * 10 + i, 20)[5].embeddings[0].vector
                assert store.query(query, 1, model="m")[0][0] == ids[5]
        except BaseException as error:
            failures.append(error)

    with open_store(library) as store:
        threads = [threading.Thread(target=work, args=(store, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.stats().images == 4 * 3 * 20


def test_processes_read_while_another_writes(library):
    reader_script = """
        seen = set()
        query = batch(0)[0].embeddings[0].vector
        print("ready", flush=True)
        while max(seen, default=0) < 20 * BATCH:
            with open_store(library, read_only=True) as store:
                for _ in range(3):
                    count = store.stats().images
                    hits = store.query(query, 2000, model="m")
                    assert len(hits) >= count and len(hits) % BATCH == 0, (len(hits), count)
                    seen.add(len(hits))
        print("done")
        """
    readers = [start(reader_script, library) for _ in range(2)]
    with open_store(library) as store:
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
        for number in range(20):
            store.upsert(batch(number))
    assert [finish(reader) for reader in readers] == ["done\n"] * 2
    assert_sound(library, batches=20)


def test_two_processes_make_and_write_one_library(tmp_path):
    script = """
        first = int(sys.argv[2])
        with open_store(library) as store:
            store.add_model(ModelIdentity(name="m", weights_hash="w", preprocessing_version=1, dim=DIM))
            for number in range(first, first + 10):
                store.upsert(batch(number))
        """
    for writer in [start(script, tmp_path / "library", first) for first in (0, 100, 200)]:
        finish(writer)
    assert_sound(tmp_path / "library", batches=30)


def test_many_may_open_a_new_library_at_once(tmp_path):
    """Switching a new file to WAL is refused at once while another does it, whatever the busy timeout."""

    def open_once(folder, barrier):
        barrier.wait()
        with open_store(folder) as store:
            store.set_setting("a", "b")

    with ThreadPoolExecutor(6) as pool:
        for round_ in range(30):
            barrier = threading.Barrier(6)
            openings = [pool.submit(open_once, tmp_path / str(round_), barrier) for _ in range(6)]
            assert [opening.result(timeout=240) for opening in openings] == [None] * 6


def test_a_read_that_was_cut_short_by_ctrl_c_does_not_block_writing(library):
    """KeyboardInterrupt can strike between two bytecodes, so a read's transaction may be left open."""
    with open_store(library) as store:
        store._database._connection.execute("begin")
        store._database._connection.execute("select count(*) from images").fetchone()
        assert len(store.upsert(batch(0))) == BATCH
        assert store.stats().images == BATCH


def test_a_writer_that_waits_too_long_is_told_why(library, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    with (
        open_store(library) as store,
        closing(sqlite3.connect(library / "library.db", isolation_level=None)) as other,
    ):
        other.execute("begin immediate")
        with pytest.raises(StoreError, match=r"Another process is writing to .*Wait until it is done"):
            store.upsert(batch(0))
        assert store.stats().images == 0
        other.execute("rollback")
        store.upsert(batch(0))
    assert_sound(library, batches=1)


# Kills and full disks


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_killed_writer_leaves_whole_batches(library):
    for round_ in range(3):
        process = start(
            """
            first = int(sys.argv[2])
            with open_store(library) as store:
                for number in range(first, first + 1000):
                    store.upsert(batch(number))
                    print(number, flush=True)
            """,
            library,
            round_ * 1000,
        )
        for _ in range(3 + round_):
            last = int(process.stdout.readline())
        process.kill()
        process.communicate()
        with open_store(library, read_only=True) as store:
            kept = {record.relative for record in store.scan()}
        assert f"{last:05}/049.jpg" in kept, "a batch that was reported is lost"
        assert_sound(library)


def write_for_ever(store):
    for number in range(1, 10_000):
        store.upsert(batch(number))


def test_a_full_disk_is_a_clear_error_and_leaves_a_valid_library(library):
    with open_store(library) as store:
        store.upsert(batch(0))
        db = store._database._connection
        pages = db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {pages + 4}")
        with pytest.raises(StoreError, match=r"disk of .* is full: nothing of this batch was written\. Free space"):
            write_for_ever(store)
        written = store.stats().images // BATCH
        db.execute("pragma max_page_count = 1000000")
        store.upsert(batch(written))
    assert_sound(library, batches=written + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits on Windows")
def test_a_refused_write_is_a_clear_error_and_leaves_a_valid_library(library):
    process = start(
        """
        import resource
        with open_store(library) as store:
            store.upsert(batch(0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
            try:
                for number in range(1, 1000):
                    store.upsert(batch(number))
            except StoreError as error:
                print(number)
                print(error)
            assert store.stats().images == number * BATCH
            assert len(store.query(batch(0)[0].embeddings[0].vector, 9, model="m")) == 9
        """,
        library,
    )
    number, message = finish(process).splitlines()
    assert "nothing of this batch was written. Free space and run again." in message
    assert_sound(library, batches=int(number))


def test_an_interrupt_within_a_batch_undoes_it(library, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with open_store(library) as store:
        store.upsert(batch(0))
        with monkeypatch.context() as patched:
            patched.setattr("sightline.core.store.rows.refresh_texts", interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.upsert(batch(1))
        store.upsert(batch(2))
    assert_sound(library, batches=2)


def version(library):
    with closing(sqlite3.connect(library / "library.db")) as db:
        return db.execute("pragma user_version").fetchone()[0]


def append_step(monkeypatch, step):
    """As a newer Sightline would have it."""
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, step))
    monkeypatch.setattr(database, "SCHEMA_VERSION", len(database.MIGRATIONS))
    monkeypatch.setattr(database, "OLDEST_READABLE", len(database.MIGRATIONS))


@pytest.fixture
def settings_only(tmp_path):
    with open_store(tmp_path / "library") as store:
        store.set_setting("model", "starter")
    return tmp_path / "library"


def test_an_empty_file_is_version_0_and_is_brought_up_to_date(tmp_path):
    (tmp_path / "library.db").touch()
    with open_store(tmp_path, create=False) as store:
        assert store.stats().images == 0
    assert version(tmp_path) == database.SCHEMA_VERSION


def test_an_older_library_is_migrated_with_its_content(settings_only, monkeypatch):
    def add_note(db):
        db.execute("alter table settings add column note text default 'migrated'")

    append_step(monkeypatch, add_note)
    with pytest.raises(
        StoreError, match=rf"older schema version {database.SCHEMA_VERSION - 1}.*open it once for writing"
    ):
        open_store(settings_only, read_only=True)
    with open_store(settings_only) as store:
        assert store.setting("model") == "starter"
    assert version(settings_only) == database.SCHEMA_VERSION
    with closing(sqlite3.connect(settings_only / "library.db")) as db:
        assert db.execute("select note from settings").fetchone() == ("migrated",)
    with open_store(settings_only, read_only=True) as store:
        assert store.setting("model") == "starter"


@pytest.fixture
def older(tmp_path):
    """A library as version 5 left it, with an image and a caption."""
    (tmp_path / "older").mkdir()
    with closing(sqlite3.connect(tmp_path / "older" / "library.db", isolation_level=None)) as db:
        for step in database.MIGRATIONS[:5]:
            step(db)
        db.execute(f"pragma application_id = {database.APPLICATION_ID}")
        db.execute("pragma user_version = 5")
        db.execute("insert into roots values (1, '/photos', null)")
        db.execute(
            "insert into images (root_id, relative, folder, name, size_bytes, mtime_ns, content_hash, format, width, "
            "height, indexed_at_ns) values (1, 'Serengeti/IMG_2041.jpg', 'Serengeti', 'IMG_2041.jpg', 1, 1, 'h', "
            "'JPEG', 1, 1, 1)"
        )
        db.execute("insert into captions (image_id, source, text, best) values (1, 'user', 'two zebras', 0)")
        db.execute("insert into texts (rowid, name, captions) values (1, 'IMG 2041', 'two zebras')")
    return tmp_path / "older"


def test_an_older_library_gains_names_and_folders_when_it_is_opened_for_writing(older):
    with open_store(older) as store:
        for text in ("serengeti", "IMG_2041", "img2041", "zebra"):
            assert [row for row, _ in store.match(text, 5)] == [1], text
        assert store.get([1])[0].info.facts == Facts()
    assert version(older) == database.SCHEMA_VERSION


def test_an_older_library_that_is_only_read_answers_as_it_is(older):
    with open_store(older, read_only=True) as store:
        assert [row for row, _ in store.match("zebras", 5)] == [1]
        assert store.holding(["2041"]).tolist() == [1]
        assert store.match("serengeti", 5) == []
        (record,) = store.scan(where="width = 1")
        assert record.info.facts == Facts()
    assert version(older) == 5


def test_a_migration_that_fails_leaves_the_library_as_it_was(settings_only, monkeypatch):
    def fail_halfway(db):
        db.execute("create table half (x)")
        db.execute("insert into nowhere values (1)")

    with monkeypatch.context() as patched:
        append_step(patched, fail_halfway)
        with pytest.raises(StoreError, match="nowhere"):
            open_store(settings_only)
    with closing(sqlite3.connect(settings_only / "library.db")) as db:
        assert db.execute("select count(*) from sqlite_master where name = 'half'").fetchone() == (0,)
    assert version(settings_only) == database.SCHEMA_VERSION
    with open_store(settings_only) as store:
        assert store.setting("model") == "starter"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_library_is_refused_and_not_touched(settings_only, read_only):
    with closing(sqlite3.connect(settings_only / "library.db")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(
        StoreError,
        match=rf"schema version 99; .* knows versions up to {database.SCHEMA_VERSION}\. .* --upgrade sightline-images`",
    ):
        open_store(settings_only, read_only=read_only)
    assert version(settings_only) == 99


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


def test_a_library_damaged_in_its_middle_says_so(settings_only):
    with open_store(settings_only) as store:
        for i in range(300):
            store.set_setting(f"name {i:04}", "x" * 500)
    file = settings_only / "library.db"
    content = bytearray(file.read_bytes())
    content[4096 : len(content)] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), open_store(settings_only) as store:
        store.setting("name 0001")
    with pytest.raises(StoreError, match="damaged"):
        database.check_integrity(file)


def test_tables_refuse_what_would_break_them(settings_only):
    with closing(sqlite3.connect(settings_only / "library.db")) as db:
        db.execute("pragma foreign_keys = on")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            db.execute("insert into captions (image_id, source, text, best) values (1, 'user', 'x', 0)")
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            db.execute("insert into captions (image_id, source, text, best) values (1, 'someone', 'x', 0)")

"""The derived matrix: exact enough, fresh, and replaceable at any time.

Covers: sightline.core.store.vectors.
"""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sightline.core.store import matrix, sqlite
from sightline.core.store.base import Entry
from sightline.core.store.matrix import quantise, read_matrix
from sightline.core.store.sqlite import open_store
from sightline.core.types import Embedding, ImageInfo, ImageRecord, ModelIdentity
from sightline.errors import StoreError

DIM = 64


def normalised(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count, *, seed=0):
    return normalised(np.random.default_rng(seed).standard_normal((count, DIM)))


def entries(vectors, *, first=0):
    info = ImageInfo(width=1, height=1, format="JPEG")
    return [
        Entry(
            image=ImageRecord(
                root=Path("/photos"),
                relative=f"{first + i}.jpg",
                size_bytes=first + i,
                mtime_ns=1,
                content_hash=str(first + i),
                info=info,
            ),
            embeddings=[Embedding(model="m", vector=vector)],
        )
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture
def library(tmp_path):
    with open_store(tmp_path / "library") as store:
        store.add_model(ModelIdentity(name="m", weights_hash="w", preprocessing_version=1, dim=DIM))
        store.upsert(entries(random_vectors(200)))
    return tmp_path / "library"


@pytest.fixture
def file(library):
    return library / "vectors" / "1.matrix"


@pytest.fixture
def fetched(monkeypatch):
    """How many vectors each rebuild read from SQLite."""
    counts = []
    quantise_rows = matrix.quantise

    def counting(vectors):
        if len(vectors) > 1:  # a single row is a query
            counts.append(len(vectors))
        return quantise_rows(vectors)

    monkeypatch.setattr(matrix, "quantise", counting)
    return counts


def check(store, *, count=200):
    """Every stored vector finds its own row first."""
    ids, stored = store.vectors("m")
    assert len(ids) == count
    for position in range(0, count, max(1, count // 10)):
        assert store.query(stored[position], 1, model="m")[0] == (ids[position], pytest.approx(1, abs=1e-5))


def make_clusters(rng):
    """Tight clusters around a common mean with one dominant dimension: what CLIP's embeddings look like."""
    centres = rng.standard_normal((100, DIM))
    rows = centres[rng.integers(0, 100, 5000)] + 0.5 * rng.standard_normal((5000, DIM)) + 0.7
    rows[:, 13] += 8
    return rows


@pytest.fixture(scope="module", params=[lambda rng: rng.standard_normal((5000, DIM)), make_clusters])
def large(request, tmp_path_factory):
    rows = normalised(request.param(np.random.default_rng(3)))
    with open_store(tmp_path_factory.mktemp("large")) as store:
        store.add_model(ModelIdentity(name="m", weights_hash="w", preprocessing_version=1, dim=DIM))
        ids = np.array(store.upsert(entries(rows)))
        yield store, ids, rows


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (None, slice(0, 5000)),
        ("size_bytes >= 2500", slice(2500, 5000)),
        ("size_bytes between 100 and 299", slice(100, 300)),
    ],
)
def test_recall_at_10_is_that_of_brute_force(large, where, kept):
    store, ids, rows = large
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(40):
        query = normalised(rows[rng.integers(5000)][None] + 0.1 * rng.standard_normal((1, DIM)))[0]
        best = ids[kept][np.argsort(-(rows[kept] @ query))[:10]]
        found += len({id_ for id_, _ in store.query(query, 10, model="m", where=where)} & set(best.tolist()))
    assert found / 400 >= 0.99


def test_candidates_are_ranked_again_in_half_precision(library):
    with open_store(library) as store:
        ids, stored = store.vectors("m")
        query = random_vectors(1, seed=9)[0]
        exact = stored @ query
        hits = store.query(query, 200, model="m")
        assert [id_ for id_, _ in hits] == ids[np.argsort(-exact, kind="stable")].tolist()
        np.testing.assert_allclose([cosine for _, cosine in hits], np.sort(exact)[::-1], atol=1e-6)


def test_quantised_rows_keep_direction_whatever_their_length():
    rows = random_vectors(100)
    np.testing.assert_array_equal(quantise(rows), quantise(rows * 0.37))
    assert np.abs(quantise(rows)).max(axis=1).tolist() == [127] * 100
    restored = normalised(quantise(rows).astype(np.float32))
    assert (restored * rows).sum(axis=1).min() > 0.9995


def test_ties_beyond_the_candidates_widen_the_scan(library, monkeypatch):
    monkeypatch.setattr(matrix, "MIN_CANDIDATES", 1)
    monkeypatch.setattr(matrix, "MAX_CANDIDATES_PER_RESULT", 1)
    twin = random_vectors(1, seed=8)
    with open_store(library) as store:
        ids = store.upsert(entries(np.repeat(twin, 30, axis=0), first=1000))
        assert [id_ for id_, _ in store.query(twin[0], 4, model="m")] == ids[:4]
        assert [id_ for id_, _ in store.query(twin[0], 4, model="m", where="size_bytes >= 1010")] == ids[10:14]


def test_the_matrix_is_kept_in_a_file_and_mapped_by_the_next_opening(library, file, fetched):
    with open_store(library) as store:
        check(store)
    assert fetched == [200]
    assert file.stat().st_size == 64 + 200 * (20 + DIM)
    with open_store(library, read_only=True) as store:
        check(store)
        (rows,) = store._matrices._loaded[1].blocks
        assert isinstance(rows, np.memmap)
    assert fetched == [200]


def test_only_changed_rows_are_read_again(library, fetched):
    with open_store(library) as store:
        check(store)
        store._matrices.wait()
        ids = store.upsert(entries(random_vectors(5, seed=1), first=10))
        store.upsert(entries(random_vectors(7, seed=2), first=500))
        store.delete([ids[0] + 100, ids[0] + 101])
        check(store, count=205)
    assert fetched == [200, 12]


def test_a_few_changes_leave_the_file_as_it_is_and_many_make_it_anew(library, file):
    with open_store(library) as store:
        check(store)
        store._matrices.wait()
        made = file.read_bytes()
        store.upsert(entries(random_vectors(12, seed=1), first=500))
        check(store, count=212)
        store._matrices.wait()
        assert file.read_bytes() == made
        store.upsert(entries(random_vectors(20, seed=2), first=600))
        check(store, count=232)
        store._matrices.wait()
        assert len(read_matrix(file, DIM).ids) == 232
        check(store, count=232)
        assert len(store._matrices._loaded[1].blocks) == 1, "the new file is used"
        store.delete(store.ids()[:32].tolist())
        check(store)
    assert len(read_matrix(file, DIM).ids) == 200


@pytest.fixture
def unread(library, monkeypatch):
    """A library of which searches read nothing into memory, and whose file is made only when this event is set."""
    go, write = threading.Event(), matrix.write_matrix

    def write_later(path, plan, db):
        assert go.wait(240)
        write(path, plan, db)

    monkeypatch.setattr(matrix, "READ_ROWS", 0)
    monkeypatch.setattr(matrix, "write_matrix", write_later)
    return go


def test_a_search_is_answered_in_full_while_the_matrix_is_made(library, file, unread):
    query, other = random_vectors(2, seed=7)
    with open_store(library) as store, open_store(library) as writer:
        ids, stored = store.vectors("m")
        expected = ids[np.argsort(-(stored @ query), kind="stable")].tolist()
        small = set(ids[:50].tolist())

        def ask(**how):
            return [id_ for id_, _ in store.query(query, 1000, model="m", **how)]

        assert ask() == expected
        assert ask(where="size_bytes < 50") == [id_ for id_ in expected if id_ in small]
        assert ask(exclude=expected[:150]) == expected[150:]
        assert not file.exists()
        (new,) = writer.upsert(entries(other[None], first=900))
        writer.delete(expected[:1])
        assert store.query(other, 1, model="m")[0][0] == new
        assert ask(exclude=[new]) == expected[1:]
        unread.set()
        store._matrices.wait()
        assert len(read_matrix(file, DIM).ids) == 200, "as it was when the building began"
        assert ask(exclude=[new]) == expected[1:]
        assert store._matrices._loaded[1].missing.tolist() == [new], "until the next file is there"
        assert store.query(other, 1, model="m")[0][0] == new


def test_one_file_is_made_at_a_time(library, unread):
    with open_store(library) as store:
        for _ in range(3):
            store.query(random_vectors(1)[0], 1, model="m")
        builders = [thread for thread in threading.enumerate() if thread.name == "sightline-matrix"]
        assert len(builders) == 1
        unread.set()


def test_a_model_dropped_while_its_matrix_is_made_leaves_no_file(library, file, unread):
    with open_store(library) as store:
        store.query(random_vectors(1)[0], 1, model="m")
        threading.Timer(0.05, unread.set).start()
        store.remove_model("m")
        assert not file.exists()


def test_a_writer_of_many_vectors_leaves_the_matrix_ready_for_the_next_process(library, file, monkeypatch):
    monkeypatch.setattr(sqlite, "READ_ROWS", 10)
    with open_store(library) as store:
        store.upsert(entries(random_vectors(10, seed=1), first=500))
    assert not file.exists(), "a few are read by the next search"
    with open_store(library) as store:
        store.upsert(entries(random_vectors(11, seed=2), first=600))
    assert len(read_matrix(file, DIM).ids) == 221


def test_a_newer_file_of_another_process_is_used(library, file, fetched):
    with open_store(library) as first, open_store(library) as second:
        check(first)
        first._matrices.wait()
        second.upsert(entries(random_vectors(50, seed=1), first=500))
        check(second, count=250)
        second._matrices.wait()
        assert len(read_matrix(file, DIM).ids) == 250
        before = list(fetched)
        check(first, count=250)
        assert fetched == before


def test_another_opening_sees_changes_and_deletions(library, fetched):
    with open_store(library) as writer, open_store(library, read_only=True) as reader:
        check(reader)
        reader._matrices.wait()  # what is built of an older state would read the new rows once more
        ids = writer.upsert(entries(random_vectors(3, seed=4), first=700))
        check(reader, count=203)
        writer.delete(ids)
        check(reader)
        assert fetched == [200, 3]


def damage_header(content):
    content[20] ^= 1


def damage_ids(content):
    content[64 + 5] ^= 1


def cut_short(content):
    del content[-1:]


def leave_nothing(content):
    content.clear()


def raise_version(content):
    content[8] = 99


@pytest.mark.parametrize("damage", [damage_header, damage_ids, cut_short, leave_nothing, raise_version])
def test_a_damaged_matrix_is_made_again(library, file, fetched, damage):
    with open_store(library) as store:
        check(store)
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)
    assert read_matrix(file, DIM) is None
    with open_store(library) as store:
        check(store)
    assert fetched == [200, 200]
    assert read_matrix(file, DIM) is not None


def test_a_missing_matrix_is_made_again(library, file):
    with open_store(library) as store:
        check(store)
    file.unlink()
    with open_store(library) as store:
        check(store)
    assert file.exists()
    assert read_matrix(file, DIM + 1) is None, "of another dimension"


def test_an_older_copy_of_the_library_is_not_answered_from_a_newer_matrix(library):
    database = library / "library.db"
    backup = database.read_bytes()
    with open_store(library) as store:
        store.upsert(entries(random_vectors(200, seed=1)))
        check(store)
    database.write_bytes(backup)
    with open_store(library) as store:
        store.upsert(entries(random_vectors(1, seed=2)))
        check(store)


def test_a_folder_that_cannot_be_written_keeps_the_matrix_in_memory(library, fetched):
    (library / "vectors").write_text("in the way", encoding="utf-8")
    with open_store(library) as store:
        check(store)
        store._matrices.wait()
        check(store)
        store.upsert(entries(random_vectors(2, seed=1), first=900))
        check(store, count=202)
    assert fetched == [200, 2]
    assert (library / "vectors").read_text(encoding="utf-8") == "in the way"


def test_a_disk_that_fills_while_the_matrix_is_written_leaves_no_debris(library, file, monkeypatch):
    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with open_store(library) as store:
        check(store)
        store._matrices.wait()
        check(store)
    assert list(file.parent.iterdir()) == []


def test_files_of_killed_writers_are_cleared_away_later(library, file):
    file.parent.mkdir()
    old, recent = file.parent / "1.matrix-old.tmp", file.parent / "1.matrix-recent.tmp"
    old.touch()
    recent.touch()
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    with open_store(library) as store:
        check(store)
    assert sorted(p.name for p in file.parent.iterdir()) == ["1.matrix", recent.name]


def test_a_dropped_models_matrix_goes_with_it(library, file):
    with open_store(library) as store:
        check(store)
        store._matrices.wait()
        assert file.exists()
        assert store.remove_model("m") == 200
        assert not file.exists()
        store.add_model(ModelIdentity(name="m", weights_hash="new", preprocessing_version=1, dim=DIM))
        assert store.query(random_vectors(1)[0], 5, model="m") == []
    assert list(file.parent.iterdir()) == []


def test_generations_only_grow_even_where_the_clock_goes_back(library, monkeypatch):
    with open_store(library) as store:
        check(store)
        monkeypatch.setattr(time, "time_ns", lambda: 5)
        store.upsert(entries(random_vectors(50, seed=6)))
        check(store)


def test_a_stored_vector_of_another_length_is_reported(library):
    with open_store(library) as store:
        with store._database.writing() as db:
            db.execute("update vectors set vector = x'0000' where image_id = 1")
        for use in (lambda: store.vectors("m"), lambda: store.query(random_vectors(1)[0], 1, model="m")):
            with pytest.raises(StoreError, match="damaged: a stored vector doesn't have 64 dimensions"):
                use()


def test_a_builder_that_meets_damage_leaves_the_error_to_the_search(library, file, unread):
    with open_store(library) as store:
        with store._database.writing() as db:
            db.execute("update vectors set vector = x'0000' where image_id = 1")
        unread.set()
        for _ in range(2):
            with pytest.raises(StoreError, match="damaged: a stored vector"):
                store.query(random_vectors(1)[0], 1, model="m")
            store._matrices.wait()
    assert list(file.parent.iterdir()) == []


def test_a_file_that_another_process_puts_there_meanwhile_is_not_taken_for_ours(library, file, monkeypatch):
    query = random_vectors(1)[0]
    with open_store(library) as store:
        store.query(query, 1, model="m")
        store._matrices.wait()
        older = file.read_bytes()
        store.upsert(entries(random_vectors(50, seed=1), first=200))
        write = matrix.write_matrix

        def write_and_lose(path, plan, db):
            write(path, plan, db)
            path.write_bytes(older)  # renamed over ours by a process whose snapshot was taken before the upsert

        monkeypatch.setattr(matrix, "write_matrix", write_and_lose)
        assert len(store.query(query, 1000, model="m")) == 250
        store._matrices.wait()
        assert len(store.query(query, 1000, model="m")) == 250
        assert len(store._matrices._loaded[1].blocks) == 1

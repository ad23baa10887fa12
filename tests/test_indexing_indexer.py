"""What indexing does with files that are new, changed, touched, moved, copied or gone.

Covers: sightline.core.indexing.report.
"""

import json
import os
import shutil
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest

from indexing_world import PooledEncoder, photo, photo_bytes, rows, touch, write_photo, write_photos
from sightline.core.indexing.indexer import index
from sightline.core.indexing.report import IndexConfig
from sightline.core.store.sqlite import open_store
from sightline.core.types import Caption, ModelIdentity
from sightline.errors import InputError, StoreError


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "library")
    yield store
    store.close()


@pytest.fixture
def encoder():
    return PooledEncoder()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def counts(report):
    return {name: count for name, count in report.counts.items() if count}


def vector_of(store, record, model="pooled"):
    return store.vectors(model, [record.id])[1][0]


def caption(store, record, text="a stripe of colours"):
    store.put_captions({record.id: [Caption(text=text, source="user", best=True)]})


def test_new_photos_get_rows_with_facts_and_vectors(store, encoder, folder):
    path = write_photo(folder / "trip" / "one.jpg", 1)
    report = index(store, encoder, [folder])
    assert counts(report) == {"added": 1, "embedded": 1}
    record = store.find_path(path)
    assert (record.root, record.relative) == (folder, "trip/one.jpg")
    assert (record.size_bytes, record.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert (record.info.width, record.info.height, record.info.format) == (48, 40, "JPEG")
    pixels = np.asarray(photo(1).resize((32, 32)))[None]
    assert float(vector_of(store, record) @ PooledEncoder().encode_images(pixels)[0]) > 0.99


def test_the_mixed_second_run_embeds_only_changed_pixels(store, encoder, folder):
    paths = write_photos(folder, 300)
    index(store, encoder, [folder])
    before = rows(store)
    encoder.batch_sizes.clear()
    for i, path in enumerate(paths[:5]):
        write_photo(path, 1000 + i)
    for path in paths[10:15]:
        touch(path)
    for path in paths[20:23]:
        path.unlink()
    for path in paths[30:32]:
        caption(store, before[path.name])
        path.rename(path.with_name(f"renamed-{path.name}"))
    report = index(store, encoder, [folder])
    assert encoder.encoded == 5
    expected = {"updated": 5, "touched": 5, "removed": 3, "renamed": 2, "unchanged": 285, "embedded": 5}
    assert counts(report) == expected
    after = rows(store)
    assert len(after) == 297
    for path in paths[30:32]:
        old, new = before[path.name], after[f"renamed-{path.name}"]
        assert old.id == new.id
        assert store.captions([new.id])[new.id][0].text == "a stripe of colours"
        np.testing.assert_array_equal(vector_of(store, new), vector_of(store, old))
    gone = {before[path.name].id for path in paths[20:23]}
    assert gone.isdisjoint(store.vectors("pooled")[0].tolist())


def test_unchanged_photos_are_not_opened(store, encoder, folder, monkeypatch):
    write_photos(folder, 50)
    index(store, encoder, [folder])
    monkeypatch.setattr("sightline.core.indexing.reading.FileReader._read", None)
    report = index(store, encoder, [folder])
    assert counts(report) == {"unchanged": 50}


def test_touched_photos_are_hashed_but_not_decoded(store, encoder, folder, monkeypatch):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    touch(path)
    monkeypatch.setattr("sightline.core.indexing.reading.read_image", None)
    assert counts(index(store, encoder, [folder])) == {"touched": 1}
    assert rows(store)[path.name].mtime_ns == path.stat().st_mtime_ns
    assert counts(index(store, encoder, [folder])) == {"unchanged": 1}


def test_changed_pixels_drop_other_models_vectors(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    index(store, PooledEncoder("second"), [folder])
    write_photo(path, 99)
    index(store, encoder, [folder])
    assert store.missing_vectors("pooled") == set()
    assert store.missing_vectors("second") == {rows(store)[path.name].id}


def test_copies_share_one_embedding_within_a_run_and_across_runs(store, encoder, folder):
    data = photo_bytes(7)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(data)
    assert counts(index(store, encoder, [folder])) == {"added": 1, "copied": 2, "embedded": 1}
    (folder / "d.jpg").write_bytes(data)
    assert counts(index(store, encoder, [folder])) == {"copied": 1, "unchanged": 3}
    assert encoder.encoded == 1
    vectors = [vector_of(store, record) for record in rows(store).values()]
    assert len(vectors) == 4
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])


def test_a_copy_takes_the_vectors_of_every_model(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    second = PooledEncoder("second")
    index(store, second, [folder])
    shutil.copyfile(path, folder / "copy.jpg")
    index(store, encoder, [folder])
    copy = rows(store)["copy.jpg"]
    for model in ("pooled", "second"):
        np.testing.assert_array_equal(vector_of(store, copy, model), vector_of(store, rows(store)[path.name], model))


def test_a_copys_vectors_say_how_they_were_computed(store, encoder, folder):
    [path] = write_photos(folder, 1)
    second = PooledEncoder("second")
    second.precision = "int8"
    index(store, second, [folder])
    shutil.copyfile(path, folder / "copy.jpg")
    index(store, encoder, [folder])
    with sqlite3.connect(store.folder / "library.db") as db:
        precisions = db.execute("select model_id, precision from vectors order by model_id, image_id").fetchall()
    db.close()
    assert precisions == [(1, "int8"), (1, "int8"), (2, "fp32"), (2, "fp32")]


def test_a_disk_that_comes_back_gets_the_captions_that_a_copy_took_over(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    caption(store, rows(store)[path.name])
    laptop, offline = folder.with_name("laptop"), folder.with_name("offline")
    shutil.copytree(folder, laptop)
    folder.rename(offline)
    assert counts(index(store, encoder, [laptop])) == {"renamed": 1}
    offline.rename(folder)
    assert counts(index(store, encoder, [folder])) == {"copied": 1}
    ids = [store.find_path(place / path.name).id for place in (folder, laptop)]
    assert [len(found) for found in store.captions(ids).values()] == [1, 1]


def test_two_copies_of_a_renamed_photo_are_one_rename_and_one_copy(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    old = rows(store)[path.name]
    shutil.copyfile(path, folder / "x.jpg")
    path.rename(folder / "y.jpg")
    assert counts(index(store, encoder, [folder])) == {"renamed": 1, "copied": 1}
    assert old.id in {record.id for record in rows(store).values()}
    assert len(store.vectors("pooled")[0]) == 2


def test_a_library_that_was_moved_keeps_its_rows(store, encoder, folder, monkeypatch):
    paths = write_photos(folder, 20)
    index(store, encoder, [folder])
    before = rows(store)
    caption(store, before[paths[0].name])
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    monkeypatch.setattr("sightline.core.indexing.reading.read_image", None)
    assert counts(index(store, encoder, [elsewhere])) == {"renamed": 20}
    after = rows(store)
    assert {name: record.id for name, record in after.items()} == {name: r.id for name, r in before.items()}
    assert {record.root for record in after.values()} == {elsewhere}
    assert store.captions([before[paths[0].name].id])[before[paths[0].name].id]


def test_photos_moved_between_two_given_folders_keep_their_rows(store, encoder, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    paths = write_photos(first, 3)
    write_photos(second, 3, first_seed=50)
    index(store, encoder, [first, second])
    moved = store.find_path(paths[0]).id
    paths[0].rename(second / "moved.jpg")
    assert counts(index(store, encoder, [first, second])) == {"renamed": 1, "unchanged": 5}
    assert store.find_path(second / "moved.jpg").id == moved


def test_a_photo_renamed_onto_another_keeps_its_row_and_the_other_goes(store, encoder, folder):
    first, second = write_photos(folder, 2)
    index(store, encoder, [folder])
    kept = rows(store)[first.name]
    caption(store, kept)
    first.rename(second)
    touch(second)
    assert counts(index(store, encoder, [folder])) == {"renamed": 1, "removed": 1}
    assert {name: record.id for name, record in rows(store).items()} == {second.name: kept.id}
    assert store.captions([kept.id])[kept.id]
    assert counts(index(store, encoder, [folder])) == {"unchanged": 1}


def test_a_folder_behind_a_link_is_the_same_folder(store, encoder, folder):
    write_photos(folder, 2)
    link = folder.with_name("link")
    link.symlink_to(folder, target_is_directory=True)
    index(store, encoder, [link])
    assert counts(index(store, encoder, [folder, link])) == {"unchanged": 2}


def test_photos_that_swap_names_keep_the_right_vectors_and_captions(store, encoder, folder):
    first, second = write_photos(folder, 2)
    index(store, encoder, [folder])
    old = {name: vector_of(store, record) for name, record in rows(store).items()}
    for name, record in rows(store).items():
        caption(store, record, name)
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)
    touch(first)
    touch(second)
    assert index(store, encoder, [folder]).renamed == 2
    after = rows(store)
    for now, before in ((first, second), (second, first)):
        np.testing.assert_array_equal(vector_of(store, after[now.name]), old[before.name])
        assert [c.text for c in store.captions([after[now.name].id])[after[now.name].id]] == [before.name]


def test_a_second_model_covers_all_known_images_and_leaves_the_first_alone(store, encoder, tmp_path):
    write_photos(tmp_path / "one", 5)
    write_photos(tmp_path / "two", 4, first_seed=30)
    index(store, encoder, [tmp_path / "one", tmp_path / "two"])
    ids, vectors = store.vectors("pooled")
    second = PooledEncoder("second")
    report = index(store, second, [tmp_path / "one"])
    assert second.encoded == 9
    assert counts(report) == {"unchanged": 5, "embedded": 9}
    assert store.missing_vectors("second") == set()
    np.testing.assert_array_equal(store.vectors("pooled")[1], vectors)
    np.testing.assert_array_equal(store.vectors("second")[0], ids)


def test_a_renamed_photo_gets_the_second_models_vector_at_once(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    path.rename(folder / "renamed.jpg")
    second = PooledEncoder("second")
    assert counts(index(store, second, [folder])) == {"renamed": 1, "embedded": 1}
    assert store.missing_vectors("second") == store.missing_vectors("pooled") == set()


def test_a_copy_of_what_lacks_the_second_models_vector_is_embedded_once(store, encoder, folder):
    [path] = write_photos(folder, 1)
    index(store, encoder, [folder])
    shutil.copyfile(path, folder / "copy.jpg")
    second = PooledEncoder("second")
    assert counts(index(store, second, [folder])) == {"copied": 1, "unchanged": 1, "embedded": 1}
    assert store.missing_vectors("second") == store.missing_vectors("pooled") == set()


def test_known_copies_get_a_second_models_vector_from_one_embedding(store, encoder, folder, monkeypatch):
    monkeypatch.setattr("sightline.core.indexing.indexer._MAX_ROWS", 1)
    write_photos(folder, 6)
    shutil.copyfile(folder / "photo-0000.jpg", folder / "zzz.jpg")
    index(store, encoder, [folder])
    second = PooledEncoder("second")
    config = IndexConfig(max_batch_size=1, readers=1)
    assert counts(index(store, second, [folder], config=config)) == {"unchanged": 7, "embedded": 6}
    assert store.missing_vectors("second") == set()


def test_another_identity_under_the_same_name_is_refused(store, encoder, folder):
    store.add_model(ModelIdentity(name="pooled", weights_hash="other", preprocessing_version=1, dim=32))
    with pytest.raises(StoreError):
        index(store, encoder, [folder])


def test_the_packages_own_model_sets_its_formers_vectors_aside(store, folder):
    write_photos(folder, 2)
    former = PooledEncoder("starter")
    index(store, former, [folder])
    newer = PooledEncoder("starter", weights="newer", source="package")
    report = index(store, newer, [folder])
    (aside,) = set(store.models()) - {"starter"}
    assert aside.startswith("starter@")
    assert store.models()["starter"] == newer.identity
    assert (len(store.vectors(aside)[0]), len(store.vectors("starter")[0]), report.embedded) == (2, 2, 2)
    assert f"kept as {aside}" in report.warnings[0]


@pytest.mark.parametrize("known", [False, True])
def test_a_folder_inside_another_makes_no_second_row(store, encoder, folder, known):
    write_photo(folder / "inner" / "one.jpg", 1)
    write_photo(folder / "two.jpg", 2)
    if known:
        index(store, encoder, [folder / "inner"])
    index(store, encoder, [folder, folder / "inner"])
    write_photo(folder / "inner" / "three.jpg", 3)
    report = index(store, encoder, [folder / "inner"])
    assert counts(report) == {"added": 1, "unchanged": 1, "embedded": 1}
    assert counts(index(store, encoder, [folder])) == {"unchanged": 3}
    assert sorted(record.path for record in store.scan()) == [
        folder / "inner" / "one.jpg",
        folder / "inner" / "three.jpg",
        folder / "two.jpg",
    ]


def test_indexing_a_part_forgets_only_what_is_gone_there(store, encoder, folder):
    inner = write_photos(folder / "inner", 3)
    outer = write_photos(folder, 3, first_seed=20)
    index(store, encoder, [folder])
    inner[0].unlink()
    outer[0].unlink()
    assert counts(index(store, encoder, [folder / "inner"])) == {"removed": 1, "unchanged": 2}
    assert counts(index(store, encoder, [folder])) == {"removed": 1, "unchanged": 4}


@pytest.mark.parametrize("how", ["emptied", "missing"])
def test_an_unmounted_disk_keeps_its_rows_and_says_so(store, encoder, folder, how):
    write_photos(folder, 4)
    index(store, encoder, [folder])
    shutil.rmtree(folder)
    if how == "emptied":
        folder.mkdir()
    report = index(store, encoder, [folder])
    assert counts(report) == {}
    assert "4 images are kept" in report.warnings[0]
    assert "--prune" in report.summary()
    assert len(rows(store)) == 4
    assert counts(index(store, encoder, [folder], config=IndexConfig(remove_missing="always"))) == {"removed": 4}
    assert rows(store) == {}


@pytest.mark.parametrize("how", ["empty", "hidden file", "dangling link", "stale link", "inner folder gone too"])
def test_an_unmounted_disk_inside_a_folder_keeps_its_rows_and_says_so(store, encoder, folder, how, monkeypatch):
    disk = folder.with_name("disk")
    write_photos(folder / "local", 2)
    write_photos(disk / "trip", 3, first_seed=20)
    (folder / "nas").symlink_to(disk)
    index(store, encoder, [folder])
    if how == "stale link":
        make_stale(monkeypatch, folder / "nas")
    else:
        shutil.rmtree(disk)
        if how != "dangling link":
            (folder / "nas").unlink()
            (folder / "nas").mkdir()
        if how == "hidden file":
            (folder / "nas" / ".not-mounted").touch()
        if how == "inner folder gone too":
            (folder / "nas" / "lost+found").mkdir()
    report = index(store, encoder, [folder])
    assert (report.unchanged, report.removed, len(rows(store))) == (2, 0, 5)
    if how == "stale link":
        assert report.skipped[0].path == folder / "nas"
        return
    assert f"{folder / 'nas'} is missing or has no image left" in report.warnings[0]
    assert "3 images" in report.warnings[0]
    assert index(store, encoder, [folder], config=IndexConfig(remove_missing="always")).removed == 3


def make_stale(monkeypatch, link):
    """Whatever asks for what lies behind the link gets an error, as of a network disk."""
    real_scandir, real_stat = os.scandir, os.stat

    class Entry:
        def __init__(self, entry):
            self.entry = entry

        def __getattr__(self, name):
            return getattr(self.entry, name)

        def is_dir(self, *, follow_symlinks=True):
            if self.entry.path == str(link) and follow_symlinks:
                raise OSError(116, "Stale file handle")
            return self.entry.is_dir(follow_symlinks=follow_symlinks)

    @contextmanager
    def scandir(path):
        with real_scandir(path) as entries:
            yield map(Entry, entries)

    def stat(path, **options):
        if str(path).startswith(str(link)):
            raise OSError(116, "Stale file handle")
        return real_stat(path, **options)

    monkeypatch.setattr("sightline.core.images.files.os.scandir", lambda path: ClosingScan(scandir(path)))
    monkeypatch.setattr("os.stat", stat)


class ClosingScan:
    def __init__(self, context):
        self.context = context

    def __enter__(self):
        return self.context.__enter__()

    def __exit__(self, *error):
        return self.context.__exit__(*error)

    def close(self):
        pass


def test_a_root_where_only_a_dangling_link_is_left_keeps_its_rows(store, encoder, folder):
    paths = write_photos(folder, 2)
    index(store, encoder, [folder])
    for path in paths:
        path.unlink()
    (folder / "x.jpg").symlink_to("nowhere.jpg")
    report = index(store, encoder, [folder])
    assert (report.removed, len(rows(store)), len(report.warnings)) == (0, 2, 1)


def test_a_disk_that_was_indexed_before_the_folder_around_it_keeps_its_rows(store, encoder, folder):
    write_photos(folder / "a", 2)
    write_photos(folder / "b", 3, first_seed=20)
    index(store, encoder, [folder / "a", folder / "b"])
    index(store, encoder, [folder])
    shutil.rmtree(folder / "b")
    (folder / "b").mkdir()
    report = index(store, encoder, [folder])
    assert (report.removed, len(report.warnings)) == (0, 1)


def test_a_folder_that_was_deleted_or_moved_is_forgotten_like_a_file(store, encoder, folder):
    write_photos(folder / "kept", 2)
    write_photos(folder / "deleted" / "deep", 3, first_seed=20)
    index(store, encoder, [folder])
    shutil.rmtree(folder / "deleted")
    assert counts(index(store, encoder, [folder])) == {"unchanged": 2, "removed": 3}
    (folder / "kept").rename(folder / "moved")
    report = index(store, encoder, [folder])
    assert (counts(report), report.warnings) == ({"renamed": 2}, [])


def test_a_folder_emptied_by_moving_its_photos_is_no_lost_disk(store, encoder, folder):
    paths = write_photos(folder / "inbox", 2)
    index(store, encoder, [folder])
    (folder / "sorted").mkdir()
    for path in paths:
        path.rename(folder / "sorted" / path.name)
    report = index(store, encoder, [folder])
    assert (counts(report), report.warnings) == ({"renamed": 2}, [])


class ActingEncoder(PooledEncoder):
    """Something happens in the middle of the run: before its first picture is encoded."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def encode_images(self, pixels_BHW3):
        if not self.batch_sizes:
            self.action()
        return super().encode_images(pixels_BHW3)


def test_a_file_that_comes_back_during_the_run_keeps_its_row(store, encoder, folder):
    path, _ = write_photos(folder, 2)
    index(store, encoder, [folder])
    path.rename(folder.with_name("held.jpg"))
    write_photos(folder / "new", 3, first_seed=20)
    report = index(store, ActingEncoder(lambda: folder.with_name("held.jpg").rename(path)), [folder])
    assert report.removed == 0
    assert store.find_path(path) is not None


def test_a_row_that_another_run_renamed_meanwhile_is_not_deleted(store, encoder, folder):
    path, _ = write_photos(folder, 2)
    index(store, encoder, [folder])
    caption(store, rows(store)[path.name])
    path.rename(folder.with_name("held.jpg"))
    write_photos(folder / "new", 3, first_seed=20)

    def index_elsewhere():
        folder.with_name("held.jpg").rename(folder / "back.jpg")
        with open_store(store.folder) as other:
            assert index(other, PooledEncoder(), [folder]).renamed == 1

    index(store, ActingEncoder(index_elsewhere), [folder])
    assert store.captions([rows(store)["back.jpg"].id])[rows(store)["back.jpg"].id]


@pytest.mark.parametrize("batch_size", [1, 64])
def test_rows_removed_during_the_run_do_not_end_it(store, encoder, folder, batch_size):
    changed = write_photos(folder, 3)
    index(store, encoder, [folder])
    write_photo(changed[0], 50)
    touch(changed[1])
    changed[2].rename(folder / "renamed.jpg")
    ids = [record.id for record in store.scan()]
    config = IndexConfig(max_batch_size=batch_size)
    index(store, ActingEncoder(lambda: store.delete(ids)), [folder], config=config)
    index(store, encoder, [folder])
    assert sorted(rows(store)) == ["photo-0000.jpg", "photo-0001.jpg", "renamed.jpg"]
    assert store.missing_vectors("pooled") == set()


def test_an_mtime_beyond_64_bits_is_no_obstacle(store, encoder, folder):
    path, other = write_photos(folder, 2)
    os.utime(path, ns=(0, 2**63 + 10**9))
    assert counts(index(store, encoder, [folder])) == {"added": 2, "embedded": 2}
    assert counts(index(store, encoder, [folder])) == {"unchanged": 2}
    assert counts(index(store, PooledEncoder("second"), [other.parent / "."]))["embedded"] == 2


def test_the_known_folders_can_be_indexed_after_one_was_moved(store, encoder, folder):
    write_photos(folder, 3)
    index(store, encoder, [folder])
    moved = folder.rename(folder.with_name("moved"))
    index(store, encoder, [moved])
    assert store.stats().roots == (moved,)
    assert counts(index(store, encoder, store.stats().roots)) == {"unchanged": 3}


def test_a_missing_folder_of_which_only_failures_are_known_ends_no_run(store, encoder, folder):
    write_photos(folder, 3)
    bad = folder.with_name("bad")
    bad.mkdir()
    (bad / "x.jpg").write_bytes(b"")
    index(store, encoder, [folder, bad])
    shutil.rmtree(bad)
    assert counts(index(store, encoder, store.stats().roots)) == {"unchanged": 3}


def test_rows_below_an_unreadable_folder_are_kept(store, encoder, folder, monkeypatch):
    write_photos(folder, 2)
    hidden = write_photo(folder / "private" / "deep" / "p.jpg", 9)
    index(store, encoder, [folder])
    real_scandir = os.scandir

    def scandir(path):
        if str(path) == str(folder / "private"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr("os.scandir", scandir)
    report = index(store, encoder, [folder])
    assert counts(report) == {"unchanged": 2, "skipped": 1}
    assert report.skipped[0].path == folder / "private"
    assert store.find_path(hidden) is not None


def test_an_unreadable_known_root_keeps_its_rows_while_others_are_indexed(store, encoder, tmp_path, monkeypatch):
    write_photos(tmp_path / "one", 2)
    write_photos(tmp_path / "two", 2, first_seed=9)
    index(store, encoder, [tmp_path / "one"])
    real_scandir = os.scandir

    def scandir(path):
        if str(path) == str(tmp_path / "one"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr("os.scandir", scandir)
    report = index(store, encoder, [tmp_path / "one", tmp_path / "two"])
    assert counts(report) == {"added": 2, "embedded": 2, "skipped": 1}
    assert len(list(store.scan())) == 4


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_what_is_no_folder_is_refused(store, encoder, folder, name):
    write_photo(folder / "file.jpg", 1)
    with pytest.raises(InputError, match=name):
        index(store, encoder, [folder / name])
    assert rows(store) == {}


def test_excluded_files_and_folders_are_left_out(store, encoder, folder):
    write_photo(folder / "keep" / "a.jpg", 1)
    write_photo(folder / "leave" / "b.jpg", 2)
    write_photo(folder / "deep" / "er" / "leave" / "c.jpg", 3)
    write_photo(folder / "leave.jpg", 4)
    write_photo(folder / "note.PNG", 5)
    (folder / "leave" / "dangling.jpg").symlink_to("nowhere.jpg")
    report = index(store, encoder, [folder], config=IndexConfig(exclude=("*/leave", "*.PNG")))
    assert counts(report) == {"added": 2, "embedded": 2}
    assert sorted(rows(store)) == ["keep/a.jpg", "leave.jpg"]
    assert counts(index(store, encoder, [folder], config=IndexConfig(exclude=(f"{folder}/keep/",))))["removed"] == 1


def test_a_file_that_changes_between_walk_and_reading_is_read_again_next_time(store, encoder, folder, monkeypatch):
    [path] = write_photos(folder, 1)
    from sightline.core.indexing.reading import FileReader

    read = FileReader._read

    def change_first(self, task, reading):
        write_photo(path, 77)
        touch(path)
        read(self, task, reading)

    monkeypatch.setattr(FileReader, "_read", change_first)
    index(store, encoder, [folder])
    monkeypatch.setattr(FileReader, "_read", read)
    assert counts(index(store, encoder, [folder])) == {"touched": 1}


def test_progress_counts_up_to_the_total_and_tells_the_time_left(store, encoder, folder):
    write_photos(folder, 60)
    events = []
    index(store, PooledEncoder(image_s=0.01), [folder], on_progress=events.append)
    assert events[-1].done == events[-1].total == events[-1].seen == events[-1].embedded == 60
    assert events[-1].seconds_left == 0
    middle = [event for event in events if event.total and 10 < event.done < event.total]
    assert middle
    assert all(event.images_per_s > 0 and event.seconds_left > 0 for event in middle)
    assert [event.done for event in events] == sorted(event.done for event in events)


def test_the_report_says_where_the_time_went(store, encoder, folder):
    write_photos(folder, 10)
    report = index(store, encoder, [folder])
    assert set(report.stage_seconds) == {"walk", "read", "decode", "wait", "embed", "write"}
    assert all(seconds > 0 for seconds in report.stage_seconds.values())
    one_after_another = sum(report.stage_seconds[stage] for stage in ("walk", "wait", "embed", "write"))
    assert one_after_another <= report.seconds
    assert json.dumps(report.counts)

"""Where roots lie: overlaps, links, and libraries that were moved with their photos."""

import os
import shutil
from pathlib import Path

import pytest

from sightline.core.store.base import Entry, Failure
from sightline.core.store.rows import join_relative, path_from_sql, path_to_sql, split_relative, storable_text
from sightline.core.store.sqlite import open_store
from sightline.core.types import ImageInfo, ImageRecord
from sightline.errors import InputError


def entry(root, relative, **rest):
    info = ImageInfo(width=1, height=1, format="JPEG")
    return Entry(
        image=ImageRecord(
            root=root,
            relative=relative,
            size_bytes=1,
            mtime_ns=1,
            content_hash=ascii(relative),
            info=info,
            **rest,
        )
    )


def failure(root, relative):
    return Failure(root=root, relative=relative, size_bytes=1, mtime_ns=1, reason="empty file")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for sub in ("holiday/beach", "work"):
        (folder / sub).mkdir(parents=True)
    return folder


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "library") as store:
        yield store


def test_a_folder_inside_a_known_root_belongs_to_it(store, photos):
    assert store.resolve_root(photos) == (photos, "")
    (id_,) = store.upsert([entry(photos, "holiday/a.jpg")])
    assert store.resolve_root(photos) == (photos, "")
    assert store.resolve_root(photos / "holiday" / "beach") == (photos, "holiday/beach")
    assert store.upsert([entry(photos / "holiday", "a.jpg")]) == [id_]
    assert store.get([id_])[0].root == photos
    assert store.stats().roots == (photos,)


def test_a_folder_with_a_similar_name_is_another_root(store, photos):
    store.upsert([entry(photos / "work", "a.jpg")])
    assert store.resolve_root(photos / "work2") == (photos / "work2", "")
    store.upsert([entry(photos / "work2", "a.jpg")])
    assert len(store.stats().roots) == 2
    assert [r.root.name for r in store.scan(root=photos / "work")] == ["work"]


def test_a_parent_takes_in_the_roots_below_it(store, photos):
    odd = "odd\udcff/b.jpg"
    first, second = store.upsert([entry(photos / "holiday/beach", odd), entry(photos / "work", "c.jpg")])
    store.upsert([], failures=[failure(photos / "work", "sub/bad.jpg")])
    assert store.resolve_root(photos) == (photos, "")
    assert store.stats().roots == (photos,)
    assert [(r.id, r.root, r.relative) for r in store.scan()] == [
        (second, photos, "work/c.jpg"),
        (first, photos, f"holiday/beach/{odd}"),
    ]
    assert [(f.root, f.relative) for f in store.failures()] == [(photos, "work/sub/bad.jpg")]
    assert [r.id for r in store.scan(where=f"folder = '{photos}/work'")] == [second]
    assert store.upsert([entry(photos, "work/c.jpg")]) == [second]


def test_upsert_takes_roots_in_too_even_in_one_batch(store, photos):
    first, _, third = store.upsert(
        [entry(photos / "work", "a.jpg"), entry(photos, "b.jpg"), entry(photos, "work/a.jpg")]
    )
    assert first == third
    assert [r.relative for r in store.scan()] == ["b.jpg", "work/a.jpg"]
    assert store.stats().roots == (photos,)


def test_reading_only_answers_without_taking_in(store, photos, tmp_path):
    store.upsert([entry(photos / "work", "a.jpg")])
    with open_store(tmp_path / "library", read_only=True) as reader:
        assert reader.resolve_root(photos) == (photos, "")
        assert reader.stats().roots == (photos / "work",)


def test_links_lead_to_one_row(store, photos, tmp_path):
    (photos / "a.jpg").touch()
    link = tmp_path / "link"
    link.symlink_to(photos)
    root, prefix = store.resolve_root(link)
    assert (root, prefix) == (photos, "")
    (id_,) = store.upsert([entry(root, "a.jpg")])
    assert store.find_path(link / "a.jpg").id == id_
    assert store.find_path(photos / "work" / ".." / "a.jpg").id == id_
    assert store.find_path(tmp_path / "a.jpg") is None
    assert store.find_path(photos / "b.jpg") is None


def test_a_folder_is_scanned_by_way_of_a_link(store, photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    store.upsert([entry(photos, "work/a.jpg")])
    assert [record.relative for record in store.scan(root=tmp_path / "link" / "work")] == ["work/a.jpg"]


def test_a_path_that_no_file_can_have_is_not_found(store, photos):
    store.upsert([entry(photos, "a.jpg")])
    assert store.find_path(photos / "a\0b.jpg") is None
    assert list(store.scan(root=Path("/a\0b"))) == []


def test_a_log_that_another_process_ends_while_sizes_are_added_is_no_error(store, monkeypatch):
    (store.folder / "library.db-gone").symlink_to("nowhere")
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: True)  # it still was when the folder was listed
    assert store.stats().size_bytes > 0


def test_a_loop_of_links_is_a_root_like_any_other(store, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert store.resolve_root(tmp_path / "loop")[1] == ""


def test_relative_paths_and_the_file_systems_root_resolve(store, photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert store.resolve_root(Path("work")) == (photos / "work", "")
    (id_,) = store.upsert([entry(Path("/"), "photos/a.jpg")])
    assert store.resolve_root(photos) == (Path("/"), photos.relative_to("/").as_posix())
    assert [r.id for r in store.scan(where="path = '/photos/a.jpg' and folder = '/photos'")] == [id_]


def test_photos_with_their_library_inside_work_at_another_place(photos, tmp_path):
    with open_store(photos / ".library") as store:
        (id_,) = store.upsert([entry(photos, "work/a.jpg")])
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(photos, moved)
    with open_store(moved / ".library") as store:
        assert store.get([id_])[0].root == photos, "the old place still exists and comes first"
    shutil.rmtree(photos)
    with open_store(moved / ".library") as store:
        assert store.get([id_])[0].root == moved
        assert store.resolve_root(moved / "work") == (moved, "work")
        assert store.find_path(moved / "work/a.jpg").id == id_
        assert [r.id for r in store.scan(where=f"path = '{moved}/work/a.jpg'")] == [id_]
        assert store.upsert([entry(moved, "work/a.jpg", id=id_)]) == [id_]
        assert store.stats().extra["offline_roots"] == ()


def test_a_root_that_is_nowhere_keeps_its_path(photos, tmp_path):
    with open_store(tmp_path / "library") as store:
        (id_,) = store.upsert([entry(photos, "a.jpg")])
    shutil.rmtree(photos)
    shutil.move(tmp_path / "library", tmp_path / "far" / "away" / "library")
    with open_store(tmp_path / "far" / "away" / "library") as store:
        assert store.get([id_])[0].root == photos
        assert store.stats().extra["offline_roots"] == (photos,)


def test_a_library_opened_through_a_link_finds_its_photos_when_moved(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos / ".library", target_is_directory=True)
    with open_store(photos / ".library"):
        pass
    with open_store(tmp_path / "link") as store:
        (id_,) = store.upsert([entry(photos, "a.jpg")])
    shutil.move(photos, tmp_path / "moved")
    with open_store(tmp_path / "moved" / ".library") as store:
        assert store.get([id_])[0].root == tmp_path / "moved"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_root_of_any_name_is_found_again(store, tmp_path):
    root = tmp_path / "odd\udcff 'quoted' 100%"
    (id_,) = store.upsert([entry(root, "a.jpg")])
    assert store.get([id_])[0].root == root
    assert store.find_path(root / "a.jpg").id == id_
    assert [r.id for r in store.scan(root=root, where="name = 'a.jpg' and path like '%quoted%'")] == [id_]
    assert store.stats().roots == (root,)


def test_a_root_made_by_a_failed_batch_is_forgotten(store, photos):
    with pytest.raises(Exception, match="not a file's path"):
        store.upsert([entry(photos, "a.jpg"), entry(photos, "")])
    assert store.stats().roots == ()
    store.upsert([entry(photos / "work", "a.jpg")])
    assert store.stats().roots == (photos / "work",)


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("a/b c.jpg", "a/b c.jpg"),
        ("雪.jpg", "雪.jpg"),
        ("line\nbreak", "line\nbreak"),
        ("odd\udcff.jpg", b"odd\xff.jpg"),
        ("雪\udce9", "雪".encode() + b"\xe9"),
        ("", ""),
    ],
)
def test_paths_become_text_or_bytes_and_come_back(path, stored):
    assert path_to_sql(path) == stored
    assert path_from_sql(stored) == path


def test_free_text_spells_out_what_is_no_unicode():
    assert storable_text("odd \udcff, ñ, 雪") == "odd \\udcff, ñ, 雪"


def test_relative_paths_are_split_joined_and_checked():
    assert split_relative("a/b/c.jpg") == ("a/b", "c.jpg")
    assert split_relative("..c.jpg") == ("", "..c.jpg")
    assert join_relative("a", "b/c") == "a/b/c"
    assert join_relative("", "b") == join_relative("b", "") == "b"
    with pytest.raises(InputError, match="not a file's path"):
        split_relative("a/../b.jpg")

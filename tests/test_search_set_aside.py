"""Copies set aside and put back: nothing is lost, whatever is in the way."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

import sightline as sl
from sightline.core.search import set_aside as room
from sightline.core.types import Caption
from sightline.errors import InputError
from web_world import write_image


@pytest.fixture
def photos(tmp_path):
    """Three equal files, a link and a hard link to the first, and two equal files that have one real one each."""
    photos = tmp_path / "photos"
    write_image(photos / "a.png", (200, 40, 40))
    (photos / "deep").mkdir()
    shutil.copy2(photos / "a.png", photos / "deep" / "a copy.png")
    shutil.copy2(photos / "a.png", photos / "deep" / "zwölf \udcff.png")
    (photos / "deep" / "link.png").symlink_to(photos / "a.png")
    write_image(photos / "alone.png", (20, 40, 200), seed=1)
    (photos / "deep" / "alone too.png").symlink_to("../alone.png")
    os.link(photos / "alone.png", photos / "deep" / "alone again.png")
    return photos


@pytest.fixture
def library(tmp_path, photos):
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        library.index(photos)
        yield library


def paths(library):
    return {record.path for record in library.store.scan()}


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"}


def test_one_file_by_several_names_is_no_group_and_links_are_marked(library, photos):
    (group,) = library.duplicates(exact_only=True)
    assert group.images[0].path == photos / "a.png"
    assert {image.path.name for image in group.images if image.id in group.links} == {"link.png"}
    assert [image.path.name for image in group.rest] == ["a copy.png", "zwölf \udcff.png"]
    assert [(g.kind, g.images) for g in library.duplicates()] == [("exact", group.images)]


def test_the_rest_is_moved_and_put_back_with_rows_and_captions(library, photos, tmp_path):
    before = {path: path.read_bytes() for path in files(photos)}
    copy = library.store.find_path(photos / "deep" / "a copy.png")
    own = Caption(text="the wall", source="user", best=True)
    library.store.put_captions({copy.id: [own]})
    report = library.set_aside(library.duplicates(exact_only=True), tmp_path / "aside")
    assert {to.relative_to(tmp_path / "aside").as_posix() for _, to in report.moved} == {
        "deep/a copy.png",
        "deep/zwölf \udcff.png",
    }
    assert (photos / "deep" / "link.png").read_bytes() == before[photos / "a.png"], "the link leads nowhere"
    assert paths(library) == files(photos)
    kept = library.store.find_path(photos / "a.png")
    assert library.store.captions([kept.id])[kept.id] == [own], "the user's words went with a copy"
    undone = library.undo_set_aside(report.log)
    assert (len(undone.moved), undone.left) == (2, [])
    assert {path: path.read_bytes() for path in files(photos)} == before
    back = library.store.find_path(photos / "deep" / "a copy.png")
    assert library.store.captions([back.id])[back.id][0].text == "the wall"
    assert library.store.missing_vectors("starter") == set(), "the kept copy had the vector"
    assert library.index().counts["unchanged"] == len(before)
    assert library.undo_set_aside(report.log).moved == []


def test_rows_follow_within_the_indexed_folder_and_names_that_are_taken_get_a_number(library, photos):
    aside = photos / "aside"
    write_image(aside / "deep" / "a copy.png", (9, 9, 9), seed=3)
    row = library.store.find_path(photos / "deep" / "a copy.png")
    report = library.set_aside(library.duplicates(exact_only=True), aside)
    assert library.store.find_path(aside / "deep" / "a copy (2).png").id == row.id
    report_again = library.set_aside(library.duplicates(exact_only=True), aside)
    assert (report_again.moved, report_again.left, report_again.log.exists()) == ([], [], False)
    library.undo_set_aside(report.log)
    assert library.store.find_path(photos / "deep" / "a copy.png").id == row.id
    assert (aside / "deep" / "a copy.png").exists()


def test_what_changed_what_is_linked_to_and_what_has_lost_its_twin_stays(library, photos, tmp_path):
    groups = library.duplicates(exact_only=True)
    (photos / "deep" / "a copy.png").write_bytes(b"something else")
    left = dict(library.set_aside(groups, tmp_path / "aside").left)
    assert left == {photos / "deep" / "a copy.png": "it isn't there, or has changed: index again"}
    (photos / "a.png").unlink()
    report = library.set_aside(groups, tmp_path / "elsewhere")
    assert report.moved == []
    assert {reason for _, reason in report.left} == {"the one to keep isn't there, or has changed: index again"}


def test_a_file_that_a_link_leads_to_stays(library, photos, tmp_path):
    (photos / "deep" / "link to the copy.png").symlink_to(photos / "deep" / "a copy.png")
    library.index()
    report = library.set_aside(library.duplicates(exact_only=True), tmp_path / "aside")
    assert report.left == [(photos / "deep" / "a copy.png", "the library has a link to it")]


def test_a_folder_that_holds_the_librarys_own_is_refused(library, photos, tmp_path):
    for folder in (photos, tmp_path):
        with pytest.raises(InputError, match="holds the library's own images"):
            library.set_aside(library.duplicates(exact_only=True), folder)
    assert not list(tmp_path.glob("*.jsonl"))


def test_another_disk_gets_a_whole_copy_or_nothing(library, photos, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(Path, "replace", refuse)
    groups = library.duplicates(exact_only=True)
    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfile", lambda source, to: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        report = library.set_aside(groups, tmp_path / "aside")
        assert (len(report.left), files(tmp_path / "aside")) == (2, set())
    mtime = (photos / "deep" / "a copy.png").stat().st_mtime_ns
    report = library.set_aside(groups, tmp_path / "aside")
    assert len(report.moved) == 2
    assert (tmp_path / "aside" / "deep" / "a copy.png").stat().st_mtime_ns == mtime
    assert len(library.undo_set_aside(report.log).moved) == 2


def test_ctrl_c_ends_after_a_file_and_the_log_has_what_was_moved(library, photos, tmp_path, monkeypatch):
    move = room._move

    def move_and_interrupt(source, reserved):
        move(source, reserved)
        os.kill(os.getpid(), 2)

    monkeypatch.setattr(room, "_move", move_and_interrupt)
    report = library.set_aside(library.duplicates(exact_only=True), tmp_path / "aside")
    assert (report.interrupted, len(report.moved)) == (True, 1)
    assert report.moved[0][0] not in paths(library)
    monkeypatch.setattr(room, "_move", move)
    assert len(library.undo_set_aside(report.log).moved) == 1
    assert paths(library) == files(photos)


def test_a_log_names_a_file_that_never_moved_and_one_whose_place_is_taken(library, photos, tmp_path):
    report = library.set_aside(library.duplicates(exact_only=True), tmp_path / "aside")
    (photos / "deep" / "a copy.png").write_bytes(b"new")
    undone = library.undo_set_aside(report.log)
    assert len(undone.moved) == 1
    assert "something else lies at" in undone.left[0][1]
    assert (tmp_path / "aside" / "deep" / "a copy.png").exists()


@pytest.mark.parametrize("text", ["", "no json", json.dumps({"sightline": "files set aside", "version": 2}), "[1]"])
def test_what_is_no_log_is_refused(library, tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="no log of files that were set aside"):
        library.undo_set_aside(tmp_path / "log.jsonl")


def test_a_folder_that_can_not_be_written_is_refused(library, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"can't be moved to .*Name a folder that you may write"):
        library.set_aside([], tmp_path / "file" / "aside")

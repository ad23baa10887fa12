import errno
import os
import resource
from pathlib import Path

import pytest

from captioning_fakes import dual
from sightline.core.captioning.writers import SidecarWriter, open_writer
from sightline.errors import InputError, StoreError


def photos(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_the_best_caption_lies_beside_the_photo_under_its_stem(tmp_path):
    (photo,) = photos(tmp_path, "photo.jpg")
    with open_writer("txt") as writer:
        writer.write(dual(photo, "ein Käse"))
    assert (tmp_path / "photo.txt").read_bytes() == "ein Käse\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg", "photo.txt"]


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("a.jpg", "A.PNG"), ("IMG.v2.jpg", "img.V2.gif")])
def test_photos_with_one_stem_each_have_a_file_of_their_own(tmp_path, names):
    paths = photos(tmp_path, *names, "b.jpg")
    for order in (paths, paths[::-1]):
        with open_writer("txt", existing="replace") as writer:
            for path in order:
                writer.write(dual(path, f"this is {path.name}"))
        for name in names:
            assert (tmp_path / f"{name}.txt").read_text() == f"this is {name}\n"
        assert (tmp_path / "b.txt").exists()


def test_other_files_with_the_stem_are_no_photos(tmp_path):
    (photo, *_) = photos(tmp_path, "a.jpg", "a.json", "a.xmp")
    assert SidecarWriter(existing="refuse").target(photo) == tmp_path / "a.txt"


def test_an_image_without_an_image_name_is_never_its_own_sidecar(tmp_path):
    image, no_suffix = photos(tmp_path, "picture.txt", "IMG.2024")
    writer = SidecarWriter(existing="replace")
    assert writer.target(image) == tmp_path / "picture.txt.txt"
    assert writer.target(no_suffix) == tmp_path / "IMG.2024.txt"


def test_where_a_folder_cannot_be_listed_full_names_are_safe(tmp_path):
    assert SidecarWriter(existing="refuse").target(tmp_path / "gone" / "a.jpg") == tmp_path / "gone" / "a.jpg.txt"


def test_strange_names_work(tmp_path):
    names = ["new\nline.jpg", 'a, b "c".jpg', os.fsdecode(b"caf\xe9.jpg")]
    with open_writer("txt") as writer:
        for photo in photos(tmp_path, *names):
            writer.write(dual(photo, "x"))
    for name in names:
        assert (tmp_path / name).with_suffix(".txt").read_text() == "x\n"


def test_existing_captions_are_refused_skipped_or_replaced(tmp_path):
    paths = photos(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(InputError, match=r"1 of 2 photos .*/a\.txt\. Keep these with --skip-existing"):
        open_writer("txt").plan(paths)
    skipping = open_writer("txt", existing="skip")
    plan = skipping.plan(paths)
    assert (plan.todo, plan.existing) == ((tmp_path / "b.jpg",), 1)
    for writer in (skipping, open_writer("txt")):
        with pytest.raises(InputError, match=r"a\.txt exists"):
            writer.write(dual(paths[0]))
    assert (tmp_path / "a.txt").read_text() == "mine"
    with open_writer("txt", existing="replace") as writer:
        assert writer.plan(paths).todo == tuple(paths)
        writer.write(dual(paths[0]))
    assert (tmp_path / "a.txt").read_text() == "a dog\n"


def test_a_second_run_has_nothing_to_do(tmp_path):
    paths = photos(tmp_path, "a.jpg", "a.png", "b.jpg")
    for todo in (3, 0):
        with open_writer("txt", existing="skip") as writer:
            plan = writer.plan(paths)
            assert len(plan.todo) == todo
            assert plan.existing == 3 - todo
            for path in plan.todo:
                writer.write(dual(path))


def test_another_folder_mirrors_the_one_that_was_given(tmp_path):
    paths = photos(tmp_path / "in", "a.jpg") + photos(tmp_path / "in" / "sub", "a.jpg")
    with open_writer("txt", tmp_path / "out", roots=[tmp_path / "in"]) as writer:
        for path in writer.plan(paths).todo:
            writer.write(dual(path, path.parent.name))
    assert (tmp_path / "out" / "a.txt").read_text() == "in\n"
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "sub\n"


def test_several_given_folders_are_told_apart_by_name(tmp_path):
    first, second = photos(tmp_path / "x", "a.jpg") + photos(tmp_path / "y", "a.jpg")
    writer = SidecarWriter(tmp_path / "out", roots=(tmp_path / "x", tmp_path / "y", first), existing="refuse")
    assert writer.target(first) == tmp_path / "out" / "x" / "a.txt"
    assert writer.target(second) == tmp_path / "out" / "y" / "a.txt"


def test_photos_of_different_folders_never_share_a_file(tmp_path):
    paths = photos(tmp_path / "x", "a.jpg") + photos(tmp_path / "y", "a.jpg")
    with pytest.raises(InputError, match=r"Several photos would share .*out/a\.txt"):
        open_writer("txt", tmp_path / "out").plan(paths)


def test_the_output_must_not_be_a_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file; text files of captions need a folder"):
        open_writer("txt", tmp_path / "out")


def test_a_full_disk_leaves_the_old_caption_and_no_rubbish(tmp_path):
    (photo,) = photos(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = open_writer("txt", existing="replace")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
        with pytest.raises(StoreError, match=r"can't be written to .*a\.txt: File too large.*--skip-existing"):
            writer.write(dual(photo, "a long caption"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.txt"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(self, *, parents, exist_ok):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="Read-only file system"):
        open_writer("txt", tmp_path / "out").write(dual(tmp_path / "a.jpg"))

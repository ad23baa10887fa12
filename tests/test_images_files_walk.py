import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sightline.core.images import files as walk_module
from sightline.core.images.files import walk_images
from sightline.errors import InputError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def walk(root):
    problems = {}
    files = list(walk_images(root, on_problem=lambda path, reason: problems.setdefault(path, reason)))
    return files, problems


def names(root):
    files, problems = walk(root)
    assert problems == {}
    return [file.relative for file in files]


def test_images_come_by_folder_and_name_and_other_files_do_not(tmp_path):
    make(tmp_path, "b.jpg", "a.PNG", "notes.txt", "z/1.gif", "c/2.webp", "c/1.bmp", "c/d/0.tiff", "README")
    assert names(tmp_path) == ["a.PNG", "b.jpg", "c/1.bmp", "c/2.webp", "c/d/0.tiff", "z/1.gif"]


def test_a_found_file_tells_size_time_and_place(tmp_path):
    make(tmp_path, "deep/er/x.jpg")
    os.utime(tmp_path / "deep/er/x.jpg", ns=(1, 1_700_000_000_123_456_789))
    [file] = walk(tmp_path)[0]
    assert file.path == tmp_path / "deep" / "er" / "x.jpg"
    assert (file.relative, file.size_bytes, file.mtime_ns) == ("deep/er/x.jpg", 13, 1_700_000_000_123_456_789)


def test_the_walk_streams(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    stream = walk_images(tmp_path, on_problem=lambda path, reason: None)
    assert next(stream).relative == "a/1.jpg"
    make(tmp_path, "b/3.jpg")
    assert [file.relative for file in stream] == ["b/2.jpg", "b/3.jpg"]


def test_hidden_and_system_folders_and_files_are_passed_over(tmp_path):
    make(tmp_path, ".hidden/a.jpg", "@eaDir/b.jpg", "x/__MACOSX/c.jpg", "._d.jpg", "$RECYCLE.BIN/e.jpg", "x/kept.jpg")
    assert names(tmp_path) == ["x/kept.jpg"]


def test_a_hidden_root_is_walked_since_it_was_asked_for(tmp_path):
    make(tmp_path, ".photos/a.jpg")
    assert names(tmp_path / ".photos") == ["a.jpg"]


def test_names_with_spaces_newlines_and_invalid_utf8_survive(tmp_path):
    if sys.platform != "linux":
        pytest.skip("only Linux file systems keep such names")
    odd = ["new\nline.jpg", " space .jpg", "quo\"te'.jpg", os.fsdecode(b"latin-\xe9\xff.jpg"), "grün/写真.jpg"]
    make(tmp_path, *odd)
    files, problems = walk(tmp_path)
    assert problems == {}
    assert {file.relative for file in files} == set(odd)
    for file in files:
        assert (tmp_path / file.relative).read_bytes() == os.fsencode(file.relative)
        assert file.path.read_bytes() == os.fsencode(file.relative)


def test_loops_of_links_end_and_folders_keep_their_real_path(tmp_path):
    make(tmp_path, "real/a.jpg", "other/b.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "again").symlink_to("real")
    (tmp_path / "other" / "x").symlink_to("../real")
    assert names(tmp_path) == ["other/b.jpg", "real/a.jpg"]


def test_folders_of_a_file_system_without_inode_numbers_are_told_apart(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "a")
    real_stat = os.stat

    def stat(path, **options):
        status = real_stat(path, **options)
        values = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**values | {"st_ino": 0})

    monkeypatch.setattr(os, "stat", stat)
    assert names(tmp_path) == ["a/1.jpg", "b/2.jpg"]


def test_a_link_into_a_network_disk_that_is_away_is_reported(tmp_path, monkeypatch):
    make(tmp_path, "ok.jpg")
    (tmp_path / "nas").symlink_to("loop")
    (tmp_path / "loop").symlink_to("nas")
    assert walk(tmp_path)[1] == {}, "a loop is nobody's disk"
    monkeypatch.setattr("sightline.core.images.files.errno.ELOOP", -1)
    assert set(walk(tmp_path)[1]) == {tmp_path / "nas", tmp_path / "loop"}


def test_links_to_folders_and_files_outside_are_followed(tmp_path):
    make(tmp_path, "outside/a.jpg", "outside/sub/b.jpg", "root/c.jpg", "single.png")
    (tmp_path / "root" / "a link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "d.png").symlink_to(tmp_path / "single.png")
    assert names(tmp_path / "root") == ["c.jpg", "d.png", "a link/a.jpg", "a link/sub/b.jpg"]


def test_broken_links_with_an_images_name_are_reported(tmp_path):
    make(tmp_path, "ok.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    files, problems = walk(tmp_path)
    assert [file.relative for file in files] == ["ok.jpg"]
    assert problems == {tmp_path / "gone.jpg": "dangling symlink", tmp_path / "loop.jpg": "symlink loop"}


def test_a_pipe_named_like_an_image_is_reported_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert walk(tmp_path) == ([], {tmp_path / "pipe.jpg": "not a regular file"})


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    make(tmp_path, "album.jpg/a.jpg")
    assert names(tmp_path) == ["album.jpg/a.jpg"]


def test_an_unreadable_folder_is_reported_and_the_rest_is_found(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "locked/2.jpg", "z/3.jpg")
    scandir = os.scandir

    def refuse(path):  # chmod would not keep root out
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files, problems = walk(tmp_path)
    assert [file.relative for file in files] == ["a/1.jpg", "z/3.jpg"]
    assert problems == {tmp_path / "locked": "permission denied"}


def test_a_folder_that_vanishes_during_the_walk_is_reported(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    problems = []
    stream = walk_images(tmp_path, on_problem=lambda path, reason: problems.append((path, reason)))
    assert next(stream).relative == "a/1.jpg"
    (tmp_path / "b" / "2.jpg").unlink()
    (tmp_path / "b").rmdir()
    assert list(stream) == []
    assert problems == [(tmp_path / "b", "no such file")]


def test_heic_without_its_extra_is_named_with_what_to_install(tmp_path, monkeypatch):
    make(tmp_path, "a.heic", "b.jpg")
    monkeypatch.setattr(walk_module, "missing_support", lambda name: "HEIC needs it" if name == "a.heic" else None)
    files, problems = walk(tmp_path)
    assert [file.relative for file in files] == ["b.jpg"]
    assert problems == {tmp_path / "a.heic": "HEIC needs it"}


def test_folders_deeper_than_pythons_recursion_limit_are_walked(tmp_path):
    levels = [tmp_path]
    while len(levels) <= sys.getrecursionlimit() + 50:
        levels.append(levels[-1] / "d")
        levels[-1].mkdir()
    (levels[-1] / "a.jpg").touch()
    try:
        assert names(tmp_path) == ["d/" * (len(levels) - 1) + "a.jpg"]
    finally:  # pytest's own cleaning recurses
        (levels[-1] / "a.jpg").unlink()
        for level in reversed(levels[1:]):
            level.rmdir()


def test_a_root_that_is_no_readable_folder_is_an_error_at_once(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="doesn't exist"):
        walk_images(tmp_path / "missing", on_problem=pytest.fail)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"not a folder; give the folder that holds it: .*test_a_root"):
        walk_images(tmp_path / "a.jpg", on_problem=pytest.fail)  # type: ignore[arg-type]

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="permission denied"):
        walk_images(tmp_path, on_problem=pytest.fail)  # type: ignore[arg-type]


def test_links_that_may_not_be_followed_are_problems(tmp_path):
    make(tmp_path, "root/a.jpg", "root/b/c.jpg", "out/d.jpg", "out/notes.txt")
    for name in ("link", "e.jpg", "fine.jpg", "text.txt"):
        target = {"link": "out", "e.jpg": "out/d.jpg", "fine.jpg": "root/a.jpg", "text.txt": "out/notes.txt"}[name]
        (tmp_path / "root" / name).symlink_to(tmp_path / target)
    asked, problems = [], {}

    def may_follow(link):
        asked.append(link.name)
        return link.name == "fine.jpg"

    found = walk_images(tmp_path / "root", on_problem=problems.__setitem__, may_follow=may_follow)
    assert [file.relative for file in found] == ["a.jpg", "fine.jpg", "b/c.jpg"]
    assert sorted(asked) == ["e.jpg", "fine.jpg", "link"]
    assert {path.name for path in problems} == {"e.jpg", "link"}
    assert all("leads out" in reason for reason in problems.values())


def test_what_a_library_keeps_is_passed_over_but_not_the_photos_beside_it(tmp_path):
    from sightline.core.store.sqlite import open_store

    make(tmp_path, "a.jpg", "lib/b.jpg", "lib/more/c.jpg", "lib/thumbnails/made.png", "lib/vectors/x.png")
    make(tmp_path, "thumbnails/of-no-library.jpg", "lib/more/vectors/mine.jpg")
    kept = ["a.jpg", "lib/b.jpg", "lib/more/c.jpg", "lib/more/vectors/mine.jpg", "thumbnails/of-no-library.jpg"]
    with open_store(tmp_path / "lib"):
        assert names(tmp_path) == kept, "while it is made"
    assert not (tmp_path / "lib" / "library.db-wal").exists()
    assert names(tmp_path) == kept
    assert names(tmp_path / "lib") == ["b.jpg", "more/c.jpg", "more/vectors/mine.jpg"]


@pytest.mark.parametrize("content", [b"", b"SIGH", b"SQLite format 3\0" + bytes(52) + b"OTHR", b"x" * 69 + b"SIGH"])
def test_another_programs_database_of_the_same_name_hides_nothing(tmp_path, content):
    make(tmp_path, "thumbnails/a.jpg", "b.jpg")
    (tmp_path / "library.db").write_bytes(content)
    assert names(tmp_path) == ["b.jpg", "thumbnails/a.jpg"]
    (tmp_path / "library.db").unlink()
    (tmp_path / "library.db").mkdir()
    assert names(tmp_path) == ["b.jpg", "thumbnails/a.jpg"]

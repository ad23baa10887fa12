"""The list of files to read."""

from pathlib import Path

import pytest

from sightline.core.indexing import plan
from sightline.core.indexing.plan import Exclusion, Scope, Task, TaskSpool
from sightline.errors import StoreError


def make_tasks(folder, count):
    return [
        Task(
            root=folder / ("one", "two")[i % 2],
            relative=f"inner/ünï-\udcff-{i}\n.jpg",
            size_bytes=i,
            mtime_ns=10**18 + i,
            row_id=i if i % 3 else None,
            needs_pixels=i % 5 == 0,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("memory_bytes", [2**20, 100])
def test_tasks_come_back_as_they_went_in(tmp_path, monkeypatch, memory_bytes):
    monkeypatch.setattr(plan, "_MEMORY_BYTES", memory_bytes)
    tasks = make_tasks(tmp_path, 30)
    kept = TaskSpool()
    for task in tasks:
        kept.append(task)
    assert kept.left == 30
    assert kept.take(7) == tasks[:7]
    assert kept.left == 23
    assert kept.take(100) == tasks[7:]
    assert (kept.left, kept.take(1)) == (0, [])
    kept.close()


def test_a_full_temporary_folder_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_MEMORY_BYTES", 10)
    kept = TaskSpool()

    def refuse(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    [task] = make_tasks(tmp_path, 1)
    with pytest.raises(StoreError, match="TMPDIR"):
        kept.append(task)
    kept.close()


def test_a_temporary_folder_that_is_full_at_the_end_is_the_same_error(tmp_path, monkeypatch):
    kept = TaskSpool()
    [task] = make_tasks(tmp_path, 1)
    kept.append(task)

    class FullFile:
        def seek(self, offset):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    kept.close()
    monkeypatch.setattr(kept, "_file", FullFile())
    with pytest.raises(StoreError, match="TMPDIR"):
        kept.take(1)
    kept.close()


def test_a_scope_turns_paths_below_its_root_into_paths_below_its_folder(tmp_path):
    part = Scope(tmp_path, "a/b")
    assert part.folder == tmp_path / "a" / "b"
    assert part.key_of("a/b/c/photo.jpg") == "c/photo.jpg"
    assert part.relative_of("c/photo.jpg") == "a/b/c/photo.jpg"
    whole = Scope(tmp_path)
    assert whole.key_of("a/photo.jpg") == whole.relative_of("a/photo.jpg") == "a/photo.jpg"
    assert whole.folder == tmp_path


FILES = ("raw/a.png", "raw/b.jpg", "trip/raw/deep/c.jpg", "trip/raw.jpg", "trip/drawer/d.jpg", "d[1]/e.jpg")


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("raw", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("*/raw", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/*", "raw/a.png raw/b.jpg trip/raw/deep/c.jpg"),
        ("raw/*.png", "raw/a.png"),
        ("[ab].*", "raw/a.png raw/b.jpg"),
        ("*.png", "raw/a.png"),
        ("trip/raw", "trip/raw/deep/c.jpg"),
        ("/home/raw/[photos]/raw", "raw/a.png raw/b.jpg"),
        ("/raw", ""),
        ("aw", ""),
        ("d[[]1]", "d[1]/e.jpg"),
    ],
)
def test_patterns_meet_files_and_the_folders_above_them(pattern, left_out):
    # the folder's own name is no part of what a relative pattern sees, whatever characters it has
    folder = Path("/home/raw/[photos]") if not pattern.startswith("/home") else Path("/home/raw/p")
    exclusion = Exclusion([pattern.replace("[photos]", "p")], folder)
    assert [file for file in FILES if file in exclusion] == left_out.split()

"""Nothing a folder contains stops a run: each file that can't be read is counted and named."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from indexing_world import PooledEncoder, photo, photo_bytes, rows, touch, write_photo, write_photos
from sightline.core.indexing.indexer import index
from sightline.core.indexing.reading import FileReader
from sightline.core.indexing.report import IndexConfig, IndexReport, SkippedFile
from sightline.core.store.sqlite import open_store


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "library")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def png_that_claims(width, height):
    """A valid header with nothing like enough pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def saved(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def fill_with_bad_files(folder):
    good = photo_bytes(1)
    bad = {
        "truncated.jpg": good[: len(good) // 2],
        "empty.jpg": b"",
        "text.jpg": b"Dear diary, this is no picture.\n" * 20,
        "bomb.png": png_that_claims(100_000, 100_000),
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    return {*bad, "dangling.jpg", "loop.jpg"}


def fill_with_odd_files(folder):
    small = photo(2)
    deep = np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30
    palette = small.convert("P")
    odd = {
        "cmyk.jpg": saved(small.convert("CMYK"), "JPEG"),
        "deep.png": saved(Image.fromarray(deep), "PNG"),
        "palette.png": saved(palette, "PNG", transparency=3),
        "animated.gif": saved(small, "GIF", save_all=True, append_images=[photo(3)]),
        "with space.jpg": photo_bytes(4),
        "new\nline.jpg": photo_bytes(5),
        "UPPER.JPEG": photo_bytes(6),
        "ünï-😀.webp": photo_bytes(7, file_format="WEBP"),
        os.fsdecode(b"broken-\xff\xfe.jpg"): photo_bytes(8),
        "really-a-png.jpg": photo_bytes(9, file_format="PNG"),
    }
    for name, data in odd.items():
        (folder / name).write_bytes(data)
    (folder / "around").symlink_to(folder, target_is_directory=True)
    return set(odd)


def test_a_folder_of_horrors_is_indexed_to_its_end(store, folder):
    bad, odd = fill_with_bad_files(folder), fill_with_odd_files(folder)
    report = index(store, PooledEncoder(), [folder])
    assert set(rows(store)) == odd
    assert {skipped.path.name for skipped in report.skipped} == bad
    assert report.counts["skipped"] == len(bad)
    assert report.added == report.embedded == len(odd)
    reasons = {skipped.path.name: skipped.reason for skipped in report.skipped}
    assert reasons["empty.jpg"] == "empty file"
    assert "text" in reasons["text.jpg"]
    assert "truncated" in reasons["truncated.jpg"]
    assert "too large" in reasons["bomb.png"]
    summary = report.summary()
    assert all(name in summary for name in bad)
    again = index(store, PooledEncoder(), [folder])
    assert (again.unchanged, len(again.skipped)) == (len(odd), len(bad))


def test_an_unchanged_failure_is_named_but_not_tried_again(store, folder, monkeypatch):
    (folder / "empty.jpg").write_bytes(b"")
    first = index(store, PooledEncoder(), [folder])
    assert [(f.relative, f.reason) for f in store.failures()] == [("empty.jpg", "empty file")]
    with monkeypatch.context() as patch:
        patch.setattr("sightline.core.indexing.reading.FileReader._read", None)
        assert index(store, PooledEncoder(), [folder]).skipped == first.skipped
    write_photo(folder / "empty.jpg", 1)
    assert index(store, PooledEncoder(), [folder]).added == 1
    assert store.failures() == []


def test_retry_failures_tries_again(store, folder, monkeypatch):
    (folder / "empty.jpg").write_bytes(b"")
    index(store, PooledEncoder(), [folder])
    read, really_read = [], FileReader._read

    def note(self, task, reading):
        read.append(task.relative)
        really_read(self, task, reading)

    monkeypatch.setattr(FileReader, "_read", note)
    index(store, PooledEncoder(), [folder], config=IndexConfig(retry_failures=True))
    assert read == ["empty.jpg"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (OSError(5, "Input/output error"), "disk or network read error"),
        (MemoryError(), "not enough memory to decode it"),
    ],
)
def test_what_may_pass_by_itself_is_tried_at_every_run(store, folder, monkeypatch, error, reason):
    [path] = write_photos(folder, 1)

    def refuse(self):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refuse)
        report = index(store, PooledEncoder(), [folder])
    assert report.skipped == [SkippedFile(path=path, reason=reason)]
    assert [failure.reason for failure in store.failures()] == [reason]
    assert index(store, PooledEncoder(), [folder]).added == 1
    assert store.failures() == []


def test_a_raised_pixel_limit_is_noticed(store, folder, monkeypatch):
    write_photos(folder, 1)
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "100")
    assert len(index(store, PooledEncoder(), [folder]).skipped) == 1
    monkeypatch.delenv("SIGHTLINE_MAX_PIXELS")
    assert index(store, PooledEncoder(), [folder]).added == 1


def test_a_photo_that_became_unreadable_keeps_its_row_until_it_is_gone(store, folder):
    path, other = write_photos(folder, 2)
    index(store, PooledEncoder(), [folder])
    old = rows(store)[path.name]
    path.write_bytes(photo_bytes(0)[:300])
    report = index(store, PooledEncoder(), [folder])
    assert [skipped.path for skipped in report.skipped] == [path]
    assert rows(store)[path.name] == old
    assert index(store, PooledEncoder(), [folder]).counts["skipped"] == 1
    path.unlink()
    report = index(store, PooledEncoder(), [folder])
    assert (report.removed, report.skipped) == (1, [])
    assert set(rows(store)) == {other.name}
    assert store.failures() == []


def test_a_photo_that_was_unreadable_for_a_while_is_only_touched(store, folder):
    [path] = write_photos(folder, 1)
    index(store, PooledEncoder(), [folder])
    data = path.read_bytes()
    path.write_bytes(data[:300])
    touch(path)
    index(store, PooledEncoder(), [folder])
    path.write_bytes(data)
    touch(path, seconds=20)
    report = index(store, PooledEncoder(), [folder])
    assert (report.touched, report.embedded) == (1, 0)
    assert store.failures() == []


def test_a_failure_that_passed_without_a_new_size_or_time_is_forgotten(store, folder, monkeypatch):
    [path] = write_photos(folder, 1)
    index(store, PooledEncoder(), [folder])
    touch(path)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "no")))
        index(store, PooledEncoder(), [folder])
    assert len(store.failures()) == 1
    touch(path, seconds=-10)
    assert index(store, PooledEncoder(), [folder]).unchanged == 1
    assert store.failures() == []


def test_failures_of_deleted_files_are_forgotten(store, folder):
    write_photos(folder, 1)
    (folder / "bad.jpg").write_bytes(b"")
    index(store, PooledEncoder(), [folder])
    (folder / "bad.jpg").unlink()
    assert index(store, PooledEncoder(), [folder]).skipped == []
    assert store.failures() == []


def test_large_files_are_hashed_in_pieces_and_read_by_the_decoder(store, folder, monkeypatch):
    paths = write_photos(folder, 3)
    monkeypatch.setattr("sightline.core.indexing.reading._LARGE_FILE_BYTES", 10)
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    assert index(store, PooledEncoder(), [folder]).added == 3
    monkeypatch.undo()
    for path in paths:
        touch(path)
    assert index(store, PooledEncoder(), [folder]).touched == 3


def test_a_bug_in_the_reader_is_not_taken_for_a_bad_file(store, folder, monkeypatch):
    write_photos(folder, 1)
    monkeypatch.setattr("sightline.core.indexing.reading.read_image", None)
    with pytest.raises(TypeError):
        index(store, PooledEncoder(), [folder])


def test_the_summary_names_files_on_one_line_each_and_no_more_than_asked(tmp_path):
    skipped = [SkippedFile(path=tmp_path / f"new\nline-{i}-\udcff.jpg", reason="empty file") for i in range(5)]
    report = IndexReport(added=1200, embedded=1200, skipped=skipped, seconds=10.0, warnings=["watch out"])
    lines = report.summary(max_named=2).splitlines()
    assert lines[0] == "1,200 added, 1,200 embedded, 5 skipped in 10.0 s (120 images/s)"
    assert lines[1] == "Could not be read: 5 empty file"
    assert lines[2] == f"  {tmp_path}/new\\nline-0-\\udcff.jpg: empty file"
    assert lines[4:] == ["  and 3 more", "Warning: watch out"]
    report.summary().encode("utf-8")

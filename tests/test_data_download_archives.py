"""Archives of publishers: resumed, checked, unpacked with care, and fetched once.

Covers: sightline.lab.data.download.resuming.
"""

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from dataclasses import replace

import pytest

from rude_server import RudeServer
from sightline.errors import InputError, SightlineError
from sightline.lab.data.download import archives
from sightline.lab.data.download.archives import (
    Archive,
    ArchiveOptions,
    Publisher,
    explain_unknown,
    get_archives,
    load_publishers,
    read_receipts,
    unpack_zip,
)
from sightline.lab.data.download.resuming import ResumeOptions, download_file

QUICK = ResumeOptions(timeout_s=60, tries=3, retry_wait_s=0.01)
BODY = bytes(range(256)) * 4000


@pytest.fixture
def server():
    with RudeServer() as running:
        running.files["/a.bin"] = BODY
        yield running


def make_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def download(server, target, path="/a.bin", *, options=QUICK):
    download_file(server.url + path, target, options=options)
    return target.read_bytes()


def test_a_file_comes_whole_and_progress_is_told(server, tmp_path):
    told = []
    download_file(f"{server.url}/a.bin", tmp_path / "a.bin", options=QUICK, on_bytes=lambda *words: told.append(words))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert told[-1][:2] == (len(BODY), len(BODY))
    assert "MB/s" in told[-1][2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_connection_that_breaks_is_continued_where_it_broke(server, tmp_path):
    server.break_after["/a.bin"] = [300_000, 200_000]
    assert download(server, tmp_path / "a.bin") == BODY
    assert server.ranges[0] is None
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] <= 300_000 < starts[1] <= 500_000


def test_an_interrupted_run_is_continued_by_the_next(server, tmp_path):
    server.break_after["/a.bin"] = [300_000] + [0] * 3
    with pytest.raises(SightlineError, match=r"3 times in a row.*same command again"):
        download(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    assert download(server, tmp_path / "a.bin") == BODY
    assert server.ranges[-1] != "bytes=0-"
    assert server.ranges[-1] is not None


def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path):
    server.break_after["/a.bin"] = [300_000] + [0] * 3
    with pytest.raises(SightlineError):
        download(server, tmp_path / "a.bin")
    server.files["/a.bin"] = BODY[::-1]
    assert download(server, tmp_path / "a.bin") == BODY[::-1]


def test_without_a_validator_nothing_is_continued(server, tmp_path):
    server.etags["/a.bin"] = 'W/"weak"'
    server.break_after["/a.bin"] = [300_000]
    assert download(server, tmp_path / "a.bin") == BODY
    assert server.ranges == [None, None]


def test_a_part_file_that_is_complete_already_only_takes_its_name(server, tmp_path):
    etag = f'"{hashlib.md5(BODY).hexdigest()}"'
    (tmp_path / ".a.bin.partial").write_bytes(BODY)
    version = {"url": f"{server.url}/a.bin", "validator": etag}
    (tmp_path / ".a.bin.partial.json").write_text(json.dumps(version))
    assert download(server, tmp_path / "a.bin") == BODY


def test_a_part_file_longer_than_the_servers_is_begun_anew(server, tmp_path):
    etag = f'"{hashlib.md5(BODY).hexdigest()}"'
    (tmp_path / ".a.bin.partial").write_bytes(BODY + b"more")
    version = {"url": f"{server.url}/a.bin", "validator": etag}
    (tmp_path / ".a.bin.partial.json").write_text(json.dumps(version))
    assert download(server, tmp_path / "a.bin") == BODY


def test_a_part_file_of_unknown_origin_is_not_used(server, tmp_path):
    (tmp_path / ".a.bin.partial").write_bytes(b"something else")
    assert download(server, tmp_path / "a.bin") == BODY


def test_a_server_that_stalls_is_given_up_after_some_tries(server, tmp_path):
    with pytest.raises(SightlineError, match="no answer in time, 3 times in a row"):
        download(server, tmp_path / "a.bin", "/mute", options=replace(QUICK, timeout_s=0.2))
    assert server.hits["/mute"] == 3


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    assert download(server, tmp_path / "a.jpg", "/busy-once/1.jpg")
    with pytest.raises(SightlineError, match=r"HTTP 404.*--mirror"):
        download(server, tmp_path / "b.jpg", "/gone")
    assert server.hits["/gone"] == 1


def test_an_address_that_is_not_http_is_refused(tmp_path):
    with pytest.raises(SightlineError, match="Only http and https"):
        download_file("ftp://example.com/a.zip", tmp_path / "a.zip", options=QUICK)


def make_publisher(server, content, **facts):
    server.files["/zips/val.zip"] = content
    archive = Archive(part="val", path="zips/val.zip", members="val/*", **facts)
    return Publisher(name="mini", title="Mini", page="-", licence="-", site=server.url, archives=(archive,))


def get(publisher, folder, **changes):
    return get_archives(publisher, folder, ArchiveOptions(resume=QUICK, **changes))


ZIP = make_zip({"val/1.jpg": b"one", "val/2.jpg": b"two", "readme.txt": b"no"})


def test_an_archive_is_unpacked_once_with_a_receipt(server, tmp_path):
    publisher = make_publisher(server, ZIP, size_bytes=len(ZIP), md5=hashlib.md5(ZIP).hexdigest())
    receipts = get(publisher, tmp_path / "mini")
    assert sorted(path.name for path in (tmp_path / "mini").iterdir()) == ["receipts.json", "val"]
    assert (tmp_path / "mini" / "val" / "2.jpg").read_bytes() == b"two"
    assert receipts["val.zip"].sha256 == hashlib.sha256(ZIP).hexdigest()
    assert receipts["val.zip"].files == 2
    assert get(publisher, tmp_path / "mini") == receipts
    assert server.hits["/zips/val.zip"] == 1


def test_images_that_were_deleted_come_back_and_must_be_the_same_archive(server, tmp_path):
    publisher = make_publisher(server, ZIP)
    get(publisher, tmp_path)
    (tmp_path / "val" / "1.jpg").unlink()
    get(publisher, tmp_path)
    assert (tmp_path / "val" / "1.jpg").read_bytes() == b"one"
    (tmp_path / "val" / "1.jpg").unlink()
    publisher = make_publisher(server, make_zip({"val/1.jpg": b"other"}))
    with pytest.raises(SightlineError, match=r"when it was fetched before \(receipts.json\)"):
        get(publisher, tmp_path)
    assert not (tmp_path / "val.zip").exists()


def test_an_archive_can_be_kept_and_is_not_fetched_again(server, tmp_path):
    publisher = make_publisher(server, ZIP)
    get(publisher, tmp_path, keep_archives=True)
    (tmp_path / "val" / "1.jpg").unlink()
    get(publisher, tmp_path, keep_archives=True)
    assert (tmp_path / "val.zip").read_bytes() == ZIP
    assert server.hits["/zips/val.zip"] == 1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"size_bytes": 5}, "has the size .*; 5 was expected"),
        ({"md5": "0" * 32}, "has the md5 .*was expected"),
        ({"sha256": "0" * 64}, "has the sha256 .*was expected"),
    ],
)
def test_an_archive_that_differs_from_what_is_known_is_refused(server, tmp_path, facts, message):
    with pytest.raises(SightlineError, match=message):
        get(make_publisher(server, ZIP, **facts), tmp_path)
    assert not (tmp_path / "val.zip").exists()
    assert not (tmp_path / "val").exists()


def test_an_archive_that_a_person_laid_there_is_never_deleted_for_being_wrong(server, tmp_path):
    (tmp_path / "val.zip").write_bytes(b"mine")
    with pytest.raises(SightlineError, match="was expected"):
        get(make_publisher(server, ZIP, size_bytes=len(ZIP)), tmp_path)
    assert (tmp_path / "val.zip").read_bytes() == b"mine"


def test_a_mirror_takes_the_place_of_the_publishers_site(server, tmp_path):
    publisher = make_publisher(server, ZIP)
    elsewhere = Publisher(**{**vars(publisher), "site": "http://127.0.0.1:9"})
    get(elsewhere, tmp_path, mirror=f"{server.url}/")
    assert (tmp_path / "val" / "1.jpg").is_file()


def test_an_unknown_part_and_a_damaged_receipt_are_refused(server, tmp_path):
    publisher = make_publisher(server, ZIP)
    with pytest.raises(InputError, match="its parts are val"):
        get(publisher, tmp_path, parts=("test",))
    (tmp_path / "receipts.json").write_text("[1]")
    with pytest.raises(InputError, match="damaged"):
        read_receipts(tmp_path)


def test_a_target_that_is_a_file_is_an_error(server, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SightlineError, match="can't be written"):
        get(make_publisher(server, ZIP), tmp_path / "out")


def write_zip(path, members):
    path.write_bytes(make_zip(members))
    return path


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"])
def test_members_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    archive = write_zip(tmp_path / "a.zip", {"good.txt": b"", name: b"evil"})
    (tmp_path / "out").mkdir()
    with pytest.raises(SightlineError, match="leads out of the folder"):
        unpack_zip(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write_zip(tmp_path / "a.zip", {link: "/etc/passwd"})
    with pytest.raises(SightlineError, match="no regular file"):
        unpack_zip(archive, tmp_path)


def test_two_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("a", "2")
    with pytest.raises(SightlineError, match="two members of one name"):
        unpack_zip(tmp_path / "a.zip", tmp_path)


def test_more_than_the_limits_is_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a": b"0" * 1000, "b": b""})
    monkeypatch.setattr(archives, "MAX_BYTES", 999)
    with pytest.raises(SightlineError, match="2 files of 1000 bytes"):
        unpack_zip(archive, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MAX_FILES", 1)
    with pytest.raises(SightlineError, match="2 files"):
        unpack_zip(archive, tmp_path)


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", {"a": b"0" * 1000})
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SightlineError, match="GB free"):
        unpack_zip(archive, tmp_path)


def test_a_flipped_bit_is_found_and_leaves_nothing_behind(tmp_path):
    content = bytearray(make_zip({"a/1": os.urandom(2000)}))
    content[900] ^= 1
    (tmp_path / "a.zip").write_bytes(bytes(content))
    with pytest.raises(SightlineError, match="damaged"):
        unpack_zip(tmp_path / "a.zip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_member_that_holds_more_than_it_says_is_found(tmp_path):
    content = make_zip({"a": b"0" * 5000})
    said = (5000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content.replace(said, (50).to_bytes(4, "little")))
    with pytest.raises(SightlineError, match="damaged"):
        unpack_zip(tmp_path / "a.zip", tmp_path)


def test_no_zip_and_no_such_members_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>sorry</html>")
    with pytest.raises(SightlineError, match="damaged"):
        unpack_zip(tmp_path / "a.zip", tmp_path)
    archive = write_zip(tmp_path / "b.zip", {"a": b""})
    with pytest.raises(SightlineError, match=r"holds no val/\*"):
        unpack_zip(archive, tmp_path, members="val/*")


def test_files_go_into_a_folder_that_is_there(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    unpack_zip(write_zip(tmp_path / "a.zip", {"notes/1.json": b"1", "notes/deep/2.json": b"2"}), tmp_path)
    assert sorted(path.name for path in (tmp_path / "notes").rglob("*")) == ["1.json", "2.json", "deep", "mine.txt"]


def test_publishers_are_known_and_those_for_people_say_what_to_do():
    assert {"coco", "cc3m", "cc12m", "flickr8k", "flickr30k"} == set(load_publishers())
    coco = load_publishers()["coco"]
    assert [archive.name for archive in coco.choose(())] == [
        "train2017.zip",
        "val2017.zip",
        "annotations_trainval2017.zip",
    ]
    assert [archive.part for archive in coco.choose(("val",))] == ["val"]
    assert "flickr8k/Images/*.jpg" in load_publishers()["flickr8k"].explain_by_hand()
    assert "Did you mean coco" in str(explain_unknown("coc"))

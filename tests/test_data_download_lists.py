"""Downloading lists of addresses into shards, and going on after whatever ended a run."""

import asyncio
import errno
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from rude_server import RudeServer, make_image
from sightline.errors import InputError, SightlineError
from sightline.lab.data import writing
from sightline.lab.data.download.fetching import FetchLimits, ImageLimits
from sightline.lab.data.download.lists import ListOptions, download_list

LIMITS = FetchLimits(
    connect_timeout_s=60.0,
    read_timeout_s=60.0,
    total_timeout_s=120.0,
    max_bytes=500_000,
    tries=2,
    retry_wait_s=0.01,
    allow_loopback=True,
)


@pytest.fixture
def server():
    with RudeServer() as running:
        yield running


def write_list(file, server, paths):
    rows = [f"picture {number} of {path}\t{server.url}{path}" for number, path in enumerate(paths)]
    file.write_text("\n".join(rows) + "\n")
    return file


def options(**changes):
    settings: dict[str, Any] = {"fetch": LIMITS, "connections": 8, "shard_size": 10} | changes
    return ListOptions(**settings)


def samples(folder):
    """Key -> suffix -> content, of all shards of a folder."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return found


def failures(folder):
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def leftovers(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_good_images_become_samples_with_their_caption_and_facts(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg", "/png/2.png", "/good/3.jpg"])
    report = download_list(urls, tmp_path / "out", options(shard_size=2))
    assert (report.pictures, report.failed, report.shards, report.interrupted) == (3, 0, 2, False)
    found = samples(tmp_path / "out")
    assert {key: set(members) for key, members in found.items()} == {
        "000000": {"jpg", "txt", "json"},
        "000001": {"png", "txt", "json"},
        "000010": {"jpg", "txt", "json"},
    }
    assert found["000000"]["jpg"] == make_image(1)
    assert found["000000"]["txt"] == b"picture 0 of /good/1.jpg"
    facts = json.loads(found["000000"]["json"])
    assert (facts["url"], facts["width"], facts["height"]) == (f"{server.url}/good/1.jpg", 60, 40)
    assert facts["sha256"] == hashlib.sha256(make_image(1)).hexdigest()
    assert report.size_bytes == sum(len(make_image(s, kind=f)) for s, f in ((1, "JPEG"), (2, "PNG"), (3, "JPEG")))
    assert leftovers(tmp_path / "out") == []


def test_a_list_is_downloaded_where_a_loop_runs_as_in_a_notebook(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg"])

    async def cell():
        return download_list(urls, tmp_path / "out", options())

    assert asyncio.run(cell()).pictures == 1


def test_every_kind_of_failure_is_logged_and_counted(server, tmp_path):
    paths = [
        "/good/1.jpg",
        "/gone",
        "/html/a.jpg",
        "/bomb",
        "/says-less",
        "/pixel",
        "/endless",
        "/to-private",
    ]
    urls = write_list(tmp_path / "list.tsv", server, paths)
    with urls.open("a") as file:
        file.write(f"no address\tnot-an-address\n \t{server.url}/good/2.jpg\none\ttwo\tthree\n")
    with urls.open("ab") as file:
        file.write(b"caf\xe9\t" + server.url.encode() + b"/good/3.jpg\n")
    report = download_list(urls, tmp_path / "out", options())
    assert report.pictures == 1
    assert report.reasons == {
        "HTTP 404": 1,
        "not an image (its content is text)": 1,
        "too large": 1,
        "truncated JPEG": 1,
        "too small": 1,
        "too many bytes": 1,
        "refused: the address is not public": 1,
        "refused: neither http nor https": 1,
        "no caption": 1,
        "wrong number of columns": 1,
        "not UTF-8": 1,
    }
    logged = failures(tmp_path / "out")
    assert {failure["row"] for failure in logged} == set(range(1, 12))
    assert next(failure for failure in logged if failure["row"] == 1) == {
        "row": 1,
        "url": f"{server.url}/gone",
        "reason": "HTTP 404",
    }
    assert next(failure for failure in logged if failure["row"] == 3)["reason"].startswith("too large: 40000 x 40000")


def test_what_stalls_is_logged_and_counted(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/stall"])
    report = download_list(urls, tmp_path / "out", options(fetch=replace(LIMITS, read_timeout_s=0.3)))
    assert report.reasons == {"timed out": 1}
    assert [failure["row"] for failure in failures(tmp_path / "out")] == [0]


def test_a_second_run_asks_for_nothing(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg", "/gone", "/good/2.jpg"])
    first = download_list(urls, tmp_path / "out", options(shard_size=2))
    before = dict(server.hits), samples(tmp_path / "out"), failures(tmp_path / "out")
    second = download_list(urls, tmp_path / "out", options(shard_size=2))
    assert (dict(server.hits), samples(tmp_path / "out"), failures(tmp_path / "out")) == before
    assert (second.pictures, second.failed, second.reasons) == (first.pictures, first.failed, first.reasons)


def test_ctrl_c_keeps_finished_shards_and_the_next_run_does_the_rest_once(server, tmp_path):
    paths = [f"/good/{number}.jpg" if number % 5 else "/gone" for number in range(20)]
    paths += [f"/slow/{number}.jpg" for number in range(20, 30)]
    urls = write_list(tmp_path / "list.tsv", server, paths)

    def interrupt(done, total, note):
        if done == 22:
            signal.raise_signal(signal.SIGINT)

    report = download_list(urls, tmp_path / "out", options(connections=4), on_progress=interrupt)
    assert report.interrupted
    assert (report.shards, report.rows) == (2, 20)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["00000.tar", "00001.tar"]
    assert leftovers(tmp_path / "out") == []
    again = download_list(urls, tmp_path / "out", options(connections=4))
    assert (again.rows, again.pictures, again.interrupted) == (30, 26, False)
    assert server.hits["/good/1.jpg"] == 1
    assert [failure["row"] for failure in failures(tmp_path / "out")] == [0, 5, 10, 15]


def test_what_a_kill_left_half_done_is_done_again(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg", "/gone", "/good/2.jpg", "/gone"])
    out = tmp_path / "out"
    whole = download_list(urls, out, options(shard_size=2))
    lines = (out / "progress.jsonl").read_text().splitlines(keepends=True)
    second = next(line for line in lines if json.loads(line)["shard"] == 1)
    first = next(line for line in lines if json.loads(line)["shard"] == 0)
    (out / "progress.jsonl").write_text(first + second[:20])  # killed while the last line was written
    (out / ".00001.tar.partial").write_bytes(b"half")
    again = download_list(urls, out, options(shard_size=2))
    assert (again.pictures, again.failed, again.reasons) == (whole.pictures, whole.failed, whole.reasons)
    assert sorted(failure["row"] for failure in failures(out)) == [1, 3]
    assert leftovers(out) == []
    assert server.hits["/good/1.jpg"] == 1
    assert server.hits["/good/2.jpg"] == 2


def test_a_shard_that_was_deleted_is_fetched_again(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg", "/good/2.jpg"])
    download_list(urls, tmp_path / "out", options(shard_size=1))
    (tmp_path / "out" / "00001.tar").unlink()
    report = download_list(urls, tmp_path / "out", options(shard_size=1))
    assert (report.pictures, len(samples(tmp_path / "out"))) == (2, 2)
    assert server.hits == {"/good/1.jpg": 1, "/good/2.jpg": 2}


def test_a_limited_run_can_be_continued_without_the_limit_and_loses_nothing_by_a_smaller_one(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg", "/gone", "/good/2.jpg", "/good/3.jpg"])
    out = tmp_path / "out"
    assert download_list(urls, out, options(limit=2)).pictures == 1
    full = download_list(urls, out, options())
    assert (full.rows, full.pictures, full.shards) == (4, 3, 1)
    assert [failure["row"] for failure in failures(out)] == [1]
    assert download_list(urls, out, options(limit=1)).pictures == 3
    assert len(samples(out)) == 3


def test_larger_images_can_be_made_smaller_and_smaller_ones_keep_their_bytes(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/large/1.jpg", "/good/2.jpg"])
    download_list(urls, tmp_path / "out", options(image=ImageLimits(max_side_px=100, quality=70)))
    found = samples(tmp_path / "out")
    large, small = found[min(found)], found[max(found)]
    assert Image.open(io.BytesIO(large["jpg"])).size == (100, 75)
    facts = json.loads(large["json"])
    assert (facts["width"], facts["height"], facts["original_width"], facts["original_height"]) == (100, 75, 400, 300)
    assert facts["sha256"] == hashlib.sha256(make_image(1, size=(400, 300))).hexdigest()
    assert small["jpg"] == make_image(2)


def test_another_list_or_other_options_in_the_same_folder_are_refused(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg"])
    download_list(urls, tmp_path / "out", options())
    with pytest.raises(InputError, match="shard_size 10, not 5"):
        download_list(urls, tmp_path / "out", options(shard_size=5))
    other = write_list(tmp_path / "other.tsv", server, ["/good/2.jpg"])
    with pytest.raises(InputError, match=r"list list\.tsv, not other\.tsv"):
        download_list(other, tmp_path / "out", options())
    (tmp_path / "out" / "download.json").write_text("{")
    with pytest.raises(InputError, match="no plan of a download"):
        download_list(urls, tmp_path / "out", options())


def test_a_folder_that_holds_something_else_is_refused(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="not empty"):
        download_list(urls, tmp_path / "mine", options())
    assert server.hits == {}


def test_a_full_disk_is_an_error_and_finished_shards_stay(server, tmp_path, monkeypatch):
    urls = write_list(tmp_path / "list.tsv", server, [f"/good/{number}.jpg" for number in range(6)])
    add = writing.ShardWriter.add

    def fail_later(self, key, members):
        if self.path.name == "00002.tar":
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, key, members)

    monkeypatch.setattr(writing.ShardWriter, "add", fail_later)
    out = tmp_path / "out"
    with pytest.raises(SightlineError, match=r"No space left on device.*same command again"):
        download_list(urls, out, options(shard_size=2, connections=1))
    assert leftovers(out) == []
    monkeypatch.undo()
    assert download_list(urls, out, options(shard_size=2)).pictures == 6
    assert server.hits["/good/0.jpg"] == 1


def test_a_file_that_the_system_really_cuts_short_leaves_no_part_behind(server, tmp_path):
    """In a process of its own, whose files may have 100 KB: the buffer can't be written when closing, either."""
    pytest.importorskip("resource")
    urls = write_list(tmp_path / "list.tsv", server, [f"/large/{number}.jpg" for number in range(4)])
    words = ["get", "x", tmp_path / "out", "--list", urls, "--allow-loopback"]
    code = (
        "import resource, sys; from sightline.faces.cli.data import data; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); data(sys.argv[1:], standalone_mode=False)"
    )
    run = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert "can't be written: File too large" in run.stderr
    assert leftovers(tmp_path / "out") == []


def test_a_target_that_is_a_file_is_an_error(server, tmp_path):
    urls = write_list(tmp_path / "list.tsv", server, ["/good/1.jpg"])
    (tmp_path / "out").write_text("")
    with pytest.raises(SightlineError, match="can't be written"):
        download_list(urls, tmp_path / "out", options())


def test_many_connections_work_at_once(server, tmp_path):
    server.crowd = threading.Barrier(6, timeout=60)
    urls = write_list(tmp_path / "list.tsv", server, [f"/together/{number}.jpg" for number in range(24)])
    report = download_list(urls, tmp_path / "out", options(connections=24, shard_size=4))
    assert report.pictures == 24


@pytest.mark.parametrize("changes", [{"connections": 0}, {"shard_size": 0}, {"limit": 0}])
def test_list_options_are_checked(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        ListOptions(**changes)

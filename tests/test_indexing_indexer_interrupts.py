"""A run that is cut short: Ctrl-C, kill -9, a full disk, an encoder that fails."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sightline
from indexing_world import PooledEncoder, rows, write_photos
from sightline.core.indexing.indexer import index
from sightline.core.store.database import DATABASE_NAME, check_integrity
from sightline.core.store.sqlite import open_store
from sightline.errors import ModelError, StoreError

COUNT = 300

SCRIPT = """
import json, resource, sys
from pathlib import Path
from indexing_world import PooledEncoder
from sightline.errors import StoreError
from sightline.core.indexing import indexer
from sightline.core.store.sqlite import open_store

library, folder, max_rows, image_s, limit_bytes = sys.argv[1:]
indexer._MAX_ROWS = int(max_rows)
store = open_store(Path(library))
if int(limit_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes),) * 2)
encoder = PooledEncoder(image_s=float(image_s))
try:
    report = indexer.index(store, encoder, [Path(folder)], on_progress=lambda p: print(p.embedded, flush=True))
except StoreError as error:
    print("StoreError", error, flush=True)
    sys.exit(1)
print(json.dumps(report.counts | {"interrupted": report.interrupted}), flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    write_photos(folder, COUNT)
    return folder


def start(tmp_path, folder, *, max_rows=20, image_s=0.005, limit_bytes=0):
    paths = [str(Path(sightline.__file__).parents[1]), str(Path(__file__).parent)]
    arguments = [str(tmp_path / "library"), str(folder), str(max_rows), str(image_s), str(limit_bytes)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_embedded(process, count):
    for line in process.stdout:
        if int(line) >= count:
            return
    raise AssertionError(f"the process ended early with {process.wait()}")


def check_whole(library, folder):
    """Index again: every photo once, with its vector, and a sound file."""
    store = open_store(library)
    before = len(rows(store))
    report = index(store, PooledEncoder(), [folder])
    assert report.added == COUNT - before
    assert report.unchanged == before
    assert sorted(rows(store)) == sorted(path.name for path in folder.iterdir())
    assert store.missing_vectors("pooled") == set()
    assert len(store.vectors("pooled")[0]) == COUNT
    store.close()
    assert check_integrity(library / DATABASE_NAME) == []
    return before


def test_kill_9_loses_at_most_one_transaction_and_needs_no_repair(tmp_path, folder):
    process = start(tmp_path, folder)
    with process:
        wait_until_embedded(process, 100)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 50 <= check_whole(tmp_path / "library", folder) < COUNT


def test_kill_9_before_the_first_transaction(tmp_path, folder):
    process = start(tmp_path, folder, max_rows=COUNT + 1)
    with process:
        wait_until_embedded(process, 2)
        process.kill()
    assert check_whole(tmp_path / "library", folder) == 0


def test_ctrl_c_stops_amid_the_work_and_keeps_what_was_embedded(tmp_path, folder):
    process = start(tmp_path, folder, max_rows=COUNT + 1, image_s=0.05)
    with process:
        wait_until_embedded(process, 30)
        process.send_signal(signal.SIGINT)
        lines = process.stdout.read().splitlines()
        assert process.wait() == 0, lines[-3:]
    counts = json.loads(lines[-1])
    assert counts["interrupted"]
    assert 30 <= counts["embedded"] == counts["added"] < COUNT
    assert check_whole(tmp_path / "library", folder) == counts["added"]


def test_a_full_disk_ends_in_an_error_and_leaves_a_valid_library(tmp_path, folder):
    process = start(tmp_path, folder, limit_bytes=300_000)
    with process:
        last = process.stdout.read().splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("StoreError")
    assert "Free space" in last
    assert 0 < check_whole(tmp_path / "library", folder) < COUNT


def test_an_interrupt_keeps_rows_that_were_not_committed_yet_and_deletes_nothing(tmp_path, folder):
    store = open_store(tmp_path / "library")
    index(store, PooledEncoder(), [folder])
    gone = folder / "photo-0000.jpg"
    gone.unlink()
    write_photos(folder, 100, first_seed=5000)

    def interrupt(progress):
        if progress.embedded >= 20:
            raise KeyboardInterrupt

    report = index(store, PooledEncoder(image_s=0.01), [folder], on_progress=interrupt)
    assert report.interrupted
    assert report.removed == 0
    assert report.updated == report.embedded >= 20
    assert report.summary().startswith("Interrupted: ")
    assert gone.name in rows(store)
    store.close()


def test_an_interrupt_during_the_walk_ends_the_run(tmp_path, folder):
    store = open_store(tmp_path / "library")

    def interrupt(progress):
        raise KeyboardInterrupt

    report = index(store, PooledEncoder(), [folder], on_progress=interrupt)
    assert report.interrupted
    assert rows(store) == {}
    store.close()


def test_a_failing_encoder_stops_the_threads_and_keeps_earlier_batches(tmp_path, folder):
    class FailingEncoder(PooledEncoder):
        def encode_images(self, pixels_BHW3):
            if self.encoded >= 50:
                raise ModelError("out of memory")
            return super().encode_images(pixels_BHW3)

    store = open_store(tmp_path / "library")
    encoder = FailingEncoder()
    before = threading.active_count()
    with pytest.raises(ModelError, match="out of memory"):
        index(store, encoder, [folder])
    assert threading.active_count() == before
    assert len(rows(store)) == encoder.encoded
    store.close()
    check_whole(tmp_path / "library", folder)


def test_a_refused_write_is_not_tried_again(tmp_path, folder, monkeypatch):
    store = open_store(tmp_path / "library")
    calls = []

    def refuse(entries, *, failures=()):
        calls.append(len(entries))
        raise StoreError("full")

    monkeypatch.setattr(store, "upsert", refuse)
    before = threading.active_count()
    with pytest.raises(StoreError, match="full"):
        index(store, PooledEncoder(), [folder])
    assert threading.active_count() == before
    assert len(calls) == 1
    store.close()


def test_indexing_works_outside_the_main_thread(tmp_path, folder):
    store = open_store(tmp_path / "library")
    reports = []
    thread = threading.Thread(target=lambda: reports.append(index(store, PooledEncoder(), [folder])))
    thread.start()
    thread.join()
    assert reports[0].added == COUNT
    store.close()

"""Pixels kept on disk between runs.

Covers: sightline.lab.data.pixel_worker.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED_DATA
from sightline.core.images.preprocess import Preprocessing
from sightline.errors import ImageError, InputError
from sightline.kit.config import cache_dir
from sightline.lab.data import pixel_cache, pixel_worker
from sightline.lab.data.base import Dataset, FileImage, Pair, fingerprint_of_pairs
from sightline.lab.data.pixel_cache import open_pixel_cache

SQUASH = Preprocessing(size_px=16, resize_mode="squash")


@dataclass(frozen=True)
class MadeImage:
    """A source of no file, as one in a user's script."""

    shade: int

    def read(self, *, min_side_px=None):
        if self.shade == 13:
            raise ImageError("unlucky")
        if self.shade == 14:
            raise PermissionError(errno.EACCES, "no")
        if self.shade == 15:
            raise MemoryError
        return np.full((20, 30, 3), self.shade, np.uint8)


def make_dataset(sources, *, name="made:x"):
    pairs = [Pair(id=f"p{row}", image=source, captions=("x",)) for row, source in enumerate(sources)]
    return Dataset(name=name, split="train", pairs=pairs, fingerprint=fingerprint_of_pairs(pairs))


def shades(n, *, start=20):
    return make_dataset([MadeImage(start + row % 200) for row in range(n)])


def write_images(folder, n, *, rng):
    folder.mkdir(exist_ok=True)
    for row in range(n):
        noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / f"{row}.jpg", quality=90)
    return make_dataset([FileImage(path=folder / f"{row}.jpg") for row in range(n)])


@pytest.fixture
def with_processes(monkeypatch):
    monkeypatch.setattr(pixel_cache, "_FEWEST_FOR_PROCESSES", 1)
    monkeypatch.setattr(pixel_cache, "_ROWS_PER_TASK", 4)


def fail_to_read(*_):
    pytest.fail("a finished cache was built again")


@pytest.mark.shared
def test_flickr8k_is_cached_as_preprocessing_resizes_it(with_processes):
    files = sorted((SHARED_DATA / "flickr8k" / "Images").glob("*.jpg"))[:24]
    dataset = make_dataset([FileImage(path=file) for file in files])
    cache = open_pixel_cache(dataset, preprocessing=Preprocessing(size_px=128, resize_mode="crop"), n_workers=2)
    assert cache.pixels_NSS3.shape == (24, 128, 128, 3)
    assert cache.pixels_NSS3.dtype == np.uint8
    assert cache.readable_N.all()
    assert cache.problems == ()
    for row, pair in enumerate(dataset):
        expected = Preprocessing(size_px=128, resize_mode="crop").resize(pair.image.read())
        assert np.array_equal(cache.pixels_NSS3[row], expected)


def test_the_pixels_are_mapped_read_only_and_lie_in_the_cache_folder():
    cache = open_pixel_cache(shades(5), preprocessing=SQUASH)
    assert isinstance(cache.pixels_NSS3, np.memmap)
    assert cache.pixels_NSS3[[4, 0]][:, 0, 0, 0].tolist() == [24, 20]
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels_NSS3[0] = 0
    assert cache.folder.parent == cache_dir() / "pixels"
    about = json.loads((cache.folder / "about.json").read_text())
    assert about == {"data": "made:x", "split": "train", "images": 5, "size_px": 16}


def test_processes_and_threads_give_the_same_pixels(tmp_path, rng, with_processes, monkeypatch):
    dataset = write_images(tmp_path / "pictures", 10, rng=rng)
    started = []
    make = pixel_worker.WorkerProcess
    monkeypatch.setattr(pixel_cache, "WorkerProcess", lambda: started.append(1) or make())
    by_processes = open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path / "a", n_workers=2)
    by_thread = open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path / "b", n_workers=1)
    assert len(started) == 2
    assert by_processes.pixels_NSS3.std() > 10
    assert np.array_equal(by_processes.pixels_NSS3, by_thread.pixels_NSS3)


def test_a_second_opening_reads_nothing(monkeypatch):
    first = open_pixel_cache(shades(5), preprocessing=SQUASH)
    monkeypatch.setattr(pixel_cache, "read_task", fail_to_read)
    second = open_pixel_cache(shades(5), preprocessing=SQUASH)
    assert np.array_equal(first.pixels_NSS3, second.pixels_NSS3)
    assert second.folder == first.folder


@pytest.mark.parametrize(
    "other",
    [
        Preprocessing(size_px=17, resize_mode="squash"),
        Preprocessing(size_px=16, resize_mode="crop"),
        Preprocessing(size_px=16, resize_mode="squash", interpolation="bilinear"),
    ],
)
def test_what_changes_pixels_has_a_cache_of_its_own(other):
    caches = [open_pixel_cache(shades(2), preprocessing=preprocessing) for preprocessing in (SQUASH, other)]
    assert caches[0].folder != caches[1].folder


def test_mean_and_std_do_not_change_pixels():
    other = Preprocessing(size_px=16, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    folders = {open_pixel_cache(shades(2), preprocessing=preprocessing).folder for preprocessing in (SQUASH, other)}
    assert len(folders) == 1


def test_a_file_that_changes_in_place_is_read_again(tmp_path, rng):
    dataset = write_images(tmp_path / "pictures", 2, rng=rng)
    before = open_pixel_cache(dataset, preprocessing=SQUASH)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "pictures" / "1.jpg")
    after = open_pixel_cache(dataset, preprocessing=SQUASH)
    assert np.array_equal(before.pixels_NSS3[0], after.pixels_NSS3[0])
    assert after.pixels_NSS3[1].mean(axis=(0, 1)).round(-1).tolist() == [250, 0, 0]


@pytest.mark.parametrize("processes", [True, False])
def test_unreadable_images_are_named_and_stop_nothing(tmp_path, rng, processes, request):
    if processes:
        request.getfixturevalue("with_processes")
    dataset = write_images(tmp_path / "pictures", 6, rng=rng)
    (tmp_path / "pictures" / "1.jpg").unlink()
    (tmp_path / "pictures" / "4.jpg").write_bytes(b"no picture")
    for _ in range(2):
        cache = open_pixel_cache(dataset, preprocessing=SQUASH, n_workers=2)
        assert cache.readable_N.tolist() == [True, False, True, True, False, True]
        assert [problem.id for problem in cache.problems] == ["p1", "p4"]
        assert cache.problems[0].reason == "no such file"
        assert cache.problems[1].reason.startswith("not an image")
        assert not cache.pixels_NSS3[[1, 4]].any()
        assert cache.pixels_NSS3[5].any()


def test_all_that_a_source_may_raise_is_a_problem():
    dataset = make_dataset([MadeImage(shade) for shade in (12, 13, 14, 15)])
    cache = open_pixel_cache(dataset, preprocessing=SQUASH)
    reasons = ["unlucky", "permission denied", "not enough memory to decode it"]
    assert [problem.reason for problem in cache.problems] == reasons


def test_no_readable_image_at_all_is_an_error_that_leaves_nothing(tmp_path):
    dataset = make_dataset([MadeImage(13)] * 3)
    with pytest.raises(InputError, match="None of the 3 pictures of made:x can be read; the first, p0: unlucky"):
        open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_dataset_without_images_and_no_worker_are_refused():
    with pytest.raises(InputError, match="made:x has no pictures in its split train"):
        open_pixel_cache(make_dataset([]), preprocessing=SQUASH)
    with pytest.raises(InputError, match="n_workers must be at least 1; it is 0"):
        open_pixel_cache(shades(1), preprocessing=SQUASH, n_workers=0)


def test_progress_counts_up_to_all(monkeypatch):
    monkeypatch.setattr(pixel_cache, "_ROWS_PER_TASK", 4)
    seen = []
    open_pixel_cache(shades(10), preprocessing=SQUASH, progress=lambda *counts: seen.append(counts))
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)
    assert len(seen) == 4
    assert seen == sorted(seen)


def interrupt_after(n_done):
    def progress(done, total):
        if done >= n_done:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_ROWS_PER_TASK", 4)
    dataset = make_dataset([MadeImage(13 if row == 2 else row + 20) for row in range(40)])
    options = {"preprocessing": SQUASH, "folder": tmp_path, "n_workers": 1}
    with pytest.raises(KeyboardInterrupt):
        open_pixel_cache(dataset, progress=interrupt_after(12), **options)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ".partial"]
    seen, read = [], []
    read_rows = pixel_worker.read_rows
    monkeypatch.setattr(pixel_worker, "read_rows", lambda sources, pre: read.extend(sources) or read_rows(sources, pre))
    cache = open_pixel_cache(dataset, progress=lambda *counts: seen.append(counts), **options)
    assert seen[0][0] >= 12
    assert len(read) == 40 - seen[0][0]
    assert cache.pixels_NSS3[:, 0, 0, 0].tolist() == [0 if row == 2 else row + 20 for row in range(40)]
    assert [(problem.id, problem.reason) for problem in cache.problems] == [("p2", "unlucky")]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["states.npy", "problems.json", "pixels.npy"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\x93NUMPY nothing"])
def test_damaged_leavings_of_a_build_are_thrown_away(tmp_path, name, content, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_ROWS_PER_TASK", 4)
    dataset = make_dataset([MadeImage(13 if row == 0 else row + 20) for row in range(12)])
    options = {"preprocessing": SQUASH, "folder": tmp_path, "n_workers": 1}
    with pytest.raises(KeyboardInterrupt):
        open_pixel_cache(dataset, progress=interrupt_after(8), **options)
    (partial,) = tmp_path.glob("*.partial")
    (partial / name).write_bytes(content)
    cache = open_pixel_cache(dataset, **options)
    assert cache.pixels_NSS3[:, 5, 5, 1].tolist() == [0, *range(21, 32)]
    assert len(cache.problems) == 1


@pytest.mark.parametrize("name", ["states.npy", "problems.json", "pixels.npy"])
def test_a_damaged_cache_is_built_again(tmp_path, name):
    dataset = make_dataset([MadeImage(13), MadeImage(21)])
    folder = open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path).folder
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    cache = open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path)
    assert cache.pixels_NSS3[1].min() == 21
    assert cache.readable_N.tolist() == [False, True]


def test_too_little_room_is_said_before_anything_is_read(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(pixel_cache, "read_task", fail_to_read)
    large = Preprocessing(size_px=1000, resize_mode="squash")
    with pytest.raises(InputError, match=r"needs 77 MB and .* has 1 MB free.*SIGHTLINE_CACHE"):
        open_pixel_cache(shades(20), preprocessing=large, folder=tmp_path)


def test_a_disk_that_gets_full_keeps_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_ROWS_PER_TASK", 4)
    read_rows = pixel_worker.read_rows
    calls = []

    def fill_disk(sources, preprocessing):
        calls.append(sources)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return read_rows(sources, preprocessing)

    monkeypatch.setattr(pixel_worker, "read_rows", fill_disk)
    options = {"preprocessing": SQUASH, "folder": tmp_path, "n_workers": 1}
    with pytest.raises(InputError, match=r"disk got full .* What was written is kept"):
        open_pixel_cache(shades(20), **options)
    seen = []
    cache = open_pixel_cache(shades(20), progress=lambda done, total: seen.append(done), **options)
    assert seen[0] >= 8  # two tasks of 4 went well
    assert cache.pixels_NSS3[:, 0, 0, 0].tolist() == list(range(20, 40))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_worker_tells_of_a_full_disk(tmp_path, rng):
    dataset = write_images(tmp_path / "pictures", 1, rng=rng)
    worker = pixel_worker.WorkerProcess()
    try:
        sources = [dataset[0].image]
        task = pixel_worker.Task(sources=sources, preprocessing=SQUASH, path=Path("/dev/full"), offset=0)
        with pytest.raises(OSError, match="No space left") as caught:
            worker(task)
        assert caught.value.errno == errno.ENOSPC
        missing = pixel_worker.Task(sources=sources, preprocessing=SQUASH, path=tmp_path / "no", offset=0)
        with pytest.raises(FileNotFoundError):  # the worker lives on
            worker(missing)
    finally:
        worker.stop()


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"can't be kept in .*file"):
        open_pixel_cache(shades(1), preprocessing=SQUASH, folder=tmp_path / "file" / "pixels")


def test_a_worker_that_dies_is_an_error_and_the_next_run_goes_on(tmp_path, rng, with_processes, monkeypatch):
    dataset = write_images(tmp_path / "pictures", 12, rng=rng)
    make = pixel_worker.WorkerProcess

    def start_killed():
        worker = make()
        worker._process.kill()
        worker._process.wait()
        return worker

    monkeypatch.setattr(pixel_cache, "WorkerProcess", start_killed)
    with pytest.raises(InputError, match=r"ended \(code -9\) at one of 4 pictures .*What was read is kept"):
        open_pixel_cache(dataset, preprocessing=SQUASH, n_workers=2)
    monkeypatch.setattr(pixel_cache, "WorkerProcess", make)
    assert open_pixel_cache(dataset, preprocessing=SQUASH, n_workers=2).readable_N.all()


def test_images_of_lazy_pairs_are_taken_without_composing_their_captions():
    class LazyPairs(list):
        def image_at(self, row):
            return MadeImage(100 + row)

    made = shades(3)
    dataset = Dataset(name="made:x", split="train", pairs=LazyPairs(made.pairs), fingerprint="lazy")
    assert open_pixel_cache(dataset, preprocessing=SQUASH).pixels_NSS3[:, 0, 0, 0].tolist() == [100, 101, 102]


def test_an_input_error_of_a_source_reaches_the_caller_from_a_worker(tmp_path, with_processes, monkeypatch, rng):
    dataset = write_images(tmp_path / "pictures", 4, rng=rng)
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="SIGHTLINE_MAX_PIXELS is 'many'"):
        open_pixel_cache(dataset, preprocessing=SQUASH, n_workers=2)


def test_threads_that_open_the_same_cache_build_it_once(tmp_path):
    reads = []

    @dataclass(frozen=True)
    class SlowImage:
        def read(self, *, min_side_px=None):
            reads.append(1)
            time.sleep(0.05)
            return np.full((4, 4, 3), 7, np.uint8)

    dataset = make_dataset([SlowImage()] * 4)
    caches = []
    threads = [
        threading.Thread(target=lambda: caches.append(open_pixel_cache(dataset, preprocessing=SQUASH, folder=tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 4
    assert len(caches) == 3
    assert all(cache.pixels_NSS3.min() == 7 for cache in caches)


SCRIPT = """
import sys
from pathlib import Path
from sightline.lab.data import pixel_cache
from sightline.lab.data.base import Dataset, FileImage, Pair
from sightline.lab.data.pixel_cache import open_pixel_cache
from sightline.core.images.preprocess import Preprocessing

print("started", flush=True)
pixel_cache._FEWEST_FOR_PROCESSES, pixel_cache._ROWS_PER_TASK = 1, 4
files = sorted(Path(sys.argv[1]).glob("*.jpg"))
pairs = [Pair(id=file.name, image=FileImage(path=file), captions=("x",)) for file in files]
dataset = Dataset(name="made:x", split="train", pairs=pairs, fingerprint="f")
built = []
cache = open_pixel_cache(
    dataset,
    preprocessing=Preprocessing(size_px=16, resize_mode="squash"),
    folder=Path(sys.argv[2]),
    progress=lambda done, total: (built.append(done), print("done", done, flush=True)),
    n_workers=2,
)
print("cache", bool(built), int(cache.pixels_NSS3.sum()), flush=True)
"""


def start_script(tmp_path, **options):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pictures"), str(tmp_path / "caches")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_two_processes_share_one_build_from_scripts_without_a_main_guard(tmp_path, rng):
    write_images(tmp_path / "pictures", 40, rng=rng)
    scripts = [start_script(tmp_path) for _ in range(2)]
    outputs = [script.communicate(timeout=240) for script in scripts]
    assert [script.returncode for script in scripts] == [0, 0], outputs
    assert all(output.count("started") == 1 for output, _ in outputs)
    ends = [output.splitlines()[-1].split() for output, _ in outputs]
    assert sorted(end[1] for end in ends) == ["False", "True"]
    assert ends[0][2] == ends[1][2] != "0"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_ends_the_workers_and_the_next_run_goes_on(tmp_path, rng):
    write_images(tmp_path / "pictures", 400, rng=rng)
    script = start_script(tmp_path, start_new_session=True)
    while script.stdout.readline() != "done 40\n":
        assert script.poll() is None
    os.killpg(script.pid, signal.SIGINT)
    _, errors = script.communicate(timeout=240)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(script.pid, 0)
    output, errors = start_script(tmp_path).communicate(timeout=240)
    assert int(output.splitlines()[1].split()[1]) >= 40, errors
    assert output.splitlines()[-1].startswith("cache True")

"""Readers, batches and writes: order, bounds and sizes."""

import threading
import time

import numpy as np
import pytest

from indexing_world import PooledEncoder, write_photos
from sightline.core.indexing.indexer import BatchEmbedder, ReaderPool, index
from sightline.core.indexing.reading import FileReader
from sightline.core.indexing.report import IndexConfig
from sightline.core.store.sqlite import open_store
from sightline.errors import InputError


def pixels(value):
    return np.full((32, 32, 3), value, np.uint8)


def embed_all(embedder, count):
    sizes = []
    for i in range(count):
        embedder.add(str(i), pixels(i % 200), lambda embedding: None)
        if embedder.due:
            sizes.append(embedder.batch_size)
            embedder.encode()
    return sizes


def test_batches_grow_while_the_encoder_is_quick():
    embedder = BatchEmbedder(PooledEncoder(), max_batch_size=32)
    assert embed_all(embedder, 150)[:6] == [2, 4, 8, 16, 32, 32]


def test_batches_shrink_to_one_for_a_slow_encoder(monkeypatch):
    monkeypatch.setattr("sightline.core.indexing.indexer._BATCH_S", 0.02)
    embedder = BatchEmbedder(PooledEncoder(image_s=0.03), max_batch_size=32)
    assert embed_all(embedder, 5)[1:] == [1, 1, 1]


def test_one_content_is_encoded_once_for_all_who_wait():
    encoder = PooledEncoder()
    embedder = BatchEmbedder(encoder, max_batch_size=8)
    got = []
    for _ in range(3):
        embedder.add("same", pixels(7), got.append)
    assert embedder.waiting == 1
    embedder.encode()
    embedder.add("same", None, got.append)
    assert encoder.encoded == 1
    assert len(got) == 4
    assert all(embedding is got[0] for embedding in got)
    embedder.forget_encoded()
    assert "same" not in embedder


def test_readings_come_in_the_order_of_tasks():
    pool = ReaderPool(lambda task: time.sleep(task / 1000) or task, 4)  # type: ignore[arg-type, operator, return-value]
    for task in (20, 1, 10, 0, 5):
        pool.submit(task)  # type: ignore[arg-type]
    assert [pool.take() for _ in range(5)] == [20, 1, 10, 0, 5]
    pool.stop()


def test_a_stopped_pool_drops_what_is_queued_and_waits_for_no_slow_file():
    release, started = threading.Event(), []

    def read(task):
        started.append(task)
        release.wait(240)

    pool = ReaderPool(read, 2)
    for task in range(50):
        pool.submit(task)  # type: ignore[arg-type]
    pool.stop()
    assert any(worker.is_alive() for worker in pool._workers) or not started, "it waited for a file being read"
    release.set()
    for worker in pool._workers:
        worker.join(240)
    assert len(started) <= 2


def test_only_a_bounded_number_of_images_is_read_ahead(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 400)
    read, ahead = [], []
    really_read = FileReader.__call__

    def note(self, task):
        read.append(task)
        return really_read(self, task)

    class WatchingEncoder(PooledEncoder):
        def encode_images(self, pixels_BHW3):
            ahead.append(len(read) - self.encoded)
            return super().encode_images(pixels_BHW3)

    monkeypatch.setattr(FileReader, "__call__", note)
    store = open_store(tmp_path / "library")
    config = IndexConfig(max_batch_size=8, readers=2)
    index(store, WatchingEncoder(image_s=0.001), [tmp_path / "photos"], config=config)
    store.close()
    assert max(ahead) <= 8 + 2 * 8 + 2 * 2


def test_rows_are_committed_while_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.core.indexing.indexer._MAX_AGE_S", 0.05)
    write_photos(tmp_path / "photos", 60)
    store = open_store(tmp_path / "library")
    committed = []
    index(
        store,
        PooledEncoder(image_s=0.01),
        [tmp_path / "photos"],
        on_progress=lambda progress: committed.append(store.stats().images),
    )
    store.close()
    assert 0 < sorted(committed)[len(committed) // 2] < 60


@pytest.mark.parametrize("wrong", [{"readers": 0}, {"max_batch_size": 0}, {"remove_missing": "never"}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        IndexConfig(**wrong)

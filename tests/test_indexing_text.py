"""Words in images are read once for each content, kept, found, and survive interruptions."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from indexing_world import PooledEncoder, rows, write_photo
from sightline.core.indexing import text
from sightline.core.indexing.indexer import index
from sightline.core.indexing.text import RapidReader, read_text
from sightline.core.store.sqlite import open_store
from sightline.core.types import TextLine
from sightline.errors import ModelError


class FakeReader:
    name = "fake 1"

    def __init__(self, stop_at=None):
        self.shapes = []
        self.stop_at = stop_at

    def read(self, rgb_HW3):
        if len(self.shapes) == self.stop_at:
            raise KeyboardInterrupt
        self.shapes.append(rgb_HW3.shape)
        return [TextLine(f"invoice {len(self.shapes)} milk", 0.9, (0.0, 0.0, 1.0, 0.0, 1.0, 0.5, 0.0, 0.5))]


@pytest.fixture
def store(tmp_path):
    for seed in range(4):
        write_photo(tmp_path / "photos" / f"{seed}.jpg", seed)
    shutil.copy(tmp_path / "photos" / "0.jpg", tmp_path / "photos" / "copy.jpg")
    with open_store(tmp_path / "library") as store:
        index(store, PooledEncoder(), [tmp_path / "photos"])
        yield store


def test_each_content_is_read_once_and_found(store):
    reader = FakeReader()
    report = read_text(store, reader)
    assert (report.read, report.with_text, report.skipped, report.interrupted) == (4, 4, [], False)
    assert len(store.match("invoice", 9)) == 5
    first = rows(store)["0.jpg"].content_hash
    reading = store.readings([first])[first]
    assert (reading.engine, reading.text) == ("fake 1", "invoice 1 milk")
    assert reading.lines[0].corners == (0.0, 0.0, 1.0, 0.0, 1.0, 0.5, 0.0, 0.5)
    assert read_text(store, reader).read == 0
    assert len(reader.shapes) == 4


def test_an_interrupted_run_keeps_what_was_read(store):
    report = read_text(store, FakeReader(stop_at=2))
    assert (report.interrupted, report.read) == (True, 2)
    assert len(store.unread()) == 2
    assert read_text(store, FakeReader()).read == 2


def test_files_that_are_gone_are_named(store):
    rows(store)["3.jpg"].path.unlink()
    report = read_text(store, FakeReader())
    assert [(one.path.name, one.reason) for one in report.skipped] == [("3.jpg", "no such file")]
    assert report.read == 3


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ocr"):
        RapidReader()


def test_the_engine_reads_a_page():
    pytest.importorskip("rapidocr")
    page = Image.new("RGB", (700, 200), "white")
    ImageDraw.Draw(page).text((40, 60), "Invoice 2023 milk", fill="black", font=ImageFont.load_default(48))
    lines = RapidReader().read(np.asarray(page))
    assert "invoice 2023 milk" in " ".join(line.text for line in lines).lower()
    assert all(0 <= corner <= 1 for line in lines for corner in line.corners)

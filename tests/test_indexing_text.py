"""Words in images are read once for each content, kept, found, and survive interruptions."""

import shutil
from types import SimpleNamespace

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


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_what_the_engine_misses_for_its_size_is_read_from_smaller_images(monkeypatch):
    def engine(bgr_HW3, *, use_det, use_cls, use_rec):
        if not use_det:  # one line, cut out
            cut.append(bgr_HW3.shape[:2])
            return SimpleNamespace(txts=("Exit",), scores=(0.99,))
        seen.append(bgr_HW3.shape[:2])
        if use_rec:
            boxes = [box(100, 100, 500, 160), box(100, 300, 700, 600)]
            return SimpleNamespace(txts=("Corner Hotel", "Comertel"), scores=(0.97, 0.6), boxes=np.array(boxes))
        if len(seen) == 2:  # in parts of 0.3: one that is known, one too small to be news, and the sign
            return SimpleNamespace(boxes=np.array([box(30, 30, 150, 48), box(9, 9, 60, 14), box(60, 105, 180, 150)]))
        return SimpleNamespace(boxes=None)

    seen, cut = [], []
    reader = RapidReader.__new__(RapidReader)
    monkeypatch.setattr(reader, "_engine", engine, raising=False)
    lines = reader.read(np.zeros((800, 1000, 3), np.uint8))
    assert [line.text for line in lines] == ["Corner Hotel", "Exit"]
    assert lines[1].corners == (0.2, 0.4375, 0.6, 0.4375, 0.6, 0.625, 0.2, 0.625)
    assert seen == [(800, 1000), (240, 300), (80, 100)]
    assert cut == [(150, 400)]
    del seen[:]
    reader.read(np.zeros((368, 400, 3), np.uint8))
    assert seen[0] == (736, 800), "small images are enlarged, as the engine would"


def test_the_engine_reads_small_and_large_letters_of_a_sign():
    pytest.importorskip("rapidocr")
    plate = Image.new("RGB", (800, 560), "#ffd400")
    draw = ImageDraw.Draw(plate)
    draw.text((60, 60), "Corner Hotel", fill="#00308f", font=ImageFont.load_default(110))
    draw.text((60, 260), "EXIT", fill="#00308f", font=ImageFont.load_default(160))
    draw.text((60, 480), "Invoice 2023 milk", fill="black", font=ImageFont.load_default(28))
    sign = Image.new("RGB", (1024, 768), "#557755")
    sign.paste(plate.rotate(8, expand=True, fillcolor="#557755"), (60, 30))
    lines = RapidReader().read(np.asarray(sign))
    read = " ".join(line.text for line in lines).lower()
    assert all(word in read for word in ("corner", "hotel", "exit", "invoice 2023 milk"))
    assert all(0 <= corner <= 1 for line in lines for corner in line.corners)

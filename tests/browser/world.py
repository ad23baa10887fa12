"""What the browser tests look at: libraries, runs and a model, made once and served by a real server."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from browser.waiting import TIMEOUT_S
from sightline.core.library import Library
from sightline.core.store.base import Entry
from sightline.core.types import Caption, Embedding, TextLine, TextReading
from sightline.faces.demo.photos import gather_photos, load_photos

MANY_ROWS = 100_000
MANY_IMAGES = 400
"""That are captioned for as long as a test watches and stops it."""
EVIL_NAME = "<img src=x onerror=window.pwned=1>.png"
"""A file name that would run, were names ever taken for HTML."""


@dataclass(frozen=True)
class World:
    """Where everything lies."""

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "pictures" / "photos"

    @property
    def second_model(self) -> str:
        return f"dir:{self.folder / 'second'}"

    def library(self, name: str) -> Path:
        return self.folder / name

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "first"


def build_world(folder: Path) -> World:
    world = World(folder)
    gather_photos(load_photos(), world.photos)
    _add_odd_files(world.photos)
    _add_many_images(folder / "pictures" / "many", count=MANY_IMAGES)
    _build_demo(world)
    _build_big(world)
    for name in ("empty", "growing"):
        Library.open(world.library(name), model="starter").close()
    _write_run(world.run)
    return world


def _add_odd_files(photos: Path) -> None:
    (photos / "copies").mkdir()
    shutil.copy(photos / "chelsea.png", photos / "copies" / "chelsea again.png")
    with Image.open(photos / "coffee.png") as coffee:
        coffee.resize((coffee.width // 2, coffee.height // 2)).save(photos / "copies" / "coffee small.png")
    Image.new("RGB", (90, 60), (180, 60, 20)).save(photos / EVIL_NAME)
    (photos / "broken.jpg").write_bytes((photos / "flower.jpg").read_bytes()[:3000])


def _add_many_images(folder: Path, *, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 255, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 64)).save(folder / f"{number:04d}.png")


def _build_demo(world: World) -> None:
    path = world.library("demo")
    with Library.open(path, model="starter") as library:
        library.index(world.photos)
        cat = library.store.find_path(world.photos / "chelsea.png")
        library.store.put_captions(
            {
                cat.id: [
                    Caption(
                        text="a cat looking at the camera",
                        source="generated",
                        similarity=0.31,
                        log_prob=-0.9,
                        model="starter-captioner",
                        best=True,
                    ),
                    Caption(text="a close-up of a tabby cat", source="clip", similarity=0.34, log_prob=-2.1),
                ]
            }
        )
        coffee = library.store.find_path(world.photos / "coffee.png")
        lines = (
            TextLine("Fresh roasts", 0.97, (0.1, 0.1, 0.6, 0.15, 0.59, 0.25, 0.09, 0.2)),
            TextLine("since 1987", 0.95, (0.1, 0.3, 0.5, 0.3, 0.5, 0.38, 0.1, 0.38)),
        )
        library.store.put_readings({coffee.content_hash: TextReading(engine="test", lines=lines)})
    starter = resources.files("sightline.core.models") / "starter" / "clip"
    shutil.copytree(str(starter), world.folder / "second")
    with Library.open(path, model=world.second_model) as library:
        library.index()


def _build_big(world: World) -> None:
    """A library of 100,000 rows. All share the photos' content, and so their thumbnails; only some rows have files."""
    with Library.open(world.library("big"), model="starter") as library:
        library.index(world.photos)
        store, dim = library.store, library.encoder.dim
        seen = [record for record in store.scan() if record.info.width > 200]
        rng = np.random.default_rng(0)
        for start in range(0, MANY_ROWS - store.stats().images, 20_000):
            count = min(20_000, MANY_ROWS - store.stats().images)
            vectors = rng.standard_normal((count, dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            store.upsert([_make_row(seen, start + row, vectors[row]) for row in range(count)])


def _make_row(seen, number, vector):
    from dataclasses import replace

    record = seen[number % len(seen)]
    older = replace(record.info, taken_at=f"20{10 + number % 14:02d}-{1 + number % 12:02d}-15T12:00:00")
    image = replace(record, id=None, relative=f"made/{number:06d}.png", info=older)
    return Entry(image=image, embeddings=[Embedding(model="starter", vector=vector)])


def _write_run(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": "scenes", "epochs": 2, "optimiser": {"name": "adamw"}}))
    rows = [
        {
            "step": 0,
            "kind": "val",
            "image_retrieval_recall@10": 0.1,
            "text_retrieval_recall@10": 0.1,
            "mean_recall": 0.1,
        }
    ]
    rows += [
        {"step": s, "kind": "train", "epoch": s / 20, "loss": 3.0 - s / 20, "learning_rate": 1e-3} for s in range(1, 31)
    ]
    write_rows(run, rows)


def write_rows(run: Path, rows) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.writelines(json.dumps(row) + "\n" for row in rows)


@contextmanager
def serve(world: World, home: Path):
    """The address of a server of all libraries."""
    names = ("demo", "big", "empty", "growing")
    options = [option for name in names for option in ("--library", world.library(name))]
    options += ["--allow-root", world.folder / "pictures", "--runs", world.folder / "runs"]
    with run_server(options, home) as address:
        _make_thumbnails(address)
        yield address


@contextmanager
def run_server(options, home: Path, *, port=0):
    """The address of `sightline serve`, once its model is loaded."""
    command = [sys.executable, "-m", "sightline", "serve", "--port", str(port), *map(str, options)]
    quiet = {"HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **quiet})
        try:
            yield _wait_until_ready(process, log)
        finally:
            process.terminate()
            process.wait(timeout=TIMEOUT_S)


def _wait_until_ready(process, log: Path) -> str:
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if address and _is_ready(address[0]):
            return address[0]
        time.sleep(0.1)
    raise AssertionError(f"The server doesn't come up:\n{log.read_text()}")


def _make_thumbnails(address: str) -> None:
    """Of the rows of `big` that have files: those without take theirs, as copies do."""
    rows = json.load(urllib.request.urlopen(f"{address}/api/search?library=big&where=not+path+like+'%25/made/%25'"))
    for hit in rows["hits"]:
        for size in (320, 640):
            urllib.request.urlopen(f"{address}{hit['thumbnail']}&size={size}").close()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=TIMEOUT_S) as answer:
            return json.load(answer)["status"] == "ok"
    except OSError:
        return False

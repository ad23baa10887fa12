"""Indexing a folder with the starter: Sightline beside a plain pipeline (Pillow full decode in threads, SQLite rows).

python benchmarks/indexing.py [FOLDER]      without one, 300 pictures of 3 megapixels are rendered
"""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import sightline as sl
from sightline.models.base import Encoder

_PAIRS = 3
_BATCH = 16


def main(folder: Path | None = None) -> None:
    encoder = sl.load_encoder("starter")
    with tempfile.TemporaryDirectory() as scratch:
        photos = folder or _render(Path(scratch) / "photos", count=300)
        count = sum(1 for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {count:,} pictures, starter")
        ratios = []
        for run in range(_PAIRS):
            ours = _index(photos, Path(scratch) / f"library-{run}")
            plain = _index_plainly(photos, encoder, Path(scratch) / f"plain-{run}.db")
            ratios.append(plain / ours)
            print(
                f"ours {count / ours:8.1f} images/s   plain {count / plain:8.1f} images/s   ratio {plain / ours:5.2f}"
            )
        print(f"median ratio {statistics.median(ratios):.2f}")
        with sl.Library.open(Path(scratch) / "library-0") as library:
            report = library.index(photos)
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stage_seconds.items())
        print(f"unchanged again: {report.seconds:.2f} s ({stages})")


def _index(photos: Path, library_dir: Path) -> float:
    started = time.perf_counter()
    with sl.Library.open(library_dir, model="starter") as library:
        report = library.index(photos)
    seconds = time.perf_counter() - started
    print("  " + ", ".join(f"{name} {spent:.2f} s" for name, spent in report.stage_seconds.items()))
    return seconds


def _index_plainly(photos: Path, encoder: Encoder, database: Path) -> float:
    started = time.perf_counter()
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    size_px = encoder.card.preprocessing.size_px

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(upright.resize((size_px, size_px), Image.Resampling.BICUBIC))

    connection = sqlite3.connect(database)
    connection.execute("create table images (filepath text, vector blob)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            vectors = encoder.encode_images(np.stack(list(pool.map(read, batch))))
            rows = [(str(path), vector.tobytes()) for path, vector in zip(batch, vectors, strict=True)]
            connection.executemany("insert into images values (?, ?)", rows)
            connection.commit()
    connection.close()
    return time.perf_counter() - started


def _render(folder: Path, *, count: int) -> Path:
    """Pictures with detail at several scales, which compress about as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize((2048, 1536)), np.float32
            )
            for side in (8, 64, 512)
        ]
        pixels = (0.6 * layers[0] + 0.3 * layers[1] + 0.1 * layers[2]).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))

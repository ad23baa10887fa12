"""Indexing JPEGs with a model of ViT-B/32's shapes beside rclip's way, and the memory that indexing takes.

python benchmarks/indexing.py [--quick]

Both are timed from an open model and an empty database to the last row. The pictures are rendered at first use
(`rendered_photos`). int8 graphs are run without asking the gate, which random weights can't pass: how long they take
doesn't depend on it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclip_way
from int8_graphs import int8_encoder
from model_shapes import vit_b32_folder
from rendered_photos import photos, tiny_jpegs
from report import Row, paired, show

from sightline.core.indexing.indexer import index
from sightline.core.models.base import Encoder
from sightline.core.models.cards import STARTER, ModelCard, find_card
from sightline.core.models.loading import load_encoder
from sightline.core.store.sqlite import open_store
from sightline.core.types import ModelIdentity
from sightline.lab.evaluation.measured_model import peak_resident_bytes

_NUMBERS = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pictures, one pair of runs")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_mb(options.peak))
        return
    folder = vit_b32_folder()
    fp32, int8 = load_encoder(f"dir:{folder}", precision="fp32"), int8_encoder(folder)
    session = rclip_way.open_graph(folder / "onnx" / "image.onnx")
    session.run(None, {session.get_inputs()[0].name: np.zeros((rclip_way.BATCH, 3, 224, 224), np.float32)})
    large = photos(4 if options.quick else 30, width=4000, height=3000)
    small = photos(16 if options.quick else 600, width=500, height=375)
    pairs = 1 if options.quick else 3
    rows = [
        *compare("12-megapixel JPEGs", large, fp32, session, goal=3.0, pairs=pairs),
        *compare("12-megapixel JPEGs", large, int8, session, goal=3.0, pairs=pairs),
        *compare("500-pixel JPEGs", small, fp32, session, goal=1.2, pairs=pairs),
        *compare("500-pixel JPEGs", small, int8, session, goal=3.0, pairs=pairs),
        memory(*(500, 2_000) if options.quick else (1_000, 100_000)),
    ]
    show("indexing", rows)


def compare(kind: str, folder: Path, encoder: Encoder, session: Any, *, goal: float, pairs: int) -> list[Row]:
    """Images a second beside rclip's way, and how busy the processor was meanwhile."""
    count = len(list(folder.glob("*.jpg")))
    limit = alone(encoder)  # warms the model up, too
    busy: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        ours_s, plain_s, ratio = paired(
            lambda: busy.append(index_once(folder, Path(scratch), encoder, count)),
            lambda: rclip_way.index(
                folder, session, Path(scratch) / f"{next(_NUMBERS)}.db", size_px=encoder.card.preprocessing.size_px
            ),
            pairs=pairs,
            warm_up=False,
        )
    journey = f"index {count} {kind}, ViT-B/32 {encoder.precision}"
    speed = Row(
        journey=journey,
        unit="images/s",
        ours=count / ours_s,
        other=count / plain_s,
        alternative="rclip's way",
        ratio=ratio,
        goal=f">= {goal:g} times",
        reached=ratio >= goal,
        limit=f"{limit:.1f} images/s for the model alone",
    )
    percent = 100 * statistics.median(busy)
    return [
        speed,
        Row(journey=f"{journey}: CPU busy", unit="%", ours=percent, goal="> 90%", reached=percent > 90),
    ]


def index_once(folder: Path, scratch: Path, encoder: Encoder, count: int) -> float:
    """Index into a new library; the share of all cores' time that this process used."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    with open_store(scratch / f"library-{next(_NUMBERS)}") as store:
        report = index(store, encoder, [folder])
    assert report.added == count, report.summary()
    return (time.process_time() - cpu_s) / (time.perf_counter() - started_s) / len(os.sched_getaffinity(0))


def alone(encoder: Encoder) -> float:
    """Images a second of the image tower, with nothing beside it."""
    side = encoder.card.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), np.uint8)
    encoder.encode_images(pixels)
    times = []
    for _ in range(3):
        started_s = time.perf_counter()
        encoder.encode_images(pixels)
        times.append(time.perf_counter() - started_s)
    return len(pixels) / statistics.median(times)


def memory(few: int, many: int) -> Row:
    """Peak memory of a process that indexes many small files, beside one that indexes few."""
    peaks_mb = []
    for count in (few, many):
        command = [sys.executable, __file__, "--peak", str(count)]
        peaks_mb.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
    growth = peaks_mb[1] / peaks_mb[0]
    return Row(
        journey=f"memory while indexing {many:,} files",
        unit="MB",
        ours=peaks_mb[1],
        other=peaks_mb[0],
        alternative=f"{few:,} files",
        ratio=peaks_mb[0] / peaks_mb[1],
        goal="the same (at most 1.2 times)",
        reached=growth <= 1.2,
    )


class CheapEncoder:
    """A projection of a few pixels, so that what is measured is the pipeline."""

    precision = "fp32"
    runtime = "numpy"
    dim = 64

    def __init__(self) -> None:
        self.card: ModelCard = find_card(STARTER)
        self.identity = ModelIdentity(name=STARTER, weights_hash="0", preprocessing_version=1, dim=self.dim)
        self._projection_PD = np.random.default_rng(0).normal(size=(48, self.dim)).astype(np.float32)

    def encode_images(self, pixels_BHW3: Any) -> Any:
        """Pixels (B, S, S, 3) -> unit vectors (B, D)."""
        side = pixels_BHW3.shape[1]
        few_BP = pixels_BHW3[:, :: side // 4 + 1, :: side // 4 + 1].reshape(len(pixels_BHW3), -1)
        vectors_BD = few_BP.astype(np.float32) @ self._projection_PD[: few_BP.shape[1]]
        return vectors_BD / np.linalg.norm(vectors_BD, axis=1, keepdims=True)


def peak_mb(count: int) -> float:
    """Index `count` small files in this process -> its peak memory."""
    folder = tiny_jpegs(count)
    with tempfile.TemporaryDirectory() as scratch, open_store(Path(scratch) / "library") as store:
        report = index(store, CheapEncoder(), [folder])  # type: ignore[arg-type]
        assert report.added == count, report.summary()
    return (peak_resident_bytes() or 0) / 2**20


if __name__ == "__main__":
    main()

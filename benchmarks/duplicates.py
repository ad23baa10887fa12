"""Copies by their pixels and by a model's cosine alone: how many of each kind are found, and what is wrongly grouped.

python benchmarks/duplicates.py FOLDER [--rows 100000] [--model starter]

FOLDER holds different photographs, such as Flickr8k's. Thirty of them are changed in each of several ways; a change
counts as found where it ends in the group of its original. The groups among the photographs themselves are written as a
sheet of pictures, to be looked at: no program knows which scenes are one. `--rows 0` leaves out the last part, which
times all pairs of that many sketches: those of FOLDER, cut and mirrored at random, with 1,000 of them copied.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from sightline.core.images.decode import read_image
from sightline.core.images.files import walk_images
from sightline.core.images.preprocess import make_sketch
from sightline.core.models.base import Encoder
from sightline.core.models.loading import load_encoder
from sightline.core.search.copies import Joined, find_copies
from sightline.kit.work import map_ahead, usable_cpus

CHANGED = 30
COSINES = (0.85, 0.9, 0.95)
_PLANTED = 1000


def cut(image: Image.Image, left: float, top: float) -> Image.Image:
    """Nine tenths of each side."""
    width, height = image.size
    x, y = round(0.1 * width * left), round(0.1 * height * top)
    return image.crop((x, y, x + round(0.9 * width), y + round(0.9 * height)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cut to 90%, middle": lambda image: cut(image, 0.5, 0.5),
    "cut to 90%, corner": lambda image: cut(image, 0, 0),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "quality 40": lambda image: image,
    "brighter by 30%": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


def change(path: Path, kind: str) -> bytes:
    """A changed image as a JPEG."""
    encoded = io.BytesIO()
    with Image.open(path) as image:
        CHANGES[kind](image.convert("RGB")).save(encoded, "JPEG", quality=40 if kind == "quality 40" else 90)
    return encoded.getvalue()


def look(encoder: Encoder, sources: list[Path] | list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Sketches (N, 32, 32) and vectors (N, D)."""
    preprocessing = encoder.card.preprocessing

    def read(source: Path | bytes) -> tuple[np.ndarray, np.ndarray]:
        rgb = read_image(source, min_side_px=preprocessing.size_px).rgb
        return make_sketch(rgb), preprocessing.resize(rgb)

    sketches, vectors, pixels = [], [], []
    for sketch, small in map_ahead(read, sources, threads=usable_cpus(), ahead=64):
        sketches.append(sketch)
        pixels.append(small)
        if len(pixels) == 64 or len(sketches) == len(sources):
            vectors.append(encoder.encode_images(np.stack(pixels)))
            pixels.clear()
    return np.stack(sketches), np.concatenate(vectors)


def joined_by_pixels(sketches: np.ndarray) -> Joined:
    joined = Joined(len(sketches))
    for a, b, _ in find_copies(sketches):
        joined.join(a, b)
    return joined


def joined_by_cosine(vectors: np.ndarray, least: float) -> Joined:
    joined = Joined(len(vectors))
    for start in range(0, len(vectors), 1024):
        left, right = np.nonzero(vectors[start : start + 1024] @ vectors.T >= least)
        for a, b in zip((start + left).tolist(), right.tolist(), strict=True):
            if a < b:
                joined.join(a, b)
    return joined


def count_found(joined: Joined, originals: list[int], first_changed: int) -> int:
    """How many of the changed images, which come in the order of their originals, are in the group of theirs."""
    group_of = {row: number for number, rows in enumerate(joined.groups()) for row in rows}
    pairs = enumerate(originals, start=first_changed)
    return sum(changed in group_of and group_of[changed] == group_of.get(original) for changed, original in pairs)


def draw_groups(groups: list[list[int]], paths: list[Path], target: Path) -> None:
    """A sheet with a row of pictures for each group."""
    sheet = Image.new("RGB", (8 * 130, max(1, len(groups)) * 130), "white")
    for row, members in enumerate(groups):
        for column, member in enumerate(members[:8]):
            with Image.open(paths[member]) as image:
                image.thumbnail((126, 126))
                sheet.paste(image, (column * 130, row * 130))
    sheet.save(target)


def make_rows(sketches: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Sketches made of others: a random part of each, mirrored or not, with `_PLANTED` copies among them."""
    rng = np.random.default_rng(0)
    for number in range(count - _PLANTED):
        part = rng.integers(16, 27)
        y, x = rng.integers(0, 33 - part, 2)
        piece = sketches[number % len(sketches)][y : y + part, x : x + part]
        yield np.asarray(Image.fromarray(piece[:, :: rng.choice((1, -1))]).resize((32, 32), Image.Resampling.BICUBIC))


def time_rows(sketches: np.ndarray, count: int) -> None:
    rows = np.stack(list(make_rows(sketches, count)))
    rows = np.concatenate([rows, rows[:_PLANTED].transpose(0, 2, 1)])
    told: list[float] = []
    start_s = time.perf_counter()
    joined = Joined(len(rows))
    for a, b, _ in find_copies(rows, on_block=lambda done, total: told.append(time.perf_counter())):
        joined.join(a, b)
    seconds = time.perf_counter() - start_s
    found = count_found(joined, list(range(_PLANTED)), len(rows) - _PLANTED)
    slowest = max(np.diff(told))
    print(f"{len(rows):,} sketches: {seconds:.0f} s, {found:,} of {_PLANTED:,} turned copies; ", end="")
    print(f"progress is told {len(told):,} times, at most {slowest:.2f} s apart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--sheet", type=Path, default=Path("duplicates.png"))
    parser.add_argument("--limit", type=int, default=None, help="Only so many photographs.")
    asked = parser.parse_args()
    paths = [file.path for file in walk_images(asked.folder, on_problem=lambda path, reason: None)][: asked.limit]
    encoder = load_encoder(asked.model)
    sketches, vectors = look(encoder, paths)
    groups = joined_by_pixels(sketches).groups()
    print(f"{len(paths):,} photographs: {len(groups)} groups by pixels, drawn in {asked.sheet}")
    draw_groups(groups, paths, asked.sheet)
    for least in COSINES:
        alone = joined_by_cosine(vectors, least).groups()
        print(f"by a cosine of {least} alone: {len(alone)} groups of {sum(map(len, alone))} photographs")
    originals = random.Random(1).sample(range(len(paths)), CHANGED)
    print(f"{'of ' + str(CHANGED):22}{'pixels':>8}" + "".join(f"{f'cos {least}':>10}" for least in COSINES))
    for kind in CHANGES:
        changed = look(encoder, [change(paths[original], kind) for original in originals])
        both = [np.concatenate(pair) for pair in zip((sketches, vectors), changed, strict=True)]
        ways = [joined_by_pixels(both[0]), *(joined_by_cosine(both[1], least) for least in COSINES)]
        counts = [count_found(joined, originals, len(paths)) for joined in ways]
        print(f"{kind:22}{counts[0]:8}" + "".join(f"{count:10}" for count in counts[1:]))
    if asked.rows:
        time_rows(sketches, asked.rows)


if __name__ == "__main__":
    main()

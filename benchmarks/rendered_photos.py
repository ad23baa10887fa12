"""Pictures to index, rendered at first use and kept in the system's temporary folder.

They hold detail at all scales, a little noise in all colours, and compress about as photographs do: 12 megapixels to 4
MB, 500 pixels to 90 KB.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(tempfile.gettempdir()) / "sightline-benchmarks"
_FINEST_CELLS = 2048
_FALL = 0.62
"""How much fainter detail of half the size is: photographs fall about so."""


def photos(count: int, *, width: int, height: int, quality: int = 93) -> Path:
    """A folder of `count` JPEGs, none like another."""
    folder = ROOT / f"{width}x{height}-{count}"
    if not (folder / ".done").exists():
        print(f"Rendering {count} pictures of {width} x {height} in {folder}; this is done once.", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        sheets = [_sheet(seed, width, height) for seed in range(3)]
        for number in range(count):
            Image.fromarray(_mix(sheets, number)).save(folder / f"IMG_{number:05}.jpg", quality=quality)
        (folder / ".done").touch()
    return folder


def tiny_jpegs(count: int) -> Path:
    """A folder of `count` JPEGs of 32 pixels; the same picture with another comment in each file."""
    folder = ROOT / f"tiny-{count}"
    if not (folder / ".done").exists():
        print(f"Writing {count:,} small files in {folder}; this is done once.", flush=True)
        buffer = io.BytesIO()
        Image.fromarray(_sheet(0, 32, 32).astype(np.uint8)).save(buffer, "JPEG")
        start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
        for number in range(count):
            inside = folder / f"{number // 1000:04}"
            inside.mkdir(parents=True, exist_ok=True)
            text = b"%08d" % number
            comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
            (inside / f"{number:08}.jpg").write_bytes(start + comment + rest)
        (folder / ".done").touch()
    return folder


def _sheet(seed: int, width: int, height: int) -> NDArray[np.float32]:
    """Noise at all scales, the coarsest strongest, as (H, W, 3) levels."""
    rng = np.random.default_rng(seed)
    levels_HW3 = np.full((height, width, 3), 120, np.float32)
    cells, strength = 4, 60.0
    while cells <= min(width, _FINEST_CELLS):
        noise_hw3 = rng.normal(size=(max(1, cells * height // width), cells, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(noise_hw3[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            levels_HW3[..., channel] += strength * np.asarray(plane)
        cells, strength = 2 * cells, strength * _FALL
    levels_HW3 += 5 * rng.standard_normal((height, width, 1), np.float32)
    levels_HW3 += 2.5 * rng.standard_normal((height, width, 3), np.float32)
    return np.clip(levels_HW3, 0, 255)


def _mix(sheets: list[NDArray[np.float32]], number: int) -> NDArray[np.uint8]:
    """Another picture for each number, cheaply: two sheets, one shifted, with other weights."""
    rng = np.random.default_rng(number)
    first, second = rng.choice(len(sheets), 2, replace=False)
    height, width, _ = sheets[0].shape
    shift = int(rng.integers(height)), int(rng.integers(width))
    share = np.float32(rng.uniform(0.75, 0.95))
    mixed_HW3 = share * sheets[first] + (1 - share) * np.roll(sheets[second], shift, axis=(0, 1))
    return mixed_HW3.astype(np.uint8)

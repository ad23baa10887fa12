"""The folder of a run: pictures as PNG, their making as GIF and frames, `generate.json`, and a contact sheet.

Shape suffixes: H W pixels.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sightline.errors import InputError
from sightline.lab.generate.results import MadePicture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SETTINGS_FILE = "generate.json"
SHEET_FILE = "sheet.html"
FRAMES_DIR = "frames"
_GIF_PX = 256
_FRAME_MS = 120
_LAST_MS = 1500


def claim_folder(path: Path) -> None:
    """Make the folder. Raises InputError where it is a file, holds something already, or can't be written."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --output must name a folder.")
    if path.is_dir() and any(path.iterdir()):
        what = "pictures of another run" if (path / SETTINGS_FILE).is_file() else "other files"
        raise InputError(f"{path} holds {what}, and nothing is overwritten. Give a new folder as --output.")
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)


def picture_name(picture: MadePicture, number: int) -> str:
    """The file's name without its ending: the prompt's number, some of its words, the seed."""
    words = "-".join(re.findall(r"[a-z0-9]+", picture.prompt.lower()))[:40].strip("-") or "prompt"
    return f"{number + 1:03}-{words}-seed{picture.seed}"


def name_pictures(pictures: Sequence[MadePicture]) -> list[str]:
    """A name for each picture; prompts are numbered in the order in which they come."""
    order = {prompt: number for number, prompt in enumerate(dict.fromkeys(picture.prompt for picture in pictures))}
    return [picture_name(picture, order[picture.prompt]) for picture in pictures]


def write_pictures(folder: Path, pictures: Sequence[MadePicture]) -> list[dict[str, Any]]:
    """PNGs, and where there are frames those and a GIF; what each picture's entry in `generate.json` is."""
    entries = []
    for picture, name in zip(pictures, name_pictures(pictures), strict=True):
        entry = {"file": f"{name}.png", **picture.to_dict()}
        _write(folder / f"{name}.png", _encode_png(picture.rgb))
        if len(picture.frames) > 1:
            entry |= {"gif": f"{name}.gif", "frames": []}
            _write(folder / f"{name}.gif", _encode_gif(picture.frames))
            for n, frame in enumerate(picture.frames):
                relative = f"{FRAMES_DIR}/{name}-{n:03}.png"
                _write(folder / relative, _encode_png(frame))
                entry["frames"].append(relative)
        entries.append(entry)
    return entries


def write_settings(folder: Path, values: Mapping[str, Any]) -> None:
    """`generate.json`: what was asked, what was made, what was measured; bytes that are no UTF-8 as \\udcXX escapes."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    _write(folder / SETTINGS_FILE, text.encode(errors="backslashreplace"))


def _encode_png(rgb_HW3: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(rgb_HW3).save(encoded, "PNG")
    return encoded.getvalue()


def _encode_gif(frames: Sequence[NDArray[np.uint8]]) -> bytes:
    """An endless GIF that rests on its last frame; small pictures are enlarged by a whole factor."""
    factor = max(1, math.ceil(_GIF_PX / max(frames[0].shape[:2])))
    height, width = (factor * side for side in frames[0].shape[:2])
    images = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    encoded = io.BytesIO()
    durations_ms = [_FRAME_MS] * (len(images) - 1) + [_LAST_MS]
    images[0].save(encoded, "GIF", save_all=True, append_images=images[1:], duration=durations_ms, loop=0)
    return encoded.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _explained(path):
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}. Choose another --output.") from error

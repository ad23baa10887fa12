"""Words in images, read by RapidOCR (extra `ocr`) and kept for each content: resumable, found by full text at once.

RapidOCR's wheel carries the PP-OCR models, which run in the ONNX Runtime that everything else runs in, offline.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from sightline.core.images.decode import read_image
from sightline.core.indexing.report import SkippedFile
from sightline.core.types import TextLine, TextReading
from sightline.errors import ImageError, ModelError, install_advice
from sightline.kit.work import Progress, map_ahead, uninterrupted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord

MIN_SIDE_PX = 1000
"""Asked of the decoder, which gives up to twice that: the engine itself reduces to 2,000 at most."""
_LEAST_SIDE_PX = 736
"""Smaller images are enlarged: the engine's own rule, which also forbids to look at a large one made small."""
_SMALLER = (0.3, 0.1)
"""Scales of further looks. They cost 10% of the first one's search for lines."""
_LARGE_PX = 14
"""Lines lower than this in a smaller image were seen in a larger one."""
_READ_WELL, _LEAST_SCORE = 0.9, 0.5
_AT_ONCE = 24
_MAX_AGE_S = 10.0
"""Readings of a transaction, and how long one waits for it: what is lost with a power cut."""
_AHEAD = 3


class TextReader(Protocol):
    """Reads the text of an image."""

    name: str

    def read(self, rgb_HW3: NDArray[np.uint8]) -> list[TextLine]:
        """The lines of an upright image (H, W, 3) uint8, from top to bottom."""


@dataclass(kw_only=True)
class TextReport:
    """Outcome of a run."""

    read: int = 0
    """Contents that were read; copies share one reading."""
    with_text: int = 0
    skipped: list[SkippedFile] = field(default_factory=list)
    interrupted: bool = False


class RapidReader:
    """RapidOCR with the models of its wheel. Raises ModelError where the extra `ocr` isn't installed."""

    def __init__(self) -> None:
        if find_spec("rapidocr") is None:
            raise ModelError(f"Reading text needs the extra ocr: {install_advice('ocr')}")
        from importlib.metadata import version

        from rapidocr import RapidOCR

        self.name = f"rapidocr {version('rapidocr')}"
        self._engine: Any = RapidOCR(params={"Global.log_level": "critical", "Det.limit_side_len": 32})

    def read(self, rgb_HW3: NDArray[np.uint8]) -> list[TextLine]:
        """The lines of an upright image (H, W, 3) uint8, from top to bottom.

        The engine misses letters that are large in the image it sees, so it looks at smaller ones, too.
        """
        image = _scale(Image.fromarray(rgb_HW3), max(1.0, _LEAST_SIDE_PX / min(rgb_HW3.shape[:2])))
        found = self._engine(_as_bgr(image), use_det=True, use_cls=True, use_rec=True)
        lines = _join(found.txts, found.scores, found.boxes, image.size)
        found_first = len(lines)
        for scale in _SMALLER:
            small = _scale(image, scale)
            boxes = self._engine(_as_bgr(small), use_det=True, use_cls=False, use_rec=False).boxes
            for box_42 in () if boxes is None else np.asarray(boxes, dtype=np.float64):
                if min(np.linalg.norm(box_42[0] - box_42[1]), np.linalg.norm(box_42[0] - box_42[3])) >= _LARGE_PX:
                    lines += self._read_box(image, box_42 / small.size, lines)
        kept: list[TextLine] = []
        for line in sorted(lines, key=lambda line: -line.score):
            if not any(_overlap(line, other) for other in kept):
                kept.append(line)
        ordered = [line for line in lines if line in kept]
        return ordered if len(lines) == found_first else sorted(ordered, key=lambda line: sum(line.corners[1::2]))

    def _read_box(self, image: Image.Image, box_42: NDArray[np.float64], known: list[TextLine]) -> list[TextLine]:
        """The line in a box (4, 2), in parts of the image's sides, unless it was read well before."""
        place = TextLine("", 0.0, tuple(box_42.clip(0, 1).round(5).ravel().tolist()))
        if any(line.score >= _READ_WELL and _overlap(line, place) for line in known):
            return []
        corners_42 = box_42 * image.size
        size = [max(round(float(np.linalg.norm(corners_42[0] - corners_42[side]))), 1) for side in (1, 3)]
        quad = tuple(corners_42[[0, 3, 2, 1]].ravel().tolist())
        crop = image.transform((size[0], size[1]), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
        found = self._engine(_as_bgr(crop), use_det=False, use_cls=True, use_rec=True)
        if not found.txts or not found.txts[0].strip() or found.scores[0] < _LEAST_SCORE:
            return []
        return [TextLine(found.txts[0], round(float(found.scores[0]), 4), place.corners)]


def _join(txts: Any, scores: Any, boxes: Any, size: tuple[int, int]) -> list[TextLine]:
    if boxes is None or txts is None or scores is None:
        return []
    shares = (np.asarray(boxes) / size).clip(0, 1).round(5).reshape(-1, 8).tolist()
    return [
        TextLine(text, round(float(score), 4), tuple(corners))
        for text, score, corners in zip(txts, scores, shares, strict=True)
    ]


def _scale(image: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize((size[0], size[1]), Image.Resampling.BILINEAR)


def _as_bgr(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)[..., ::-1].copy()


def _overlap(first: TextLine, second: TextLine) -> bool:
    """True where the middle of one line lies in the other."""
    a_42, b_42 = (np.reshape(line.corners, (4, 2)) for line in (first, second))
    return _holds(a_42, b_42.mean(axis=0)) or _holds(b_42, a_42.mean(axis=0))


def _holds(box_42: NDArray[np.float64], point_2: NDArray[np.float64]) -> bool:
    (x_4, y_4), (dx_4, dy_4) = (point_2 - box_42).T, (np.roll(box_42, -1, axis=0) - box_42).T
    return bool((dx_4 * y_4 - dy_4 * x_4 >= 0).all())


def read_text(
    store: Store, reader: TextReader, *, roots: Sequence[Path | None] = (None,), on_progress: Progress | None = None
) -> TextReport:
    """Read the text of all images, or of those below folders, whose content was never read.

    Files that can't be read are named in the report. Ctrl-C ends the run early with what was read kept. Raises
    StoreError.
    """
    report = TextReport()
    todo = list({record.content_hash: record for root in roots for record in store.unread(root)}.values())
    waiting: dict[str, TextReading] = {}
    written_at = time.monotonic()
    try:
        for done, (record, rgb_HW3) in enumerate(map_ahead(_decode, todo, threads=1, ahead=_AHEAD), start=1):
            if isinstance(rgb_HW3, str):
                report.skipped.append(SkippedFile(path=record.path, reason=rgb_HW3))
            else:
                lines = tuple(reader.read(rgb_HW3))
                waiting[record.content_hash] = TextReading(engine=reader.name, lines=lines)
                report.read += 1
                report.with_text += bool(lines)
            if len(waiting) >= _AT_ONCE or time.monotonic() - written_at > _MAX_AGE_S:
                _write(store, waiting)
                written_at = time.monotonic()
            if on_progress is not None:
                on_progress(done, len(todo), "")
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        _write(store, waiting)
    return report


def _decode(record: ImageRecord) -> tuple[ImageRecord, NDArray[np.uint8] | str]:
    try:
        return record, read_image(record.path, min_side_px=MIN_SIDE_PX).rgb
    except ImageError as error:
        return record, error.reason


def _write(store: Store, waiting: dict[str, TextReading]) -> None:
    with uninterrupted():
        if waiting:
            store.put_readings(waiting)
            waiting.clear()

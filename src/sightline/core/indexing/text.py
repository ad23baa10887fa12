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

from sightline.core.images.decode import read_image
from sightline.core.indexing.report import SkippedFile
from sightline.core.types import TextLine, TextReading
from sightline.errors import ImageError, ModelError, install_advice
from sightline.kit.work import Progress, map_ahead, uninterrupted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord

_MIN_SIDE_PX = 1000
"""Asked of the decoder, which gives up to twice that: the engine itself reduces to 2,000 at most."""
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
        self._engine = RapidOCR(params={"Global.log_level": "critical"})

    def read(self, rgb_HW3: NDArray[np.uint8]) -> list[TextLine]:
        """The lines of an upright image (H, W, 3) uint8, from top to bottom."""
        height, width = rgb_HW3.shape[:2]
        found: Any = self._engine(rgb_HW3[..., ::-1].copy())
        if found.boxes is None or found.txts is None or found.scores is None:
            return []
        shares = (np.asarray(found.boxes) / (width, height)).clip(0, 1).round(5).reshape(-1, 8).tolist()
        return [
            TextLine(text, round(float(score), 4), tuple(corners))
            for text, score, corners in zip(found.txts, found.scores, shares, strict=True)
        ]


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
        return record, read_image(record.path, min_side_px=_MIN_SIDE_PX).rgb
    except ImageError as error:
        return record, error.reason


def _write(store: Store, waiting: dict[str, TextReading]) -> None:
    with uninterrupted():
        if waiting:
            store.put_readings(waiting)
            waiting.clear()

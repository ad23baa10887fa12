"""A second look: the first hits of a query are read again by a model that takes an image and the words together.

CLIP looks at images and words apart, so that millions can be compared; it knows that a dog, a man and a ball are there,
and less of who holds what. A matcher (`models.base.Matcher`) reads both at once, one image after another: BLIP's
matching head, or a captioner, asked how probable the words are given the image. The two are added up in nats:

    nats_per_cosine x cosine + weight x match

By Bayes' rule log p(image | words) = log p(words | image) + log p(image) - log p(words), and the last is the same for
all images: what a captioner thinks of words without an image can't change a list, only what is compared between lists.

What a matcher sees of an image doesn't depend on the words. It is kept beside the library where it is small, so that
the next query that meets the image needs neither the file nor the matcher's image side.

Shape suffixes: N hits, S side in pixels, M cells of an image's memory, C their width.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.files import file_stamp
from sightline.errors import ImageError, InputError
from sightline.kit.work import Progress, map_ahead, usable_cpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Matcher
    from sightline.core.types import ImageRecord

MAX_RERANK = 250
"""Hits that are read again at most: with the starter's captioner half a second, with BLIP minutes."""

CAPTIONER_WEIGHT = 0.5
"""Weight of a captioner's log-probability of the words (`benchmarks/rerank.py --fit`). On images like those that the
starter's captioner learned from, 0.8 finds more (R@1 38.6 instead of 37.4%, without a second look 34.4), but on COCO's,
which are unlike them, it costs (52.8 instead of 54.5%); 0.5 costs nothing anywhere."""
MATCHER_WEIGHT = 1.0
"""Weight of a matching head's log-odds, which are in nats as they are."""

MAX_KEPT_BYTES = 65_536
"""A memory that is larger is not kept: the starter's captioner needs 19 kB an image, BLIP-base would 445 kB."""

_FOLDER = "second-look"
_READ_AHEAD = 16
_AHEAD_AT_ONCE = 64
_TABLE = (
    "create table if not exists memories (content_hash text not null, image_side text not null, "
    "cells integer not null, data blob not null, primary key (content_hash, image_side)) without rowid"
)
_log = logging.getLogger(__name__)


def require_words(words: Sequence[tuple[str, float]]) -> None:
    """Raises InputError where a query has no words that are looked for: nothing else can be read again."""
    if not any(weight > 0 for _, weight in words):
        raise InputError("A second look reads words, and the query looks for none. Add words, or leave rerank out.")


def default_weight(matcher: Matcher) -> float:
    """How much a matcher's nats count beside those of the cosine."""
    return MATCHER_WEIGHT if matcher.card.kind == "matcher" else CAPTIONER_WEIGHT


class SecondLook:
    """A matcher, and where it keeps what it has seen."""

    def __init__(self, matcher: Matcher, folder: Path | None = None, *, weight: float | None = None) -> None:
        """Read with `matcher`; what it sees is kept in the library in `folder`, or nowhere without one."""
        self.matcher = matcher
        self.weight = default_weight(matcher) if weight is None else weight
        self._memories = None if folder is None else KeptMemories(folder / _FOLDER, image_side=matcher.image_side)

    def reorder(
        self,
        found: Sequence[tuple[int, float]],
        records: Mapping[int, ImageRecord],
        words: Sequence[tuple[str, float]],
        *,
        nats_per_cosine: float,
        scores: Sequence[float] | None = None,
    ) -> list[tuple[int, float]]:
        """Rows with their cosines, and the records of rows -> the same rows, by both looks; cosines stay.

        `scores` is what the first look ranked them by, if not by cosine alone. `words` are the parts of the query that
        are words, with their weights. A row without a record, or whose file is gone or can't be read, keeps its place.
        Raises ModelError where the matcher fails.
        """
        nats = self.match(records, words)
        first = scores if scores is not None else [cosine for _, cosine in found]
        places = [place for place, (row, _) in enumerate(found) if row in nats]
        best = sorted(places, key=lambda place: -(nats_per_cosine * first[place] + self.weight * nats[found[place][0]]))
        reordered = list(found)
        for place, taken in zip(places, best, strict=True):
            reordered[place] = found[taken]
        return reordered

    def match(self, records: Mapping[int, ImageRecord], words: Sequence[tuple[str, float]]) -> dict[int, float]:
        """How well rows fit the words, in nats, up to a constant of the words; rows that can't be read are left out.

        Parts count by their share of what is looked for, as in the query's vector; those to look away from, against it.
        """
        memories = self.see(records.values())
        rows = [row for row, record in records.items() if record.content_hash in memories]
        if not rows:
            return {}
        memory_NMC = np.stack([memories[records[row].content_hash] for row in rows])
        total = sum(weight for _, weight in words if weight > 0)
        parts = [weight / total * self.matcher.match(memory_NMC, text) for text, weight in words]
        nats_N: NDArray[np.float64] = np.sum(parts, axis=0, dtype=np.float64)
        return dict(zip(rows, nats_N.tolist(), strict=True))

    def look_ahead(self, records: Iterable[ImageRecord], *, on_progress: Progress | None = None) -> int:
        """See images before any query does, so that none has to wait for their files; how many are kept now.

        What was kept of contents that are not among them is dropped. It can be stopped at any moment. Raises InputError
        where there is nowhere to keep it, or it is too large.
        """
        if self._memories is None:
            raise InputError("The library is open for reading only: nothing can be kept for a second look.")
        if (size := self.memory_bytes()) > MAX_KEPT_BYTES:
            raise InputError(
                f"{self.matcher.card.name} would keep {size / 1000:,.0f} kB an image for a second look; at most "
                f"{MAX_KEPT_BYTES / 1000:.0f} kB are kept. The captioner starter-captioner keeps 19 kB."
            )
        wanted = list(records)
        for first in range(0, len(wanted), _AHEAD_AT_ONCE):
            self.see(wanted[first : first + _AHEAD_AT_ONCE])
            if on_progress is not None:
                on_progress(min(first + _AHEAD_AT_ONCE, len(wanted)), len(wanted), "")
        return self._memories.keep_only({record.content_hash for record in wanted})

    def memory_bytes(self) -> int:
        """Bytes that are kept of one image."""
        side = self.matcher.card.preprocessing.size_px
        return len(_pack(self.matcher.see(np.zeros((1, side, side, 3), np.uint8))[0]))

    def see(self, records: Iterable[ImageRecord]) -> dict[str, NDArray[np.float32]]:
        """The memory (M, C) of each content that is kept or can be read now, by content hash."""
        wanted = {record.content_hash: record for record in records}
        memories = self._memories.find(wanted) if self._memories else {}
        missing = [record for content_hash, record in wanted.items() if content_hash not in memories]
        seen = self._see_now(missing)
        if self._memories:
            self._memories.keep(seen)
        return memories | seen

    def _see_now(self, records: Sequence[ImageRecord]) -> dict[str, NDArray[np.float32]]:
        threads = min(len(records), usable_cpus() + 1)
        if not threads:
            return {}
        pixels = map_ahead(self._read, records, threads=threads, ahead=_READ_AHEAD)
        readable = [(record.content_hash, one) for record, one in zip(records, pixels, strict=True) if one is not None]
        if not readable:
            return {}
        memory_NMC = self.matcher.see(np.stack([one for _, one in readable]))
        return {content_hash: _as_kept(memory) for (content_hash, _), memory in zip(readable, memory_NMC, strict=True)}

    def _read(self, record: ImageRecord) -> NDArray[np.uint8] | None:
        """The file's pixels (S, S, 3), if it still is what was indexed."""
        from sightline.core.images.decode import read_image  # takes a tenth of a search by words

        preprocessing = self.matcher.card.preprocessing
        try:
            if file_stamp(record.path.stat()) != (record.size_bytes, record.mtime_ns):
                return None
            return preprocessing.resize(read_image(record.path, min_side_px=preprocessing.size_px).rgb)
        except (ImageError, OSError):
            return None


class KeptMemories:
    """What a matcher has seen of images, int8 with a scale for each cell, in `memories.db` of a folder.

    Derived: may be deleted. Where it can't be read or written, images are seen anew.
    """

    def __init__(self, folder: Path, *, image_side: str) -> None:
        self.path = folder / "memories.db"
        self._image_side = image_side

    def find(self, content_hashes: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The memories (M, C) that are kept, by content hash."""
        if not self.path.is_file():
            return {}
        sql = (
            "select content_hash, cells, data from memories "
            "where image_side = ? and content_hash in (select value from json_each(?))"
        )
        try:
            with closing(self._connect()) as db:
                rows = db.execute(sql, (self._image_side, json.dumps(list(content_hashes)))).fetchall()
        except sqlite3.Error as error:
            _log.warning("What was seen of images can't be read in %s: %s", self.path, error)
            return {}
        return {content_hash: _unpack(data, cells) for content_hash, cells, data in rows}

    def keep(self, memories: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep memories (M, C) by content hash; those that are too large are not."""
        packed = [(content_hash, self._image_side, len(one), _pack(one)) for content_hash, one in memories.items()]
        packed = [row for row in packed if len(row[3]) <= MAX_KEPT_BYTES]
        if not packed:
            return
        try:
            self.path.parent.mkdir(exist_ok=True)
            with closing(self._connect()) as db, db:
                db.execute(_TABLE)
                db.executemany("insert or replace into memories values (?, ?, ?, ?)", packed)
        except (OSError, sqlite3.Error) as error:
            _log.warning("What was seen of images can't be kept in %s: %s", self.path, error)

    def keep_only(self, content_hashes: Iterable[str]) -> int:
        """Drop what was seen of other contents; how many are left of this matcher's."""
        if not self.path.is_file():
            return 0
        with closing(self._connect()) as db, db:
            given = json.dumps(list(content_hashes))
            db.execute("delete from memories where content_hash not in (select value from json_each(?))", (given,))
            of_this = "select count(*) from memories where image_side = ?"
            return int(db.execute(of_this, (self._image_side,)).fetchone()[0])

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=5.0)


def _as_kept(memory_MC: NDArray[np.float32]) -> NDArray[np.float32]:
    """A memory as it comes back from where it is kept: the first query gives the order that the next one gives."""
    packed = _pack(memory_MC)
    return _unpack(packed, len(memory_MC)) if len(packed) <= MAX_KEPT_BYTES else memory_MC


def _pack(memory_MC: NDArray[np.float32]) -> bytes:
    """Scales (M,) float16, then cells (M, C) int8."""
    scale_M = (np.abs(memory_MC).max(axis=1) / 127).astype(np.float16)
    divisor_M1 = np.maximum(scale_M.astype(np.float32), 1e-7)[:, None]
    cells_MC: NDArray[np.int8] = np.clip(np.round(memory_MC / divisor_M1), -127, 127).astype(np.int8)
    return bytes(scale_M.tobytes() + cells_MC.tobytes())


def _unpack(data: bytes, cells: int) -> NDArray[np.float32]:
    scale_M = np.frombuffer(data, np.float16, cells).astype(np.float32)
    cells_MC = np.frombuffer(data, np.int8, offset=2 * cells).reshape(cells, -1)
    return cells_MC * scale_M[:, None]

"""Rankings of queries: computed once, as deep as they were asked for, and kept while pages of them are read.

A deeper ranking keeps what was given before as its beginning, and always grows by the same steps: pages neither repeat
nor lose a row, and a ranking that was forgotten comes back the same. A cursor says, as text that clients don't look
into, where in which ranking the next page begins.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from sightline.core.search.relevance import Verdict
from sightline.core.types import Reason
from sightline.errors import CursorError

DEPTHS = (250, 4000)
"""Rows of a ranking at first; then it has all rows. Ranking 100,000 rows takes 5 ms, 35 ms and 300 ms."""

_KEPT = 64
_KEPT_ROWS = 4_000_000
_PLACE = TypeAdapter(tuple[str, str, Annotated[int, Field(gt=0, lt=2**53)]])
"""A cursor's fields."""

Found = list[tuple[int, float | None]]
Rank = Callable[[int], Found]
"""A depth -> that many best rows with their cosines, best first."""
Rate = Callable[[Found], list[float | None]]
"""Rows with their cosines -> the probability of each."""
Why = Callable[[Found], list[tuple[Reason, ...]]]
"""The same -> what speaks for each."""


class Ranking:
    """Rows with cosines, best first."""

    def __init__(self, rank: Rank, *, available: int, total: int | None, by_cosine: bool = True) -> None:
        """`available` is a depth that surely has all rows. `total` is their number, None where only ranking tells.

        `by_cosine` says that a ranking shorter than asked has no more rows at any depth.
        """
        self._rank = rank
        self._available = available
        self._total = total
        self._by_cosine = by_cosine
        self.rate: Rate = lambda found: [None] * len(found)
        self.why: Why = lambda found: [()] * len(found)
        self.verdict: Verdict | None = None
        """What is to be said of the query; None without one."""
        self.likely: int | None = None
        """Number of rows up to the last that is likely right; None where that isn't known."""
        self._ids = np.empty(0, dtype=np.int64)
        self._similarities = np.empty(0, dtype=np.float32)
        self._depth = 0
        self._lock = threading.Lock()

    @classmethod
    def of_rows(cls, ids: NDArray[np.int64], cosines: Sequence[float] | None = None) -> Ranking:
        """Rows in a given order, with cosines if there are some."""
        ranking = cls(lambda _: [], available=0, total=len(ids))
        ranking._ids = ids
        ranking._similarities = np.full(len(ids), np.nan if cosines is None else cosines, dtype=np.float32)
        return ranking

    def __len__(self) -> int:
        return len(self._ids)

    def page(self, offset: int, limit: int) -> Found:
        """`limit` rows after the first `offset`; fewer at the end."""
        with self._lock:
            while len(self._ids) < offset + limit and self._depth < self._available:
                self._grow()
            ids = self._ids[offset : offset + limit].tolist()
            similarities = self._similarities[offset : offset + limit].tolist()
        return [(row, None if np.isnan(value) else value) for row, value in zip(ids, similarities, strict=True)]

    @property
    def total(self) -> int:
        """The number of rows in all."""
        with self._lock:
            while self._total is None and self._depth < self._available:
                self._grow()
            return len(self._ids) if self._total is None else self._total

    def _grow(self) -> None:
        deeper = next((depth for depth in DEPTHS if depth > self._depth), self._available)
        self._depth = min(deeper, self._available)
        known = set(self._ids.tolist())
        found = self._rank(self._depth)
        if self._by_cosine and len(found) < self._depth:
            self._depth = self._available
        more = [(row, similarity) for row, similarity in found if row not in known]
        self._ids = np.append(self._ids, np.array([row for row, _ in more], dtype=np.int64))
        added = np.array([similarity for _, similarity in more], dtype=np.float32)
        self._similarities = np.append(self._similarities, added)


class Rankings:
    """The latest rankings, by what was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Ranking] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: str) -> Ranking | None:
        """A ranking that is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: str, ranking: Ranking) -> None:
        """Keep a ranking; the oldest are forgotten."""
        with self._lock:
            self._kept[key] = ranking
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and (
                len(self._kept) > _KEPT or sum(len(one) for one in self._kept.values()) > _KEPT_ROWS
            ):
                self._kept.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the ranking of a query."""

    query: str
    """Digest of what was asked."""
    version: str
    """The library's version when it was ranked."""
    offset: int


def write_cursor(cursor: Cursor) -> str:
    """A cursor as text for an address."""
    fields = _PLACE.dump_json((cursor.query, cursor.version, cursor.offset))
    return base64.urlsafe_b64encode(fields).decode().rstrip("=")


def read_cursor(text: str, *, query: str) -> Cursor:
    """The inverse of `write_cursor`. Raises CursorError for text that is no cursor of this query."""
    try:
        fields = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        asked, version, offset = _PLACE.validate_json(fields, strict=True)
    except ValueError:  # also what base64 and pydantic raise
        raise CursorError("This cursor is none that an answer of ours gave as `next`.") from None
    if asked != query:
        raise CursorError("This cursor belongs to another query; give it with the one that it came from.")
    return Cursor(query=asked, version=version, offset=offset)

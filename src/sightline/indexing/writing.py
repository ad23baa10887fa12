"""Committing what was found in transactions of a few hundred rows or two seconds, whichever comes first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.store.base import Entry, Failure, Store

_MAX_ROWS = 256
_MAX_AGE_S = 2.0


class Writer:
    """Collects rows and failures and commits them together. Errors are the store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: list[Entry] = []
        self._failures: list[Failure] = []
        self._flushed_at = time.monotonic()
        self.seconds = 0.0
        self.first_added: int | None = None
        """The lowest id that a new row got: ids grow, so all rows from here on are of this run."""

    def add(self, entry: Entry) -> None:
        """Take a row to write."""
        self._entries.append(entry)

    def add_failure(self, failure: Failure) -> None:
        """Take a failure to remember."""
        self._failures.append(failure)

    @property
    def due(self) -> bool:
        """Whether what was collected is enough, or old enough, to be committed."""
        rows = len(self._entries) + len(self._failures)
        return rows >= _MAX_ROWS or (rows > 0 and time.monotonic() - self._flushed_at >= _MAX_AGE_S)

    def flush(self) -> set[int]:
        """Commit what was collected; the ids of the rows that have got a vector.

        A Ctrl-C waits until it is done. What the store refuses is not tried again.
        """
        started = time.monotonic()
        ids: list[int] = []
        with uninterrupted():
            entries, failures = self._entries, self._failures
            self._entries, self._failures = [], []
            if entries or failures:
                ids = self._store.upsert(entries, failures=failures)
        self._flushed_at = time.monotonic()
        self.seconds += self._flushed_at - started
        if self.first_added is None:
            added = (id_ for id_, entry in zip(ids, entries, strict=True) if entry.image.id is None)
            self.first_added = min(added, default=None)
        return {id_ for id_, entry in zip(ids, entries, strict=True) if entry.embeddings}


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block ends. Other threads than the main one never get it."""
    foreign_handler = signal.getsignal(signal.SIGINT) is None  # not Python's: it can't be put back
    if foreign_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held and callable(before):
        before(*held[0])

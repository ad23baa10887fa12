"""Threads for work that may be slow: each kind has a few of its own, and a line of requests before them.

A model that loads, or an endpoint that says nothing, holds the threads of its own lane. Searches with other models,
pages and thumbnails have theirs, and requests that wait in a line hold no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, TypeVarTuple

import anyio

from sightline.faces.web.problems import Problem

Given = TypeVarTuple("Given")
Done = TypeVar("Done")
Tower = Literal["words", "pictures"]

THREADS = 4
MAX_WAITING = 100
RETRY_AFTER_S = 2


class Lane:
    """Some threads and a line of bounded length. For one event loop."""

    def __init__(self, *, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._places = threads + max_waiting

    async def run(self, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work in one of the threads, when it is its turn. Raises a 503 problem where the line is full."""
        if self._places == 0:
            raise Problem(
                503,
                "Too many requests wait for this already; try again.",
                kind="busy",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._places -= 1
        try:
            return await anyio.to_thread.run_sync(work, *given, limiter=self._limiter)
        finally:
            self._places += 1


class ModelLanes:
    """Two lanes for each model: words never wait for pictures."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, Tower], Lane] = {}

    def of(self, model: str, tower: Tower) -> Lane:
        """The lane of a tower of a model. Call it in the event loop, with names that were checked: lanes are kept."""
        return self._lanes.setdefault((model, tower), Lane())

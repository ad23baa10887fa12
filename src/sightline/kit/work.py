"""Work on many things: CPUs, threads that read ahead, trying again, how progress is told, what Ctrl-C does."""

from __future__ import annotations

import email.utils
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Notice = Callable[[str], None]
"""Takes a line for the person, such as a warning."""
Progress = Callable[[int, int | None, str], None]
"""Takes how many are done, of how many (None: not known), and a few words beside them."""


WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of what may pass."""


def usable_cpus() -> int:
    """Number of CPUs this process may run on; fewer than the machine has where it is pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """`function` of each item, in order, computed by threads at most `ahead` items before they are consumed.

    An error of the function's is raised at its item's place. Whoever stops early stops what has not begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    remaining = iter(items)
    try:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:  # also after Ctrl-C
        pool.shutdown(wait=True, cancel_futures=True)


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


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside the block, the first SIGINT or SIGTERM only makes the given function return True; a second one interrupts.

    Elsewhere than in the main thread, where signals can't be caught, the function returns False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RecentRate:
    """Things done a second, over the last `window_s` seconds."""

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._recent: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float:
        """Take how many are done at a moment (of `time.monotonic`); the rate since the window began, 0 at first."""
        self._recent.append((now, done))
        while now - self._recent[0][0] > self._window_s and len(self._recent) > 2:
            self._recent.popleft()
        since, before = self._recent[0]
        return (done - before) / (now - since) if now > since else 0.0


def retry_after_s(value: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 where it says nothing that can be read."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def backoff_s(tried: int, *, first_s: float, longest_s: float = 60.0) -> float:
    """Seconds to wait after `tried` tries: `first_s`, doubled each time, up to `longest_s`, then spread by a half.

    Spread, so that many who failed together don't come back together.
    """
    wait_s: float = min(first_s * 2 ** (tried - 1), longest_s)
    return wait_s * random.uniform(0.5, 1.0)

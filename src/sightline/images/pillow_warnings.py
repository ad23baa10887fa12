"""Keeps Pillow's warnings about damaged files from the user's process while we read one.

`warnings.catch_warnings` swaps the filters of the whole process, and threads that use it side by side restore each
other's. So there is one permanent filter instead, whose module pattern matches only in a thread that is inside
`quiet_pillow`: elsewhere it is inert.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


class _PillowOfThisThread(threading.local):
    """Stands in for a filter's compiled module pattern."""

    depth = 0

    def match(self, module: str) -> bool:
        return self.depth > 0 and module.startswith("PIL.")


_pattern = _PillowOfThisThread()
_FILTER = ("ignore", None, Warning, _pattern, 0)
_lock = threading.Lock()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore warnings that Pillow raises in this thread."""
    _put_filter_first()
    _pattern.depth += 1
    try:
        yield
    finally:
        _pattern.depth -= 1


def _put_filter_first() -> None:
    """Others may have put filters before ours, or restored filters from before it, since the last read."""
    filters = cast("list[Any]", warnings.filters)
    if filters and filters[0] is _FILTER:
        return
    with _lock:
        filters[:] = [_FILTER, *(known for known in filters if known is not _FILTER)]

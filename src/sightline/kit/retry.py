"""Trying again: which answers may pass, and how long to wait."""

from __future__ import annotations

import email.utils
import random
import time

WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of what may pass."""


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

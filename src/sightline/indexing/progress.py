"""Turning a run's counts into events: at most ten a second, with a rate over the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sightline.indexing.report import IndexReport, Progress

if TYPE_CHECKING:
    from sightline.indexing.plan import Plan

_INTERVAL_S = 0.1
_WINDOW_S = 10.0


class ProgressMeter:
    """Watches a plan and a report, and calls `on_progress` now and then."""

    def __init__(self, plan: Plan, report: IndexReport, on_progress: Callable[[Progress], None] | None) -> None:
        self._plan = plan
        self._report = report
        self._on_progress = on_progress
        self._told_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self.done = 0
        self.total: int | None = None

    def tick(self, *, force: bool = False) -> None:
        """Tell how things stand, if it is time or `force`."""
        now = time.monotonic()
        if self._on_progress is None or (now - self._told_at < _INTERVAL_S and not force):
            return
        self._told_at = now
        rate = self._images_per_s(now)
        left = None if self.total is None else self.total - self.done
        self._on_progress(
            Progress(
                seen=self._plan.seen,
                unchanged=self._report.unchanged,
                embedded=self._report.embedded,
                skipped=len(self._report.skipped),
                done=self.done,
                total=self.total,
                images_per_s=rate,
                seconds_left=0.0 if left == 0 else left / rate if left and rate else None,
                unreadable=self._report.skipped,
            )
        )

    def _images_per_s(self, now: float) -> float:
        self._recent.append((now, self.done))
        while now - self._recent[0][0] > _WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        since, done = self._recent[0]
        return (self.done - done) / (now - since) if now > since else 0.0

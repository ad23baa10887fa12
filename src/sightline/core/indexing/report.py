"""Settings, progress and report of an indexing run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sightline.errors import InputError
from sightline.kit.text import printable
from sightline.kit.work import RecentRate, usable_cpus

if TYPE_CHECKING:
    from sightline.core.indexing.plan import Plan


_INTERVAL_S = 0.1
"""Events come at most ten a second."""

RemoveMissing = Literal["safe", "always"]

_STAGES = ("walk", "read", "decode", "wait", "embed", "write")


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Settings of an indexing run. Raises InputError for a value out of range."""

    exclude: tuple[str, ...] = ()
    """Shell patterns of files and folders to leave out (`raw`, `*.png`); what the library has of them is removed."""
    remove_missing: RemoveMissing = "safe"
    """`safe` forgets files that are gone, unless their folder is still there without any image, or a folder to index is
    missing, as an unmounted disk looks; `always` forgets them even then."""
    retry_failures: bool = False
    """Read again unchanged files that could not be read before."""
    readers: int = field(default_factory=lambda: min(16, max(2, usable_cpus())))
    """Threads that read and decode; each may hold a whole picture."""
    max_batch_size: int = 64
    """Most images encoded at once; the batch grows up to it as long as one takes less than half a second."""
    may_follow: Callable[[Path], bool] | None = None
    """True for a link that may be followed; what the library has behind others stays as it is. None follows all."""

    def __post_init__(self) -> None:
        if self.remove_missing not in ("safe", "always"):
            raise InputError(f"remove_missing is {self.remove_missing!r}; it must be 'safe' or 'always'.")
        for name in ("readers", "max_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexProgress:
    """A moment of a run."""

    seen: int
    """Image files found so far."""
    unchanged: int
    embedded: int
    skipped: int
    """Files that could not be read."""
    done: int
    """Files that were read, out of `total`."""
    total: int | None
    """Files that have to be read; None while folders are still walked."""
    images_per_s: float
    """Files read in each of the last seconds, on average."""
    seconds_left: float | None
    """None while it can't be told."""
    unreadable: Sequence[SkippedFile] = ()
    """The files of `skipped` with their reasons: the run's own list, which grows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFile:
    """A file or folder that could not be read, and why."""

    path: Path
    reason: str


@dataclass(kw_only=True)
class IndexReport:
    """Outcome of a run. Each image file is one of added, updated, renamed, copied, touched, unchanged or skipped."""

    added: int = 0
    updated: int = 0
    """Pixels changed: embedded anew."""
    renamed: int = 0
    """Known content whose old path is gone: the row moved, with its vectors and captions."""
    copied: int = 0
    """Known content at a further path: a new row that shares the vector."""
    touched: int = 0
    """Other time or size of the same bytes: hashed, not embedded."""
    unchanged: int = 0
    removed: int = 0
    """Rows forgotten because their files are gone."""
    embedded: int = 0
    """Images that went through the model; an unchanged image does when a second model is added."""
    skipped: list[SkippedFile] = field(default_factory=list)
    """Files that could not be read, with those known from earlier runs. The row of a once readable file is kept."""
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))
    """Seconds of each stage. `walk`, `wait` (for readers), `embed` and `write` follow each other; `read` (with hashing)
    and `decode` are sums over the reader threads beside them."""

    @property
    def counts(self) -> dict[str, int]:
        """The numbers alone, as `--json` shows them."""
        names = ("added", "updated", "renamed", "copied", "touched", "unchanged", "removed", "embedded")
        return {name: getattr(self, name) for name in names} | {"skipped": len(self.skipped)}

    def summary(self, *, max_named: int = 20) -> str:
        """Lines for a person: counts, then each skipped file with its reason (at most `max_named`), then warnings."""
        return "\n".join(self._lines(max_named))

    def _lines(self, max_named: int) -> Iterator[str]:
        done = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count) or "no images found"
        rate = f" ({self.embedded / self.seconds:,.0f} images/s)" if self.embedded and self.seconds else ""
        yield f"{'Interrupted: ' if self.interrupted else ''}{done} in {self.seconds:,.1f} s{rate}"
        if self.skipped:
            reasons = Counter(skipped.reason for skipped in self.skipped)
            yield "Could not be read: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        for skipped in self.skipped[:max_named]:
            path = printable(str(skipped.path)).encode("utf-8", "backslashreplace").decode()
            yield f"  {path}: {skipped.reason}"
        if len(self.skipped) > max_named:
            yield f"  and {len(self.skipped) - max_named:,} more"
        if self.interrupted:
            yield "What was embedded is kept; index again to go on."
        yield from (f"Warning: {warning}" for warning in self.warnings)


class ProgressMeter:
    """Watches a plan and a report, and calls `on_progress` now and then."""

    def __init__(self, plan: Plan, report: IndexReport, on_progress: Callable[[IndexProgress], None] | None) -> None:
        self._plan = plan
        self._report = report
        self._on_progress = on_progress
        self._told_at = 0.0
        self._rate = RecentRate()
        self.done = 0
        self.total: int | None = None

    def tick(self, *, force: bool = False) -> None:
        """Tell how things stand, if it is time or `force`."""
        now = time.monotonic()
        if self._on_progress is None or (now - self._told_at < _INTERVAL_S and not force):
            return
        self._told_at = now
        rate = self._rate.at(now, self.done)
        left = None if self.total is None else self.total - self.done
        self._on_progress(
            IndexProgress(
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

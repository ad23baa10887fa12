"""How a report writes figures."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.evaluation.comparison_report import figure

__all__ = ["figure"]

POINTS = " points"


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return figure(metric, 0.5).endswith("%")


def difference(metric: str, value: float) -> str:
    """A difference of two values of a metric: of shares in percentage points."""
    if is_share(metric):
        return f"{100 * value:.1f}{POINTS}"
    return figure(metric, value)


def p_value(p: float) -> str:
    """A p-value as `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(n: int, noun: str) -> str:
    """`1 run`, `18 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def enumerate_words(words: Sequence[str], *, most: int = 6) -> str:
    """`a, b and c`; of many the first ones and how many more."""
    shown = list(words[:most])
    if len(words) > most:
        return f"{', '.join(shown)} and {len(words) - most:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

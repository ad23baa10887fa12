"""What all benchmarks share: paired runs, a table, a JSON file for `docs/performance.md`.

Ours and the alternative take turns, so that a busy minute hits both; the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. `ours` and `other` are in `unit`; without an alternative `other` and `ratio` are None."""

    journey: str
    unit: str
    """`images/s`, where more is better, or `ms`, `s` and `MB`, where less is."""
    ours: float
    other: float | None = None
    alternative: str = ""
    """What the other is, by name."""
    ratio: float | None = None
    """How many times better ours is: the median over the pairs."""
    goal: str = ""
    reached: bool | None = None
    limit: str = ""
    """What the hardware allows, where it can be computed, and how."""


def paired(
    ours: Callable[[], object], other: Callable[[], object], *, pairs: int = 5, warm_up: bool = True
) -> tuple[float, float, float]:
    """Seconds of ours and of the other, medians, and the median of other / ours."""
    if warm_up:
        ours(), other()
    times = [(seconds(ours), seconds(other)) for _ in range(pairs)]
    return (
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(b / a for a, b in times),
    )


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def show(name: str, rows: Sequence[Row]) -> None:
    """Print the table, and keep it in `results/NAME.json`."""
    print(f"\n{name}: {machine()}")
    for row in rows:
        against = f"  {row.alternative} {row.other:,.1f}  ratio {row.ratio:.2f}" if row.ratio and row.other else ""
        goal = f"  goal {row.goal}: {'reached' if row.reached else 'missed'}" if row.goal else ""
        limit = f"  limit {row.limit}" if row.limit else ""
        print(f"  {row.journey:<58} ours {row.ours:,.1f} {row.unit}{against}{goal}{limit}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    table = {
        "name": name,
        "machine": machine(),
        "date": date.today().isoformat(),
        "rows": [asdict(row) for row in rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """Processor and cores, as the operating system names them."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"

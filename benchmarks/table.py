"""What `results/*.json` say, as a table between the marks of `docs/performance.md`: `python benchmarks/table.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- begin generated: make bench -->", "<!-- end generated -->"
HEADER = "| journey | ours | what one would use instead | times better | goal | limit |\n|---|---|---|---|---|---|"
_SIGNIFICANT = 3


def make_tables(results: Path = RESULTS) -> str:
    """Markdown: a table for each result file, by name, with the machine and the day it was measured."""
    parts = []
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        rows = "\n".join(_row(row) for row in result["rows"])
        parts.append(f"**{result['name']}** ({result['machine']}, {result['date']})\n\n{HEADER}\n{rows}")
    return "\n\n".join(parts)


def write_tables(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the tables between the marks of a page; what was written by hand stays."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} must hold the lines {BEGIN} and {END} once each.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{make_tables(results)}\n\n{END}{after}", encoding="utf-8")


def _row(row: Mapping[str, Any]) -> str:
    unit = row["unit"]
    other = f"{_number(row['other'])} {unit} ({row['alternative']})" if row["other"] is not None else ""
    ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
    goal = f"{row['goal']}: {'reached' if row['reached'] else '**missed**'}" if row["goal"] else ""
    cells = (row["journey"], f"{_number(row['ours'])} {unit}", other, ratio, goal, row["limit"])
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _number(value: float) -> str:
    """Three digits that count, with commas: 1,234 and 0.123."""
    digits = max(0, _SIGNIFICANT - len(str(int(abs(value))))) if abs(value) >= 1 else _SIGNIFICANT
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    write_tables()

"""Plain tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 100
"""Columns of text that a table may take."""
_GAP = "  "


def format_table(header: Sequence[str], rows: Sequence[Sequence[str | float]], *, width: int = WIDTH) -> str:
    """Aligned text: numbers to the right with three decimals; the widest column is wrapped to keep within `width`."""
    cells = [list(header), *([_format_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    widest = max(range(len(widths)), key=widths.__getitem__)
    spare = width - len(_GAP) * (len(widths) - 1) - (sum(widths) - widths[widest])
    widths[widest] = min(widths[widest], max(spare, 1))
    right = [any(isinstance(row[column], float) for row in rows) for column in range(len(header))]
    lines = [
        _GAP.join(
            text.rjust(size) if side else text.ljust(size) for text, size, side in zip(line, widths, right, strict=True)
        )
        for row in (cells[0], ["-" * size for size in widths], *cells[1:])
        for line in _wrap_cell(row, widest, widths[widest])
    ]
    return "\n".join(line.rstrip() for line in lines)


def _format_cell(cell: str | float) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else cell


def _wrap_cell(row: Sequence[str], column: int, size: int) -> Iterator[list[str]]:
    """A row as one line, or as several whose other cells are empty from the second on."""
    first, *others = textwrap.wrap(row[column], size) or [""]
    yield [*row[:column], first, *row[column + 1 :]]
    for text in others:
        yield [text if place == column else "" for place in range(len(row))]

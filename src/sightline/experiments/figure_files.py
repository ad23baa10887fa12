"""Figures drawn by matplotlib without a display, written whole or not at all. Needs the extra `train`."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

from sightline.errors import InputError, install_advice
from sightline.pages import visible

DPI = 130


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty figure of this size in inches. Raises InputError where matplotlib isn't installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"Pictures need matplotlib, of the extra train: {install_advice('train')}") from error
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def short_line(text: str, most: int) -> str:
    """Text on one line of at most so many letters, without what can't be drawn."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def save_figure(figure: Any, target: Path) -> Path:
    """Write a PNG; its path. Raises InputError where it can't be written."""
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The user's words may hold letters that the font lacks: boxes are drawn, and nothing has to be said.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(part, format="png")
        part.replace(target)
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}. Choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return target

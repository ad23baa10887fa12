"""A photo and where words match it, as a picture. Needs the extra `train`. Shape suffixes: H W height and width."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.errors import InputError
from sightline.experiments.figure_files import new_figure, save_figure, short_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.experiments.explain import Match

MOST_COLUMNS = 4
PANEL_IN = 2.9
WRAP = 34
"""Letters of a title's line."""
_LINE_IN = 0.16
"""Its height."""

# Dark where nothing matches, bright where it does: also in grey print, and with every kind of colour blindness.
_COLOURS = "inferno"
_VEIL = 0.62
_BOX_COLOUR = "#56B4E9"
_MEANING = {
    "map": "cosine of each place with the words",
    "gradient": "what each place adds to the similarity (gradient x activation, no unit)",
    "attention": "attention that moves the similarity (no unit)",
}


def draw_matches(rgb_HW3: NDArray[np.uint8], matches: Sequence[Match], target: Path) -> Path:
    """The photo (H, W, 3), then a panel for the words of each match, on one scale; the box is the best cell.

    Raises InputError for no matches, without matplotlib, and where the file can't be written.
    """
    if not matches:
        raise InputError("There is nothing to draw: no words were looked for.")
    rows = math.ceil((len(matches) + 1) / MOST_COLUMNS)
    columns = math.ceil((len(matches) + 1) / rows)
    height, width = rgb_HW3.shape[:2]
    panel_height = PANEL_IN * min(max(height / width, 0.5), 1.6)
    title_in = _LINE_IN * max(_title(match).count("\n") + 1 for match in matches)
    figure = new_figure(PANEL_IN * columns + 0.9, (panel_height + title_in + 0.3) * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(rgb_HW3)
    axes[0].set_title("the picture", fontsize=9, loc="left")
    low = min(float(match.heat_HW.min()) for match in matches)
    high = max(float(match.heat_HW.max()) for match in matches)
    if high <= low:
        high = low + 1e-6  # all alike: one colour
    shown = None
    for axis, match in zip(axes[1:], matches, strict=False):
        shown = _draw_panel(axis, rgb_HW3, match, limits=(low, high))
    bar = figure.colorbar(shown, ax=axes.tolist(), fraction=0.025, pad=0.01, aspect=30)
    bar.set_label(textwrap.fill(_MEANING[matches[0].method], 42), fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.formatter.set_powerlimits((-2, 3))
    bar.ax.yaxis.offsetText.set_fontsize(8)
    return save_figure(figure, target)


def _title(match: Match) -> str:
    words = textwrap.wrap(short_line(match.words, 3 * WRAP), WRAP)
    return "\n".join([*words, f"similarity {match.similarity:.3f}"])


def _draw_panel(axis: Any, rgb_HW3: NDArray[np.uint8], match: Match, *, limits: tuple[float, float]) -> Any:
    """The grey photo under its heat, the box of the best cell, and in the title what was looked for."""
    from matplotlib.patches import Rectangle

    height, width = rgb_HW3.shape[:2]
    grey_HW = rgb_HW3.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    axis.imshow(grey_HW, cmap="gray", vmin=0, vmax=255)
    area, box = match.area, match.box
    extent = (
        area.left * width - 0.5,
        (area.left + area.width) * width - 0.5,
        (area.top + area.height) * height - 0.5,
        area.top * height - 0.5,
    )
    low, high = limits
    shown = axis.imshow(
        match.heat_HW, cmap=_COLOURS, vmin=low, vmax=high, alpha=_VEIL, extent=extent, interpolation="bilinear"
    )
    shape = (box.width * width, box.height * height)
    for colour, line_width in (("black", 3.0), (_BOX_COLOUR, 1.6)):
        corner = (box.left * width - 0.5, box.top * height - 0.5)
        axis.add_patch(Rectangle(corner, *shape, fill=False, edgecolor=colour, linewidth=line_width))
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_title(_title(match), fontsize=9, loc="left", parse_math=False)
    return shown

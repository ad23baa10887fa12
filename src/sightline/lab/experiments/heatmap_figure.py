"""Heatmaps as pictures: texts by pictures, also as a page of its own, and a photo with where words match.

Drawn by matplotlib (extra `train`) without a display, written whole or not at all. Shape suffixes: T texts, B pictures,
H W height and width.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import InputError, install_advice
from sightline.kit.pages import escape, write_page
from sightline.kit.text import visible
from sightline.lab.evaluation.pages import format_heatmap, format_page, format_section

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.lab.experiments.explain import Match
    from sightline.lab.experiments.similarity_heatmap import HeatmapPicture, SimilarityHeatmap

MOST_LETTERS = 60
CELL_IN = 0.62
_THUMBNAIL_PX = 96
# One hue from dark to bright: the order of values survives grey print and every kind of colour blindness.
_CELL_COLOURS = "cividis"
_NAME_LETTERS = 14
_LEAST_WRITTEN = 0.005
_LEADS = {
    "cosine": "Cosine of each text with each picture. Cosines of one model don't compare with those of another.",
    "probability": "Which of these texts each picture would be, if it had to be one of them: columns add up to 1.",
}
MOST_COLUMNS = 4
PANEL_IN = 2.9
WRAP = 34
"""Letters of a title's line."""
_LINE_IN = 0.16
"""Its height."""
# Dark where nothing matches, bright where it does: also in grey print, and with every kind of colour blindness.
_HEAT_COLOURS = "inferno"
_VEIL = 0.62
_BOX_COLOUR = "#56B4E9"
_MEANING = {
    "map": "cosine of each place with the words",
    "gradient": "what each place adds to the similarity (gradient x activation, no unit)",
    "attention": "attention that moves the similarity (no unit)",
}
DPI = 130


def draw_heatmap(heatmap: SimilarityHeatmap, target: Path) -> Path:
    """A PNG with texts at the left, thumbnails on top, a number in every cell.

    Raises InputError without matplotlib, and where the file can't be written.
    """
    n_texts, n_pictures = heatmap.values_TB.shape
    labels = ["\n".join(textwrap.wrap(short_line(text, MOST_LETTERS), 30)) for text in heatmap.texts]
    widest = max(len(line) for label in labels for line in label.split("\n"))
    width_in = CELL_IN * n_pictures + 0.085 * widest + 1.3
    figure = new_figure(max(width_in, 4.0), CELL_IN * (n_texts + 1.1) + 0.9)
    heads, body = figure.subplots(2, 1, height_ratios=(1.05, n_texts), sharex=True)
    shown = body.imshow(heatmap.values_TB, cmap=_CELL_COLOURS, aspect="auto", **_limits(heatmap))
    body.set_yticks(range(n_texts), labels, fontsize=9, parse_math=False)
    names = [short_line(picture.name, _NAME_LETTERS) for picture in heatmap.pictures]
    body.set_xticks(
        range(n_pictures), names, fontsize=8, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    body.tick_params(length=0)
    body.spines[:].set_visible(False)
    _write_numbers(body, heatmap, shown)
    _place_thumbnails(heads, heatmap)
    bar = figure.colorbar(shown, ax=body, fraction=0.3 / width_in, pad=0.01)
    bar.set_label(heatmap.kind, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    heads.set_title(visible(f"{heatmap.model}: {heatmap.kind}"), fontsize=9, loc="left", parse_math=False)
    return save_figure(figure, target)


def write_heatmap_page(heatmap: SimilarityHeatmap, target: Path) -> Path:
    """One HTML file with everything in it. Raises InputError where it can't be written."""
    limits = _limits(heatmap)
    table = format_heatmap(
        [_head(picture) for picture in heatmap.pictures],
        [
            (escape(text), [float(value) for value in row])
            for text, row in zip(heatmap.texts, heatmap.values_TB, strict=True)
        ],
        number=".2f",
        between=(limits["vmin"], limits["vmax"]),
    )
    section = format_section("Texts and pictures", table)
    return write_page(target, format_page(f"Heatmap of {heatmap.model}", lead=_LEADS[heatmap.kind], sections=[section]))


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


def _limits(heatmap: SimilarityHeatmap) -> dict[str, float]:
    """The ends of the colours: probabilities from 0 to 1, cosines from the lowest to the highest."""
    if heatmap.kind == "probability":
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(heatmap.values_TB.min()), float(heatmap.values_TB.max())
    return {"vmin": low, "vmax": high if high > low else low + 1e-6}


def _write_numbers(axis: Any, heatmap: SimilarityHeatmap, shown: Any) -> None:
    for row, values in enumerate(heatmap.values_TB):
        for column, value in enumerate(values):
            light = float(shown.norm(value)) > 0.55
            text = "0" if heatmap.kind == "probability" and value < _LEAST_WRITTEN else f"{value:.2f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if light else "white")


def _place_thumbnails(axis: Any, heatmap: SimilarityHeatmap) -> None:
    """One picture above each column, as large as the column allows."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image

    axis.set_axis_off()
    axis.set_ylim(0, 1)
    for column, picture in enumerate(heatmap.pictures):
        small = Image.fromarray(picture.rgb)
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        zoom = CELL_IN * 72 * 0.9 / max(small.size)
        axis.add_artist(AnnotationBbox(OffsetImage(np.asarray(small), zoom=zoom), (column, 0.45), frameon=False, pad=0))


def _head(picture: HeatmapPicture) -> str:
    uri = data_uri(make_thumbnail(picture.rgb, size_px=2 * _THUMBNAIL_PX), "JPEG")
    name = escape(picture.name)
    return (
        f'<div class="well" title="{name}"><img src="{uri}" alt="{name}"></div>{escape(short_line(picture.name, 24))}'
    )


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
        match.heat_HW, cmap=_HEAT_COLOURS, vmin=low, vmax=high, alpha=_VEIL, extent=extent, interpolation="bilinear"
    )
    shape = (box.width * width, box.height * height)
    for colour, line_width in (("black", 3.0), (_BOX_COLOUR, 1.6)):
        corner = (box.left * width - 0.5, box.top * height - 0.5)
        axis.add_patch(Rectangle(corner, *shape, fill=False, edgecolor=colour, linewidth=line_width))
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_title(_title(match), fontsize=9, loc="left", parse_math=False)
    return shown

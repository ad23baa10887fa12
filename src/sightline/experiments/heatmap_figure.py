"""A similarity heatmap as a picture (extra `train`) or as a page of its own. Shape suffixes: T texts, B pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.evaluation.pages import format_heatmap, format_page, format_section
from sightline.experiments.figure_files import new_figure, save_figure, short_line
from sightline.images.thumbnails import data_uri, make_thumbnail
from sightline.pages import escape, visible, write_page

if TYPE_CHECKING:
    from sightline.experiments.similarity_heatmap import HeatmapPicture, SimilarityHeatmap

MOST_LETTERS = 60
CELL_IN = 0.62
_THUMBNAIL_PX = 96
# One hue from dark to bright: the order of values survives grey print and every kind of colour blindness.
_COLOURS = "cividis"
_NAME_LETTERS = 14
_LEAST_WRITTEN = 0.005
_LEADS = {
    "cosine": "Cosine of each text with each picture. Cosines of one model don't compare with those of another.",
    "probability": "Which of these texts each picture would be, if it had to be one of them: columns add up to 1.",
}


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
    shown = body.imshow(heatmap.values_TB, cmap=_COLOURS, aspect="auto", **_limits(heatmap))
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

"""Heatmaps: how well some texts fit some images, each with each, as a model sees it; where in an image words match.

Drawn by matplotlib (extra `train`) without a display, written whole or not at all. Shape suffixes: T texts, B images,
N of one of them, D joint space, H W height and width.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError
from sightline.kit.pages import render_page, write_page
from sightline.kit.text import visible
from sightline.lab.evaluation.embedding import embed_texts
from sightline.lab.evaluation.pages import frame_image
from sightline.lab.experiments.explain import Match
from sightline.lab.training.log import new_figure, save_figure

HeatmapKind = Literal["cosine", "probability"]
_BATCH = 32
MOST_LETTERS = 60
CELL_IN = 0.62
_THUMBNAIL_PX = 96
# One hue from dark to bright: the order of values survives grey print and every kind of colour blindness.
_CELL_COLOURS = "cividis"
_MOST_NAME_LETTERS = 24
"""Letters of a name on one line."""
BAND_COLUMNS = 14
"""Images beside each other on a sheet."""
_PAGE_IN = 13.0
"""About the height of a sheet: a screen and a half."""
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


@dataclass(frozen=True, kw_only=True)
class HeatmapImage:
    """One image of a heatmap."""

    name: str
    """The name at its column, such as a file name."""
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class SimilarityHeatmap:
    """The similarity of every text with every image."""

    model: str
    kind: HeatmapKind
    """`cosine`, or `probability`: of each text for an image, so that the columns add up to 1."""
    texts: tuple[str, ...]
    images: tuple[HeatmapImage, ...]
    values_TB: NDArray[np.float64]

    def part(self, start: int, end: int) -> SimilarityHeatmap:
        """The columns of some images."""
        return replace(self, images=self.images[start:end], values_TB=self.values_TB[:, start:end])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: a row of `values` for each text."""
        return {
            "model": self.model,
            "kind": self.kind,
            "texts": list(self.texts),
            "images": [image.name for image in self.images],
            "values": [[round(float(value), 6) for value in row] for row in self.values_TB],
        }


def make_similarity_heatmap(
    encoder: Encoder,
    images: Sequence[HeatmapImage],
    texts: Sequence[str],
    *,
    probability: bool = False,
    cluster: bool = False,
) -> SimilarityHeatmap:
    """Embed texts and images and compare each with each.

    `probability` is the softmax over the texts of temperature x cosine, for each image (Radford et al. 2021): which
    of these texts, if it were one of them. `cluster` puts texts that are alike side by side, and images too; else
    they stay in the order given. Raises InputError without images or texts, and for probabilities of a single text.
    """
    if not images or not texts:
        raise InputError(
            "A heatmap needs at least one picture and one text: sightline heatmap a.jpg b.jpg --text 'a dog'"
        )
    if probability and len(texts) < 2:
        raise InputError("The probability of one text among itself is 1; give two texts or more, or leave it out.")
    resize = encoder.card.preprocessing.resize
    pixels = [resize(image.rgb) for image in images]
    image_BD = np.concatenate(
        [encoder.encode_images(np.stack(pixels[start : start + _BATCH])) for start in range(0, len(pixels), _BATCH)]
    )
    text_TD = embed_texts(encoder, texts)
    cosine_TB = text_TD.astype(np.float64) @ image_BD.astype(np.float64).T
    heatmap = SimilarityHeatmap(
        model=encoder.card.name,
        kind="probability" if probability else "cosine",
        texts=tuple(texts),
        images=tuple(images),
        values_TB=softmax_over_texts(cosine_TB, temperature_of(encoder)) if probability else cosine_TB,
    )
    return reorder(heatmap, cluster_order(text_TD), cluster_order(image_BD)) if cluster else heatmap


def reorder(heatmap: SimilarityHeatmap, texts: Sequence[int], images: Sequence[int]) -> SimilarityHeatmap:
    """The same with its rows and columns in another order."""
    return replace(
        heatmap,
        texts=tuple(heatmap.texts[row] for row in texts),
        images=tuple(heatmap.images[column] for column in images),
        values_TB=heatmap.values_TB[np.ix_(texts, images)],
    )


def temperature_of(encoder: Encoder) -> float:
    """The factor of cosines in a softmax: the weights' own where they tell it, else the card's."""
    return float(getattr(encoder, "temperature", None) or encoder.card.nats_per_cosine)


def softmax_over_texts(cosine_TB: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities of the texts for each image (T, B); columns add up to 1."""
    shifted_TB = temperature * (cosine_TB - cosine_TB.max(axis=0, keepdims=True))
    share_TB = np.exp(shifted_TB)
    return np.asarray(share_TB / share_TB.sum(axis=0, keepdims=True))


def cluster_order(vectors_ND: NDArray[np.float32]) -> list[int]:
    """An order of unit vectors in which like lies beside like: average linkage, merged with the nearest ends inside."""
    cosine_NN = vectors_ND.astype(np.float64) @ vectors_ND.astype(np.float64).T
    groups = [[row] for row in range(len(vectors_ND))]
    linkage_NN = cosine_NN.copy()
    np.fill_diagonal(linkage_NN, -np.inf)
    while len(groups) > 1:
        first, second = sorted(divmod(int(linkage_NN.argmax()), len(groups)))
        one, other = groups[first], groups.pop(second)
        weights = np.array([len(one), len(other)]) / (len(one) + len(other))
        joined_N = weights @ linkage_NN[[first, second]]
        linkage_NN[first], linkage_NN[:, first] = joined_N, joined_N
        linkage_NN[first, first] = -np.inf
        linkage_NN = np.delete(np.delete(linkage_NN, second, axis=0), second, axis=1)
        turns = [(a, b) for a in (one, one[::-1]) for b in (other, other[::-1])]
        turns += [(b, a) for a, b in turns]
        before, after = max(turns, key=lambda turn: cosine_NN[turn[0][-1], turn[1][0]])
        groups[first] = [*before, *after]
    return groups[0] if groups else []


def draw_heatmap(heatmap: SimilarityHeatmap, target: Path) -> list[Path]:
    """PNGs with texts at the left, thumbnails on top, a number in every cell; the files that were written.

    A file has as many bands of columns as can be read on it; images that need more go to `NAME-2.png` and so on, which
    replace what was there. All share one scale. Raises InputError without matplotlib, and where a file can't be
    written.
    """
    band = [heatmap.part(start, start + BAND_COLUMNS) for start in range(0, len(heatmap.images), BAND_COLUMNS)]
    per_page = max(1, round(_PAGE_IN / _band_height(heatmap)))
    pages = [band[start : start + per_page] for start in range(0, len(band), per_page)]
    limits, written = _limits(heatmap), []
    for number, bands in enumerate(pages, start=1):
        place = target if number == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        title = f"{heatmap.model}: {heatmap.kind}" + (f", {number} of {len(pages)}" if len(pages) > 1 else "")
        written.append(_draw_page(bands, place, limits=limits, title=title))
    return written


def _band_height(heatmap: SimilarityHeatmap) -> float:
    """Inches of one band: thumbnails, a row for each text, and names in full below them."""
    longest = max(len(visible(image.name)) for image in heatmap.images)
    return CELL_IN * (len(heatmap.texts) + 1.1) + 0.35 + 0.05 * min(longest, _MOST_NAME_LETTERS)


def _draw_page(bands: Sequence[SimilarityHeatmap], target: Path, *, limits: dict[str, float], title: str) -> Path:
    texts = bands[0].texts
    labels = ["\n".join(textwrap.wrap(short_line(text, MOST_LETTERS), 30)) for text in texts]
    widest = max(len(line) for label in labels for line in label.split("\n"))
    n_columns = len(bands[0].images)
    width_in = max(CELL_IN * n_columns + 0.085 * widest + 1.3, 4.0)
    figure = new_figure(width_in, sum(map(_band_height, bands)) + 0.3, dpi=DPI)
    axes = figure.subplots(2 * len(bands), 1, squeeze=False, height_ratios=[1.05, len(texts)] * len(bands))[:, 0]
    bodies = list(axes[1::2])
    for heads, body, band in zip(axes[::2], bodies, bands, strict=True):
        shown = body.imshow(band.values_TB, cmap=_CELL_COLOURS, aspect="auto", **limits)
        body.set_yticks(range(len(texts)), labels, fontsize=9, parse_math=False)
        names = [_whole_name(image.name) for image in band.images]
        body.set_xticks(range(len(names)), names, fontsize=8, rotation=45, ha="right", parse_math=False)
        for label in body.get_xticklabels():
            label.set_rotation_mode("anchor")
        body.tick_params(length=0)
        body.spines[:].set_visible(False)
        for axis in (heads, body):
            axis.set_xlim(-0.5, n_columns - 0.5)  # cells of a band that isn't full are as wide as the others'
        _write_numbers(body, band, shown)
        _place_thumbnails(heads, band)
    bar = figure.colorbar(shown, ax=bodies, fraction=0.3 / width_in, pad=0.01)
    bar.set_label(bands[0].kind, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    axes[0].set_title(visible(title), fontsize=9, loc="left", parse_math=False)
    return save_figure(figure, target)


def _whole_name(name: str) -> str:
    """A name on lines of some letters; of one that would fill a page the beginning and the end."""
    line = visible(" ".join(name.split()))
    if len(line) > 3 * _MOST_NAME_LETTERS:
        line = f"{line[: 2 * _MOST_NAME_LETTERS]}...{line[-_MOST_NAME_LETTERS + 3 :]}"
    return "\n".join(textwrap.wrap(line, _MOST_NAME_LETTERS, break_on_hyphens=False)) or line


def write_heatmap_page(heatmap: SimilarityHeatmap, target: Path) -> Path:
    """One HTML file with everything in it. Raises InputError where it can't be written."""
    limits = _limits(heatmap)
    page = render_page(
        "lab/experiments/heatmap.html",
        title=f"Heatmap of {heatmap.model}",
        lead=_LEADS[heatmap.kind],
        columns=[
            frame_image(image.rgb, image.name, size_px=2 * _THUMBNAIL_PX) + visible(image.name)
            for image in heatmap.images
        ],
        rows=list(zip(heatmap.texts, heatmap.values_TB.tolist(), strict=True)),
        between=(limits["vmin"], limits["vmax"]),
    )
    return write_page(target, page)


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
    figure = new_figure(PANEL_IN * columns + 0.9, (panel_height + title_in + 0.3) * rows + 0.2, dpi=DPI)
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


def short_line(text: str, most: int) -> str:
    """Text on one line of at most so many letters, without what can't be drawn."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


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
    """One image above each column, as large as the column allows."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image

    axis.set_axis_off()
    axis.set_ylim(0, 1)
    for column, image in enumerate(heatmap.images):
        small = Image.fromarray(image.rgb)
        small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
        zoom = CELL_IN * 72 * 0.9 / max(small.size)
        axis.add_artist(AnnotationBbox(OffsetImage(np.asarray(small), zoom=zoom), (column, 0.45), frameon=False, pad=0))


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

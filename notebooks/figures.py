"""What the notebooks share in showing: figures with captions, tables, grids of pictures, and which photos may be shown.

Shape suffixes: H W height and width, R C rows and columns of a table.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sightline.core.images.decode import read_image
from sightline.faces.demo.photos import load_photos

DPI = 100
COMMITTED_PX = 320
"""Longest side of any photograph in what is committed."""
LINE_IN = 0.155
"""Height of a line of text below a picture."""
IMAGE_ASPECT = 0.8
"""Height of the room for a picture, of its width."""

Pixels = NDArray[np.uint8]


def new_figure(width_in: float = 9.5, height_in: float = 4.0, *, layout: str | None = "constrained") -> Figure:
    """An empty figure that lays itself out, unless told not to."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def show(figure: Figure, caption: str, *, photographs: bool = False) -> None:
    """Show a figure with its caption below; photographs as JPEG, which takes a fifth of the room."""
    kind = "jpeg" if photographs else "png"
    file = io.BytesIO()
    options = {"pil_kwargs": {"quality": 85}} if photographs else {"metadata": {"Software": None}}
    figure.savefig(file, format=kind, dpi=DPI, **options)
    display(Image(file.getvalue(), format=kind, alt=caption, width=round(figure.get_figwidth() * DPI)))
    display(Markdown(f"*{caption}*"))


def show_png(png: bytes, caption: str, *, photographs: bool = False, width_px: int = 900) -> None:
    """Show a figure that was drawn elsewhere, with its caption below; one full of pictures as JPEG."""
    kind = "jpeg" if photographs else "png"
    if photographs:
        file = io.BytesIO()
        PIL.Image.open(io.BytesIO(png)).convert("RGB").save(file, "JPEG", quality=88)
        png = file.getvalue()
    display(Image(png, format=kind, alt=caption, width=width_px))
    display(Markdown(f"*{caption}*"))


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
    """Show a table: numbers to the right, floats with three decimals."""
    numeric = [
        all(isinstance(row[column], int | float) for row in rows) and bool(rows) for column in range(len(header))
    ]
    lines = [_line(header), _line(["---:" if number else "---" for number in numeric]), *map(_line, rows)]
    display(Markdown("\n".join(lines) + (f"\n\n*{caption}*" if caption else "")))


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: object) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell).replace("|", "\\|")


def load_shown(path: Path) -> Pixels:
    """A photo as it may be committed: at most 320 pixels; a grey tile where the demo's licence list forbids it."""
    if not may_be_shown(path.name):
        return np.full((240, 320, 3), 225, np.uint8)
    return shrink(read_image(path, min_side_px=COMMITTED_PX).rgb)


def shrink(rgb_HW3: Pixels) -> Pixels:
    """A picture with at most 320 pixels a side."""
    image = PIL.Image.fromarray(rgb_HW3)
    image.thumbnail((COMMITTED_PX, COMMITTED_PX))
    return np.asarray(image, np.uint8)


def may_be_shown(name: str) -> bool:
    """Whether a file is no photo of the demo, or one that may be redistributed."""
    return {photo.file: photo.redistributable for photo in load_photos()}.get(name, True)


def draw_images(
    images: Sequence[Pixels], texts: Sequence[str] = (), *, columns: int = 5, size_in: float = 1.9
) -> Figure:
    """Pictures in rows, each in a cell of one size, with its text below, wrapped to the cell."""
    wrapped = [_wrap(text, size_in) for text in [*texts, *[""] * (len(images) - len(texts))]]
    under_in = 0.1 + LINE_IN * max((text.count("\n") + 1 if text else 0 for text in wrapped), default=0)
    cell_in = (size_in, IMAGE_ASPECT * size_in, under_in)
    rows = -(-len(images) // columns)
    figure = new_figure(columns * size_in, rows * sum(cell_in[1:]), layout=None)
    for place, (image, text) in enumerate(zip(images, wrapped, strict=True)):
        _draw_cell(figure, divmod(place, columns), cell_in, image, text)
    return figure


def draw_hits(
    rows: Mapping[str, Sequence[tuple[Pixels, str]]], *, size_in: float = 1.5, words_in: float = 2.0
) -> Figure:
    """A row of results for each query: its words to the left, then pictures, best first, with what is known of each."""
    columns = max(map(len, rows.values()))
    cell_in = (size_in, IMAGE_ASPECT * size_in, 0.1 + LINE_IN)
    figure = new_figure(words_in + columns * size_in, len(rows) * sum(cell_in[1:]), layout=None)
    for row, (query, hits) in enumerate(rows.items()):
        for column, (image, text) in enumerate(hits):
            _draw_cell(figure, (row, column), cell_in, image, text, left_in=words_in)
        x, y = (words_in - 0.15) / figure.get_figwidth(), 1 - (row + 0.5 * cell_in[1] / sum(cell_in[1:])) / len(rows)
        figure.text(x, y, query, ha="right", va="center", fontsize=9.5)
    return figure


def _draw_cell(
    figure: Figure,
    place: tuple[int, int],
    cell_in: tuple[float, float, float],
    image: Pixels,
    text: str,
    *,
    left_in: float = 0.0,
) -> None:
    """One picture in the cell of a row and column, text below; `cell_in` is its width, height, and that of the text."""
    (row, column), (width_in, height_in, under_in) = place, cell_in
    full_in, gap_in = figure.get_size_inches(), 0.06
    bottom_in = full_in[1] - row * (height_in + under_in) - height_in
    box_in = (left_in + column * width_in + gap_in, bottom_in, width_in - 2 * gap_in, height_in - gap_in)
    axes = figure.add_axes(tuple(np.array(box_in) / np.tile(full_in, 2)), anchor="S")
    axes.imshow(image, interpolation="nearest" if max(image.shape) <= 96 else "antialiased")
    axes.set_axis_off()
    x, y = (left_in + (column + 0.5) * width_in) / full_in[0], (bottom_in - 0.04) / full_in[1]
    figure.text(x, y, text, ha="center", va="top", fontsize=8.5)


def _wrap(text: str, width_in: float) -> str:
    """Lines that fit a cell."""
    return "\n".join(textwrap.fill(line, round(13.5 * width_in)) for line in text.splitlines())


def draw_table_of_colours(
    axes: Any,
    values_RC: NDArray[np.floating[Any]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    numbers: bool = True,
) -> Any:
    """A matrix as colours with its numbers inside, dark text on light cells and light on dark; the image."""
    image = axes.imshow(values_RC, cmap="cividis", aspect="auto")
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.set_xticks(range(len(columns)), columns, fontsize=8.5, rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    middle = (float(values_RC.min()) + float(values_RC.max())) / 2
    for (row, column), value in np.ndenumerate(values_RC) if numbers else ():
        colour = "white" if value < middle else "black"
        axes.text(
            column,
            row,
            f"{value:.2f}".replace("0.", ".", 1).replace("-", "−"),
            ha="center",
            va="center",
            fontsize=8,
            color=colour,
        )
    return image


def draw_similarities(
    matrices: Mapping[str, NDArray[np.floating[Any]]], images: Sequence[Pixels], texts: Sequence[str]
) -> Figure:
    """Square matrices of texts (rows) by images (columns) on one scale: thumbnails above, the words at the left."""
    count, cell_in, words_in, gap_in, bar_in = len(images), 0.44, 2.5, 0.25, 0.75
    side_in = count * cell_in
    full_in = (words_in + len(matrices) * (side_in + gap_in) + bar_in, side_in + cell_in + 0.45)
    figure = new_figure(*full_in, layout=None)
    every = np.stack(list(matrices.values()))
    for number, (title, values_TI) in enumerate(matrices.items()):
        left_in = words_in + number * (side_in + gap_in)
        axes = figure.add_axes(_parts((left_in, 0.1, side_in, side_in), full_in))
        colours = axes.imshow(values_TI, cmap="cividis", vmin=every.min(), vmax=every.max(), aspect="auto")
        axes.set_xticks([])
        axes.set_yticks(range(count), [_fold(text, 42) for text in texts] if not number else [], fontsize=7.5)
        axes.tick_params(length=0)
        for column, image in enumerate(images):
            box_in = (left_in + column * cell_in + 0.02, side_in + 0.12, cell_in - 0.04, cell_in - 0.04)
            thumbnail = figure.add_axes(_parts(box_in, full_in))
            thumbnail.imshow(image, interpolation="nearest")
            thumbnail.set_axis_off()
        x, y = (left_in + side_in / 2) / full_in[0], 1 - 0.12 / full_in[1]
        figure.text(x, y, title, ha="center", va="top", fontsize=10)
    bar = figure.add_axes(_parts((full_in[0] - bar_in, 0.1, 0.12, side_in), full_in))
    figure.colorbar(colours, cax=bar, label="cosine").ax.tick_params(labelsize=8)
    return figure


def _parts(box_in: tuple[float, float, float, float], full_in: tuple[float, float]) -> tuple[float, ...]:
    """A box in inches as parts of a figure."""
    return tuple(np.array(box_in) / np.tile(full_in, 2))


def _fold(text: str, width: int) -> str:
    """Two lines at most."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…"))


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def draw_choices(questions: Sequence[tuple[str, Pixels, Sequence[str], NDArray[np.floating[Any]]]]) -> Figure:
    """For each question its title, an image, and bars for the probability of each text."""
    height_in = max(len(texts) for _, _, texts, _ in questions) * 0.3 + 0.5
    figure = new_figure(9.5, len(questions) * height_in)
    grid = figure.subplots(len(questions), 2, width_ratios=(1, 3), squeeze=False)
    for (title, image, texts, share_T), (left, right) in zip(questions, grid, strict=True):
        left.imshow(image, interpolation="nearest")
        left.set_axis_off()
        right.barh(range(len(texts)), share_T, color="#56B4E9")
        for row, (text, share) in enumerate(zip(texts, share_T, strict=True)):
            right.text(0.01, row, f"{share:.0%}  {_shorten(text, 84)}", va="center", fontsize=8.5)
        right.set_yticks([])
        right.set_ylim(len(texts) - 0.4, -0.6)
        right.set_xlim(0, 1)
        tidy(right, title=title)
    return figure


def draw_seeds(panels: Mapping[str, Mapping[str, Sequence[float]]], y: str) -> Figure:
    """A panel for each experiment: for each setting a point for every seed and a bar at their mean, on one scale."""
    figure = new_figure(9.5, 3.2)
    grid = figure.subplots(1, len(panels), sharey=True, width_ratios=[len(panel) for panel in panels.values()])
    for axes, (title, panel) in zip(np.atleast_1d(grid), panels.items(), strict=True):
        for place, values in enumerate(panel.values()):
            axes.plot([place] * len(values), values, "o", color="#0072B2", markersize=4, alpha=0.7)
            axes.plot([place - 0.25, place + 0.25], [np.mean(values)] * 2, color="#D55E00", linewidth=2)
        axes.set_xticks(range(len(panel)), list(panel), fontsize=8.5)
        axes.set_xlim(-0.6, len(panel) - 0.4)
        tidy(axes, title=title, y=y if axes is np.atleast_1d(grid)[0] else "")
    most = max(max(values) for panel in panels.values() for values in panel.values())
    np.atleast_1d(grid)[0].set_ylim(0, 1.05 * most)
    return figure


def draw_map(axes: Any, image: Pixels, map_HW: NDArray[np.floating[Any]], title: str = "") -> Any:
    """A picture with a coarse map over it, smoothly enlarged: dark where words match least; the overlay."""
    height, width = image.shape[:2]
    low, high = float(map_HW.min()), float(map_HW.max())
    enlarged = PIL.Image.fromarray(((map_HW - low) / max(high - low, 1e-9)).astype(np.float32))
    weight_HW = np.clip(np.asarray(enlarged.resize((width, height), PIL.Image.Resampling.BICUBIC)), 0, 1)
    axes.imshow(image)
    overlay = axes.imshow(weight_HW, cmap="magma", alpha=0.6, vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    return overlay


def tidy(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Names of the axes, no frame above and to the right, a faint grid."""
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlabel(x, fontsize=9.5)
    axes.set_ylabel(y, fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)

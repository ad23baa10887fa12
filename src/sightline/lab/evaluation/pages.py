"""What pages of results share: tables, matrices in colour, pictures inlined, charts as SVG in the page's colours.

Nothing has to be loaded and no library draws. Shape suffixes: N points, S bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import ImageError
from sightline.kit.pages import escape, format_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.lab.data.base import Dataset, Pair

THUMBNAIL_PX = 200
_QUALITY = 72
_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 36
_SIDE = 420
_DOTS_AT_MOST = 800
_BINS = 48


@dataclass(kw_only=True)
class Thumbnails:
    """Pictures of a data set as `<img>`, each read once. Bounded: THUMBNAIL_PX a side, some kilobytes."""

    pairs: Mapping[str, Pair]
    _made: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Thumbnails:
        """Of all pictures of a data set, by their ids; none is read yet."""
        return cls(pairs={pair.id: pair for pair in dataset})

    def well(self, id_: str) -> str:
        """One picture in its frame, or why there is none."""
        if id_ not in self._made:
            self._made[id_] = self._make(self.pairs[id_])
        return self._made[id_]

    def _make(self, pair: Pair) -> str:
        try:
            rgb_HW3 = pair.image.read(min_side_px=THUMBNAIL_PX)
        except ImageError as error:
            return f'<div class="well"><p>can’t be read: {escape(error.reason)}</p></div>'
        uri = data_uri(make_thumbnail(rgb_HW3, size_px=THUMBNAIL_PX, quality=_QUALITY), "JPEG")
        return f'<div class="well" title="{escape(pair.id)}"><img src="{uri}" alt="{escape(pair.id)}"></div>'


def format_page(title: str, *, lead: str, sections: Sequence[str]) -> str:
    """A whole page from sections that are HTML; title and lead are text."""
    style = resources.files("sightline.lab.evaluation") / "pages.css"
    return format_frame(title, lead=lead, sections=sections, style=style)


def format_section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a sentence in grey, and HTML."""
    soft = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"\n<section><h2>{escape(title)}</h2>{soft}{''.join(parts)}</section>"


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in rows and columns; the first column names the row. It scrolls by itself where it is too wide."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def format_heatmap(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], *, number: str, between: tuple[float, float]
) -> str:
    """Numbers on a ground that is stronger the higher they are between two ends; headings are HTML.

    `number` is how they are written, as in `.2f`.
    """
    low, high = between
    width = (high - low) or 1.0

    def cell(value: float) -> str:
        heat = min(1.0, max(0.0, (value - low) / width))
        return f'<td style="--heat:{heat:.2f}">{value:{number}}</td>'

    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr><th>{name}</th>{''.join(map(cell, values))}</tr>" for name, values in rows)
    return f'<div class="scroll"><table class="heat"><tr><th></th>{head}</tr>{body}</table></div>'


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One numbered point of a chart; strong ones are joined by a line."""

    number: int
    x: float
    y: float
    strong: bool
    title: str


def draw_tradeoff(marks: Sequence[Mark], *, x_label: str, y_label: str) -> str:
    """Points over a logarithmic x (above 0) and a linear y of fractions, which is shown in percent."""
    x_at = _across([math.log10(mark.x) for mark in marks], least=0.15)
    y_at = _up([mark.y for mark in marks], least=0.02)
    parts = []
    for y in _round_steps(y_at.low, y_at.high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}"/>')
        parts.append(_text(_LEFT - 6, y_at(y) + 4, f"{100 * y:.3g}%", anchor="end"))
    for x in _log_steps(10**x_at.low, 10**x_at.high):
        parts.append(_text(x_at(math.log10(x)), _HEIGHT - _BOTTOM + 16, f"{x:,g}"))
    front = sorted((mark for mark in marks if mark.strong), key=lambda mark: mark.x)
    points = " ".join(f"{x_at(math.log10(mark.x)):.1f},{y_at(mark.y):.1f}" for mark in front)
    parts.append(f'<polyline class="front" points="{points}"/>')
    for mark in marks:
        parts.append(_draw_mark(mark, x_at(math.log10(mark.x)), y_at(mark.y)))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 4, x_label, anchor="end"))
    return _svg(parts, height=_HEIGHT, label=f"{y_label} over {x_label}")


def draw_dots(image_N2: NDArray[np.float32], text_N2: NDArray[np.float32]) -> str:
    """Images and texts in one plane, some hundreds of each, evenly chosen."""
    image_N2, text_N2 = _thin(image_N2), _thin(text_N2)
    both_N2 = np.concatenate([image_N2, text_N2])
    low_2, high_2 = both_N2.min(axis=0), both_N2.max(axis=0)
    width = float(max(high_2 - low_2)) or 1.0  # one scale for both axes: distances mean something
    middle_2 = (low_2 + high_2) / 2
    parts = []
    for kind, points_N2 in (("text", text_N2), ("image", image_N2)):
        at_N2 = (points_N2 - middle_2) / width * (_SIDE - 24) * (1, -1) + _SIDE / 2
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in at_N2)
        parts.append(f'<g class="dots {kind}">{dots}</g>')
    return _svg(parts, height=_SIDE, label="map of images and texts")


def draw_histograms(matched_N: NDArray[np.float32], other_N: NDArray[np.float32], *, x_label: str) -> str:
    """How two sets of numbers are spread, each as shares of its own."""
    ends = (float(min(matched_N.min(), other_N.min())), float(max(matched_N.max(), other_N.max())))
    if ends[0] == ends[1]:
        ends = (ends[0] - 0.5, ends[1] + 0.5)
    shares = [np.histogram(numbers_N, bins=_BINS, range=ends)[0] / len(numbers_N) for numbers_N in (other_N, matched_N)]
    x_at = _Scale(low=ends[0], high=ends[1], start=_LEFT, end=_WIDTH - _RIGHT)
    y_at = _Scale(low=0.0, high=float(max(share_S.max() for share_S in shares)), start=_HEIGHT - _BOTTOM, end=_TOP)
    parts = [
        f'<path class="area {kind}" d="{_steps_path(share_S, x_at, y_at)}"/>'
        for kind, share_S in zip(("text", "image"), shares, strict=True)
    ]
    parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_at(0):.1f}" y2="{y_at(0):.1f}"/>')
    parts += [_text(x_at(x), _HEIGHT - _BOTTOM + 16, f"{x:.2g}") for x in _round_steps(*ends)]
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 4, x_label, anchor="end"))
    return _svg(parts, height=_HEIGHT, label=f"spread of {x_label}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """Where values between two ends come to lie between two places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _draw_mark(mark: Mark, x: float, y: float) -> str:
    kind = "mark strong" if mark.strong else "mark"
    return (
        f'<g class="{kind}"><title>{escape(mark.title)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{mark.number}</text></g>'
    )


def _steps_path(share_S: NDArray[np.float64], x_at: _Scale, y_at: _Scale) -> str:
    edges = np.linspace(x_at.low, x_at.high, len(share_S) + 1)
    steps = "".join(
        f"L{x_at(float(left)):.1f},{y_at(float(share)):.1f}L{x_at(float(right)):.1f},{y_at(float(share)):.1f}"
        for left, right, share in zip(edges[:-1], edges[1:], share_S, strict=True)
    )
    return f"M{x_at(x_at.low):.1f},{y_at(0):.1f}{steps}L{x_at(x_at.high):.1f},{y_at(0):.1f}Z"


def _across(values: Sequence[float], *, least: float) -> _Scale:
    low, high = _padded(values, least=least)
    return _Scale(low=low, high=high, start=_LEFT, end=_WIDTH - _RIGHT)


def _up(values: Sequence[float], *, least: float) -> _Scale:
    low, high = _padded(values, least=least)
    return _Scale(low=max(0.0, low), high=high, start=_HEIGHT - _BOTTOM, end=_TOP)


def _padded(values: Sequence[float], *, least: float) -> tuple[float, float]:
    """The range of values with room around, at least so much to each side."""
    room = max(0.15 * (max(values) - min(values)), least)
    return min(values) - room, max(values) + room


def _round_steps(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two ends."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * place, 12) for place in range(first, math.floor(high / step) + 1)]


def _log_steps(low: float, high: float) -> list[float]:
    """Powers of ten between two ends with their halves and fifths, as many as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        steps = [factor * 10.0**power for power in powers for factor in factors]
        steps = [step for step in steps if low <= step <= high]
        if len(steps) <= 6:
            break
    return steps


def _thin(points_N2: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(points_N2) <= _DOTS_AT_MOST:
        return points_N2
    chosen_N2: NDArray[np.float32] = points_N2[np.linspace(0, len(points_N2) - 1, _DOTS_AT_MOST).astype(int)]
    return chosen_N2


def _text(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], *, height: int, label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )

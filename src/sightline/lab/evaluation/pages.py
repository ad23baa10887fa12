"""Pages of results share images as they are shown, and charts as SVG in the page's colours.

Nothing has to be loaded and no library draws. Their tables and matrices are macros of `parts.html`. Shape suffixes: N
points, S bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.errors import ImageError
from sightline.kit.pages import render_page
from sightline.lab.data.base import Dataset, Pair

if TYPE_CHECKING:
    from markupsafe import Markup

THUMBNAIL_PX = 200
_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, _WIDTH - 14, 14, _HEIGHT - 36
_SIDE = 420
_DOTS_AT_MOST = 800


@dataclass(kw_only=True)
class Thumbnails:
    """Images of a data set in their frames, each read once. Bounded: THUMBNAIL_PX a side, some kilobytes."""

    pairs: Mapping[str, Pair]
    _made: dict[str, Markup] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Thumbnails:
        """Thumbnails of all images of a data set, by their ids; none is read yet."""
        return cls(pairs={pair.id: pair for pair in dataset})

    def well(self, id_: str) -> Markup:
        """One image in its frame, or why there is none."""
        if id_ not in self._made:
            try:
                rgb_HW3 = self.pairs[id_].image.read(min_side_px=THUMBNAIL_PX)
                self._made[id_] = frame_image(rgb_HW3, id_, size_px=THUMBNAIL_PX, quality=72)
            except ImageError as error:
                self._made[id_] = render_page("lab/evaluation/well.html", reason=error.reason)
        return self._made[id_]


def frame_image(rgb_HW3: NDArray[np.uint8], name: str, *, size_px: int, quality: int = 80) -> Markup:
    """An image in its frame, made small."""
    source = data_uri(make_thumbnail(rgb_HW3, size_px=size_px, quality=quality), "JPEG")
    return render_page("lab/evaluation/well.html", name=name, source=source)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One numbered point of a chart; strong ones are joined by a line."""

    number: int
    x: float
    y: float
    strong: bool
    title: str


def draw_tradeoff(marks: Sequence[Mark], *, x_label: str, y_label: str) -> Markup:
    """Points over a logarithmic x (above 0) and a linear y of fractions, which is shown in percent."""
    x_low, x_high = _padded([math.log10(mark.x) for mark in marks], least=0.15)
    y_low, y_high = _padded([mark.y for mark in marks], least=0.02)
    x_at = _Scale(low=x_low, high=x_high, start=_LEFT, end=_RIGHT)
    y_at = _Scale(low=max(0.0, y_low), high=y_high, start=_BOTTOM, end=_TOP)
    steps = _round_steps(y_at.low, y_at.high)
    labels = [(_LEFT - 6.0, y_at(y) + 4, f"{100 * y:.3g}%", "end") for y in steps]
    ticks = ((math.log10(x), f"{x:,g}") for x in _log_steps(10**x_low, 10**x_high))
    return _draw(
        label=f"{y_label} over {x_label}",
        rules=[y_at(y) for y in steps],
        labels=[*labels, *_axis(x_at, ticks, x_label)],
        marks=[(mark, x_at(math.log10(mark.x)), y_at(mark.y)) for mark in marks],
    )


def draw_dots(image_N2: NDArray[np.float32], text_N2: NDArray[np.float32]) -> Markup:
    """Images and texts in one plane, some hundreds of each, evenly chosen."""
    image_N2, text_N2 = _thin(image_N2), _thin(text_N2)
    both_N2 = np.concatenate([image_N2, text_N2])
    low_2, high_2 = both_N2.min(axis=0), both_N2.max(axis=0)
    width = float(max(high_2 - low_2)) or 1.0  # one scale for both axes: distances mean something
    middle_2 = (low_2 + high_2) / 2
    dots = [
        (kind, ((points_N2 - middle_2) / width * (_SIDE - 24) * (1, -1) + _SIDE / 2).tolist())
        for kind, points_N2 in (("text", text_N2), ("image", image_N2))
    ]
    return _draw(label="map of images and texts", height=_SIDE, dots=dots)


def draw_histograms(matched_N: NDArray[np.float32], other_N: NDArray[np.float32], *, x_label: str) -> Markup:
    """The spread of two sets of numbers, each as shares of its own."""
    ends = (float(min(matched_N.min(), other_N.min())), float(max(matched_N.max(), other_N.max())))
    if ends[0] == ends[1]:
        ends = (ends[0] - 0.5, ends[1] + 0.5)
    shares = [np.histogram(numbers_N, bins=48, range=ends)[0] / len(numbers_N) for numbers_N in (other_N, matched_N)]
    x_at = _Scale(low=ends[0], high=ends[1], start=_LEFT, end=_RIGHT)
    y_at = _Scale(low=0.0, high=float(max(share_S.max() for share_S in shares)), start=_BOTTOM, end=_TOP)
    areas = [(kind, _steps_path(share_S, x_at, y_at)) for kind, share_S in zip(("text", "image"), shares, strict=True)]
    labels = _axis(x_at, ((x, f"{x:.2g}") for x in _round_steps(*ends)), x_label)
    return _draw(label=f"spread of {x_label}", areas=areas, rules=[y_at(0)], labels=labels)


def _draw(*, label: str, height: int = _HEIGHT, **shapes: Any) -> Markup:
    """A chart of `areas`, `rules` (lines across), `dots`, `labels` and `marks`, the first at the back."""
    nothing: dict[str, Any] = dict.fromkeys(("areas", "rules", "dots", "labels", "marks"), ())
    values = {"width": _WIDTH, "left": _LEFT, "right": _RIGHT, "height": height, "label": label}
    return render_page("lab/evaluation/chart.html", **nothing | values | shapes)


def _axis(x_at: _Scale, ticks: Iterable[tuple[float, str]], name: str) -> list[tuple[float, float, str, str]]:
    """Labels below a chart: text at some values, and the axis's name in the corner."""
    labels = [(x_at(x), _BOTTOM + 16.0, text, "middle") for x, text in ticks]
    return [*labels, (_RIGHT, _HEIGHT - 4.0, name, "end")]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """A map of values between two ends to places between two others."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _steps_path(share_S: NDArray[np.float64], x_at: _Scale, y_at: _Scale) -> str:
    edges = np.linspace(x_at.low, x_at.high, len(share_S) + 1)
    steps = "".join(
        f"L{x_at(float(left)):.1f},{y_at(float(share)):.1f}L{x_at(float(right)):.1f},{y_at(float(share)):.1f}"
        for left, right, share in zip(edges[:-1], edges[1:], share_S, strict=True)
    )
    return f"M{x_at(x_at.low):.1f},{y_at(0):.1f}{steps}L{x_at(x_at.high):.1f},{y_at(0):.1f}Z"


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
    chosen = np.linspace(0, len(points_N2) - 1, min(len(points_N2), _DOTS_AT_MOST)).astype(int)
    return np.asarray(points_N2[chosen])

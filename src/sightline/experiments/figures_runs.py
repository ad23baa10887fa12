"""Figures of runs: their curves, what they came to, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.experiments.factors import Factor
from sightline.experiments.figures import (
    NEUTRAL,
    PALE,
    colour_of,
    draw_figure,
    explain_styles,
    line_of,
    marker_of,
    plain,
    scale_by_powers,
    shorten,
    show_metric_axis,
)
from sightline.experiments.finals import Final
from sightline.experiments.results import RunResult
from sightline.experiments.study import Study
from sightline.experiments.wording import enumerate_words

MOST_NAMED = 7
"""Runs that get a colour each; of more, levels do."""
MOST_FINALS = 30
_SMOOTHED_FRACTION = 0.04
_MOST_LOSS = 2.0
"""Times that at chance: what a run that blows up leaves of the others' curves."""

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class RunStyles:
    """How runs are told apart: each by itself, or by the levels of the two settings with the largest effects."""

    runs: tuple[RunResult, ...]
    labels: tuple[str, ...]
    factors: tuple[Factor, ...]

    @classmethod
    def of(cls, study: Study, factors: Sequence[Factor], labels: Sequence[str]) -> RunStyles:
        """`factors` with the largest effect first; `labels` name each run of the study."""
        return cls(
            runs=study.runs, labels=tuple(labels), factors=() if len(study.runs) <= MOST_NAMED else tuple(factors[:2])
        )

    def style(self, row: int) -> dict[str, Any]:
        """Colour, mark and line of one run."""
        if not self.factors:
            several = len(self.runs) <= MOST_NAMED
            place = row if several else 0
            return {"color": colour_of(place), "marker": marker_of(place), "linestyle": line_of(place)}
        first = int(self.factors[0].level_R[row])
        second = int(self.factors[1].level_R[row]) if len(self.factors) > 1 else 0
        return {"color": colour_of(first), "marker": marker_of(first), "linestyle": line_of(second)}

    @property
    def legend_height_in(self) -> float:
        """Room that the legend takes below a figure."""
        if not self.factors:
            return 0.19 * -(-len(self._entries()) // 2)
        return 0.35 + 0.19 * max(-(-len(factor.levels) // 2) for factor in self.factors)

    def explain(self, figure: Any, *, lines: bool = True) -> None:
        """The legend below a figure; without `lines` only marks."""
        hidden = {} if lines else {"linestyle": "none"}
        if not self.factors:
            entries = [{**entry, **hidden} for entry in self._entries()]
            explain_styles(figure, entries, loc="outside lower center", ncols=2)
            return
        by_colour = [
            {"color": colour_of(level), "marker": marker_of(level), "label": shorten(label, 22), **hidden}
            for level, label in enumerate(self.factors[0].levels)
        ]
        by_line = [
            {"color": NEUTRAL, "linestyle": line_of(level), "label": shorten(label, 22)}
            for factor in self.factors[1:]
            for level, label in enumerate(factor.levels)
        ]
        for place, factor, entries in zip(("left", "right"), self.factors, (by_colour, by_line), strict=False):
            title = shorten(enumerate_words([factor.name, *factor.together_with], most=1), 44)
            options = {"title": title, "title_fontsize": 8, "ncols": 2, "alignment": "left"}
            explain_styles(figure, entries, loc=f"outside lower {place}", **options)

    def _entries(self) -> list[dict[str, Any]]:
        if len(self.runs) > MOST_NAMED:
            return [{**self.style(0), "label": f"{len(self.runs)} runs"}]
        return [{**self.style(row), "label": shorten(label, 44)} for row, label in enumerate(self.labels)]


def draw_all_curves(study: Study, styles: RunStyles) -> bytes:
    """Metric, loss, temperature and gradient norm of every run over the pictures that it has seen."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, 2)
        quality, loss, scale, norm = panels.flat
        for row, run in enumerate(study.runs):
            style = styles.style(row)
            _plot(quality, _points(run, "val", study.metric), {**style, "markersize": 3})
            _plot(loss, _smooth(_relative_loss(run)), {**style, "marker": None})
            _plot(scale, _points(run, "train", "scale"), {**style, "marker": None})
            _plot(norm, _smooth(_points(run, "train", "gradient_norm"), fraction=0.12), {**style, "marker": None})
        titles = (f"{study.metric} on val pairs", "training loss / loss at chance", "logit scale (1 / temperature)")
        for axes, title in zip(panels.flat, (*titles, "gradient norm"), strict=True):
            axes.set_title(plain(title))
            axes.xaxis.set_major_formatter(_short_count)
            axes.xaxis.get_major_locator().set_params(nbins=5)
            if not axes.lines:
                axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=NEUTRAL)
        quality.set_ylim(bottom=0 if not study.lower_is_better else None)
        show_metric_axis(quality.yaxis, study.metric)
        loss.set_ylim(0, min(_MOST_LOSS, max(1.05, loss.get_ylim()[1])))
        if norm.lines:
            scale_by_powers(norm)
        for axes in panels[1]:
            axes.set_xlabel("pictures seen")
        styles.explain(figure)

    return draw_figure(draw, height_in=5.2 + styles.legend_height_in)


def draw_finals(study: Study, finals: Sequence[Final]) -> bytes:
    """The metric of each combination of settings: the mean, its interval, and every seed."""
    shown = finals[:MOST_FINALS]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, final in enumerate(shown):
            axes.plot(final.values, [place] * len(final.values), "o", color=PALE, markeredgecolor=NEUTRAL, markersize=4)
            if final.half_width is not None:
                axes.errorbar(final.mean, place, xerr=final.half_width, color=colour_of(0), capsize=3, linewidth=1.4)
            axes.plot(final.mean, place, "D", color=colour_of(0), markersize=5)
        axes.set_yticks(range(len(shown)), [shorten(final.label, 62) for final in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(plain(study.metric))
        show_metric_axis(axes.xaxis, study.metric)

    return draw_figure(draw, height_in=0.9 + 0.24 * len(shown))


def draw_compute(study: Study, styles: RunStyles) -> bytes:
    """The metric of each run over the minutes that it took."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, run in enumerate(study.runs):
            if run.took_s is not None:
                style = {**styles.style(row), "linestyle": "none"}
                axes.plot(run.took_s / 60, study.value_R[row], markersize=6, **style)
        minutes = [run.took_s / 60 for run in study.runs if run.took_s is not None]
        axes.set_xlim(left=0 if min(minutes) < 0.5 * max(minutes) else None)
        axes.set_xlabel("minutes of training")
        axes.set_ylabel(plain(study.metric))
        show_metric_axis(axes.yaxis, study.metric)
        RunStyles(runs=styles.runs, labels=styles.labels, factors=styles.factors[:1]).explain(figure, lines=False)

    return draw_figure(draw, height_in=2.9 + styles.legend_height_in)


def has_curves(study: Study) -> bool:
    """Whether some run has a log."""
    return any(run.rows for run in study.runs)


def _points(run: RunResult, kind: str, name: str) -> Points:
    """Pictures seen and values of one name in a run's log."""
    batch_size = run.config.batch_size if run.config is not None else 1
    found = [(row["step"] * batch_size, row[name]) for row in run.rows if row["kind"] == kind and _is_number(row, name)]
    seen, values = zip(*found, strict=True) if found else ((), ())
    return np.array(seen, dtype=np.float64), np.array(values, dtype=np.float64)


def _is_number(row: dict[str, Any], name: str) -> bool:
    return isinstance(row.get(name), int | float)


def _relative_loss(run: RunResult) -> Points:
    """The loss by what knowing nothing costs, which grows with the batch, so that batch sizes can be compared."""
    seen, loss = _points(run, "train", "loss")
    _, chance = _points(run, "train", "chance_loss")
    return (seen, loss / chance) if len(chance) == len(loss) and (chance > 0).all() else (seen[:0], loss[:0])


def _smooth(points: Points, *, fraction: float = _SMOOTHED_FRACTION) -> Points:
    """A running mean over a few percent of the points, shorter at both ends."""
    seen, values = points
    window = round(len(values) * fraction)
    if window < 2:
        return points
    kernel = np.ones(window)
    return seen, np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _plot(axes: Any, points: Points, style: dict[str, Any]) -> None:
    if len(points[0]):
        axes.plot(*points, **{**style, "linewidth": 1.2})


def _short_count(value: float, _: object) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"

"""Figures of runs: curves, what they came to and what they cost; and of their settings: effects and the law of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.lab.evaluation.results import format_figure
from sightline.lab.experiments.effects import Analysis, Effect, Interaction
from sightline.lab.experiments.report_parts import (
    NEUTRAL,
    PALE,
    draw_figure,
    line_of,
    must_slant,
    number_ticks,
    plain,
    scale_by_powers,
    shorten,
    show_metric_axis,
    slant_long_labels,
    style_of,
    verdict_of,
)
from sightline.lab.experiments.results import Factor, RunResult, Study
from sightline.lab.experiments.summary import Final, Scaling, enumerate_words, short_name
from sightline.lab.training.log import colour_of, explain_styles, smooth

MOST_NAMED = 7
"""Runs that get a colour each; of more, levels do."""
MOST_FINALS = 30
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
MOST_PANELS = 6
"""Settings or pairs that are drawn, the ones with the largest effects."""
_COLUMNS = 3
_ROOM = 34
"""Characters of tick labels that fit below one of three panels."""


@dataclass(frozen=True, kw_only=True)
class RunStyles:
    """Styles that tell runs apart: each by itself, or by the levels of the two settings with the largest effects."""

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
            return style_of(row if len(self.runs) <= MOST_NAMED else 0)
        second = int(self.factors[1].level_R[row]) if len(self.factors) > 1 else 0
        return style_of(int(self.factors[0].level_R[row]), line=second)

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
            {**style_of(level), "linestyle": "-", "label": shorten(label, 22), **hidden}
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
    """Metric, loss, temperature and gradient norm of every run over the images that it has seen."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, 2)
        quality, loss, scale, norm = panels.flat
        for row, run in enumerate(study.runs):
            style = styles.style(row)
            _plot(quality, _points(run, "val", study.metric), {**style, "markersize": 3})
            _plot(loss, _smooth(_relative_loss(run, "train")), {**style, "marker": None, "alpha": 0.45})
            _plot(loss, _relative_loss(run, "val"), {**style, "markersize": 3})
            _plot(scale, _points(run, "train", "scale"), {**style, "marker": None})
            _plot(norm, _smooth(_points(run, "train", "gradient_norm"), fraction=0.12), {**style, "marker": None})
        titles = (
            f"{study.metric} on val pairs",
            "loss / loss at chance: val, pale training",
            "logit scale (1 / temperature)",
        )
        for axes, title in zip(panels.flat, (*titles, "gradient norm"), strict=True):
            axes.set_title(plain(title))
            axes.xaxis.set_major_formatter(_short_count)
            axes.xaxis.get_major_locator().set_params(nbins=5)
            if not axes.lines:
                axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=NEUTRAL)
        quality.set_ylim(bottom=0 if not study.lower_is_better else None)
        show_metric_axis(quality.yaxis, study.metric)
        # Times that at chance: what a run that blows up leaves of the others' curves.
        loss.set_ylim(0, min(2.0, max(1.05, loss.get_ylim()[1])))
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


def draw_effects(study: Study, analysis: Analysis) -> bytes:
    """For each setting its levels' means with their intervals, over the single runs."""
    return _draw_panels(study, analysis.effects, _draw_effect, row_in=2.6)


def draw_interactions(study: Study, analysis: Analysis) -> bytes:
    """For each pair of settings the means of its cells; lines that aren't parallel are an interaction."""
    return _draw_panels(study, analysis.interactions, _draw_interaction, row_in=3.1)


def draw_parallel(study: Study) -> bytes:
    """A line for each run through its settings to its result; the darker, the worse."""
    factors = study.factors

    def draw(canvas: Any) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        axes = canvas.subplots()
        low, high = float(study.value_R.min()), float(study.value_R.max())
        place_R = (study.value_R - low) / ((high - low) or 1.0)
        colours = colormaps["cividis" if not study.lower_is_better else "cividis_r"]
        order = np.argsort(study.value_R if not study.lower_is_better else -study.value_R)
        for rank, run in enumerate(order):
            # near its level at each setting's axis, the better the higher, so that all show
            aside = 0.3 * (rank / max(1, len(order) - 1) - 0.5)
            levels = [(factor.level_R[run] + aside) / max(1, len(factor.levels) - 1) for factor in factors]
            heights = [*levels, place_R[run]]
            best = run == study.best
            axes.plot(heights, color=colours(Normalize(0, 1.1)(place_R[run])), linewidth=3 if best else 1.4, alpha=0.9)
        _draw_axes_of_settings(axes, study, (low, high))

    return draw_figure(draw, height_in=3.6)


def draw_scaling(scaling: Scaling) -> bytes:
    """Error over training images on logarithmic axes, with the fitted law."""

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        amounts = np.unique(scaling.amount_R)
        means = [float(np.exp(np.log(scaling.error_R[scaling.amount_R == amount]).mean())) for amount in amounts]
        axes.plot(
            scaling.amount_R,
            scaling.error_R,
            "o",
            color=PALE,
            markeredgecolor=NEUTRAL,
            label="runs, other settings averaged out",
        )
        if not scaling.bends:
            line = np.geomspace(amounts[0], amounts[-1], 50)
            label = f"error = {scaling.factor:.3g} x amount ^ {-scaling.exponent:.3f}"
            axes.plot(line, [scaling.predict(amount) for amount in line], color=colour_of(1), label=label)
        axes.plot(amounts, means, "D", color=colour_of(0), markersize=6, label="mean of an amount")
        axes.set(xscale="log", yscale="log")
        number_ticks(
            axes.xaxis, list(amounts), [f"{amount:,.0f}" if scaling.in_images else f"{amount:g}" for amount in amounts]
        )
        ticks = _error_ticks(*axes.get_ylim())
        number_ticks(axes.yaxis, ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xlabel("training images" if scaling.in_images else "part of the training images")
        axes.set_ylabel(plain(scaling.error_name))
        axes.legend(loc="best")

    return draw_figure(draw, height_in=3.4)


def _points(run: RunResult, kind: str, name: str) -> Points:
    """Images seen and values of one name in a run's log."""
    batch_size = run.config.batch_size if run.config is not None else 1
    rows = [row for row in run.rows if row["kind"] == kind and isinstance(row.get(name), int | float)]
    found = [(row["step"] * batch_size, row[name]) for row in rows]
    seen, values = zip(*found, strict=True) if found else ((), ())
    return np.array(seen, dtype=np.float64), np.array(values, dtype=np.float64)


def _relative_loss(run: RunResult, kind: str) -> Points:
    """The loss by what knowing nothing costs, which grows with the batch, so that batch sizes can be compared."""
    seen, loss = _points(run, kind, "loss")
    _, chance = _points(run, kind, "chance_loss")
    return (seen, loss / chance) if len(chance) == len(loss) and (chance > 0).all() else (seen[:0], loss[:0])


def _smooth(points: Points, *, fraction: float = 0.04) -> Points:
    """A running mean over a few percent of the points, shorter at both ends."""
    seen, values = points
    window = round(len(values) * fraction)
    return points if window < 2 else (seen, smooth(values, window))


def _plot(axes: Any, points: Points, style: dict[str, Any]) -> None:
    if len(points[0]):
        axes.plot(*points, **{**style, "linewidth": 1.2})


def _short_count(value: float, _: object) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _draw_panels(study: Study, tested: Sequence[Any], draw_one: Callable[..., None], *, row_in: float) -> bytes:
    """A panel for each of the first settings or pairs, on one scale; rows are `row_in` inches high."""
    shown = tested[:MOST_PANELS]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, one in zip(panels.flat, shown, strict=False):
            draw_one(axes, study, one, room=_ROOM * _COLUMNS // columns)
        for axes in list(panels.flat)[len(shown) :]:
            axes.axis("off")
        for axes in panels[:, 0]:
            axes.set_ylabel(plain(study.metric))
            show_metric_axis(axes.yaxis, study.metric)

    return draw_figure(draw, height_in=0.2 + row_in * rows)


def _draw_effect(axes: Any, study: Study, effect: Effect, *, room: int) -> None:
    factor = effect.factor
    jitter_R = 0.16 * np.sin(2.4 * np.arange(len(study.runs)))  # spread, and the same every time
    axes.plot(factor.level_R + jitter_R, study.value_R, "o", color=PALE, markersize=3.2, zorder=1)
    places = range(len(effect.means))
    axes.plot(places, [level.mean for level in effect.means], color=colour_of(0), marker="D", markersize=5, zorder=3)
    for place, level in zip(places, effect.means, strict=True):
        if level.half_width is not None:
            axes.errorbar(place, level.mean, yerr=level.half_width, color=colour_of(0), capsize=4, zorder=2)
    axes.set_title(f"{shorten(short_name(factor.name), 24)}\n{verdict_of(effect)}")
    _show_levels(axes, factor, room=room)


def _draw_interaction(axes: Any, study: Study, pair: Interaction, *, room: int) -> None:
    across, lines = (
        (pair.first, pair.second) if len(pair.first.levels) >= len(pair.second.levels) else (pair.second, pair.first)
    )
    for level, label in enumerate(lines.levels):
        cells = [(across.level_R == place) & (lines.level_R == level) for place in range(len(across.levels))]
        found = [(place, float(study.value_R[cell].mean())) for place, cell in enumerate(cells) if cell.any()]
        if found:
            axes.plot(*zip(*found, strict=True), label=f"{shorten(label, 18)}", **style_of(level))
    axes.set_title(
        f"{shorten(short_name(pair.first.name), 14)} x {shorten(short_name(pair.second.name), 14)}\n{verdict_of(pair)}"
    )
    axes.set_xlabel(plain(short_name(across.name)))
    _show_levels(axes, across, room=room)
    columns = 1 if max(map(len, lines.levels)) > 10 else 2 if max(map(len, lines.levels)) > 6 else 3
    title = shorten(short_name(lines.name), 20)
    axes.legend(
        title=title,
        title_fontsize=8,
        ncols=columns,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.6 if must_slant(across.levels, room=room) else -0.28),
        columnspacing=1,
        handlelength=2.6,
    )


def _show_levels(axes: Any, factor: Factor, *, room: int) -> None:
    labels = [shorten(label, 18) for label in factor.levels]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(visible=False, axis="x")
    slant_long_labels(axes, labels, room=room)


def _draw_axes_of_settings(axes: Any, study: Study, ends: tuple[float, float]) -> None:
    factors = study.factors
    axes.axis("off")
    axes.set_xlim(-0.35, len(factors) + 0.35)
    axes.set_ylim(-0.22, 1.32)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for place, factor in enumerate(factors):
        axes.plot([place, place], [-0.2, 1.2], color=NEUTRAL, linewidth=0.8, zorder=0)
        axes.text(place, 1.27, shorten(short_name(factor.name), 18), ha="center", va="bottom", weight="bold")
        for level, label in enumerate(factor.levels):
            height = level / max(1, len(factor.levels) - 1)
            axes.text(place - 0.03, height, shorten(label, 16), ha="right", va="center", fontsize=8, bbox=box)
    last = len(factors)
    axes.plot([last, last], [-0.05, 1.05], color=NEUTRAL, linewidth=0.8, zorder=0)
    axes.text(last, 1.27, shorten(study.metric, 28), ha="center", va="bottom", weight="bold")
    for height in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = ends[0] + height * (ends[1] - ends[0])
        axes.text(last + 0.04, height, format_figure(study.metric, value), ha="left", va="center", fontsize=8)


def _error_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two ends."""
    for step in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
        ticks = [step * place for place in range(int(low / step), int(high / step) + 2) if low <= step * place <= high]
        if len(ticks) >= 4:
            return [tick for tick in ticks if tick > 0]
    return [low, high]

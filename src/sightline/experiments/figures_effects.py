"""Figures of settings: effects, interactions, all runs at once, and the law of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sightline.experiments.effects import Analysis, Effect, Interaction
from sightline.experiments.factors import Factor
from sightline.experiments.figures import (
    NEUTRAL,
    PALE,
    colour_of,
    draw_figure,
    grid_shape,
    line_of,
    marker_of,
    must_slant,
    number_ticks,
    plain,
    shorten,
    show_metric_axis,
    slant_long_labels,
    verdict_of,
)
from sightline.experiments.finals import short_name
from sightline.experiments.scaling import Scaling
from sightline.experiments.study import Study
from sightline.experiments.wording import figure

MOST_PANELS = 6
"""Settings or pairs that are drawn, the ones with the largest effects."""
_COLUMNS = 3
_ROOM = 34
"""Characters of tick labels that fit below one of three panels."""


def draw_effects(study: Study, analysis: Analysis) -> bytes:
    """For each setting its levels' means with their intervals, over the single runs."""
    return _draw_panels(study, analysis.effects, _draw_effect, row_in=2.6)


def draw_interactions(study: Study, analysis: Analysis) -> bytes:
    """For each pair of settings the means of its cells; lines that aren't parallel are an interaction."""
    return _draw_panels(study, analysis.interactions, _draw_interaction, row_in=3.1)


def _draw_panels(study: Study, tested: Sequence[Any], draw_one: Callable[..., None], *, row_in: float) -> bytes:
    """A panel for each of the first settings or pairs, on one scale; rows are `row_in` inches high."""
    shown = tested[:MOST_PANELS]
    rows, columns = grid_shape(len(shown), columns=_COLUMNS)

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
            heights = [
                *(_spread_level(factor, int(run), rank / max(1, len(order) - 1)) for factor in factors),
                place_R[run],
            ]
            best = run == study.best
            axes.plot(heights, color=colours(Normalize(0, 1.1)(place_R[run])), linewidth=3 if best else 1.4, alpha=0.9)
        _draw_axes_of_settings(axes, study, (low, high))

    return draw_figure(draw, height_in=3.6)


def draw_scaling(scaling: Scaling) -> bytes:
    """Error over training pictures on logarithmic axes, with the fitted law."""

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
        line = np.geomspace(amounts[0], amounts[-1], 50)
        label = f"error = {scaling.factor:.3g} x amount ^ {-scaling.exponent:.3f}"
        axes.plot(line, [scaling.predict(amount) for amount in line], color=colour_of(1), label=label)
        axes.plot(amounts, means, "D", color=colour_of(0), markersize=6, label="mean of an amount")
        axes.set(xscale="log", yscale="log")
        number_ticks(
            axes.xaxis,
            list(amounts),
            [f"{amount:,.0f}" if scaling.in_pictures else f"{amount:g}" for amount in amounts],
        )
        ticks = _error_ticks(*axes.get_ylim())
        number_ticks(axes.yaxis, ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xlabel("training pictures" if scaling.in_pictures else "part of the training pictures")
        axes.set_ylabel(plain(scaling.error_name))
        axes.legend(loc="best")

    return draw_figure(draw, height_in=3.4)


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
        style = {"color": colour_of(level), "marker": marker_of(level), "linestyle": line_of(level)}
        if found:
            axes.plot(*zip(*found, strict=True), label=f"{shorten(label, 18)}", **style)
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


def _spread_level(factor: Factor, run: int, rank: float) -> float:
    """Where a run crosses the axis of a setting: near its level, the better the higher, so that lines don't cover."""
    level = int(factor.level_R[run])
    last = max(1, len(factor.levels) - 1)
    return (level + 0.3 * (rank - 0.5)) / last


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
        axes.text(last + 0.04, height, figure(study.metric, value), ha="left", va="center", fontsize=8)


def _error_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two ends."""
    for step in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
        ticks = [step * place for place in range(int(low / step), int(high / step) + 2) if low <= step * place <= high]
        if len(ticks) >= 4:
            return [tick for tick in ticks if tick > 0]
    return [low, high]

"""A comparison as JSON values, as one HTML file that needs nothing beside it, and as cells of tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from sightline.kit.pages import render_page
from sightline.lab.evaluation.comparison import Comparison, ModelRow, Speed
from sightline.lab.evaluation.comparison_data import load_published, pull_commands
from sightline.lab.evaluation.comparison_quality import AgreementMatrix
from sightline.lab.evaluation.measured_model import SPEED_BATCH
from sightline.lab.evaluation.pages import Mark, Thumbnails, draw_tradeoff
from sightline.lab.evaluation.results import RATES, format_figure

_DECIMALS = 6
_COSTS = (
    f"Images/s: the image tower alone, {SPEED_BATCH} pictures a run, after reading and resizing; queries/s: texts one "
    "at a time. Medians of rounds in which the models took turns, with the slowest and the fastest round. Memory: the "
    "most that loading and running a model added to a process of its own, its runtime included. Disk: the files that "
    "this runtime reads."
)
RANDOM = "random weights"
Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """Metrics by CLIP_benchmark's names; what wasn't measured is left out of a model, never zero."""
    published = load_published()
    values: dict[str, Any] = {
        "data": comparison.data.dataset.name,
        "split": comparison.data.split,
        "n_images": comparison.n_images,
        "n_queries": len(comparison.data.queries),
        "machine": comparison.machine,
        "speed_batch": SPEED_BATCH,
        "quality": comparison.metric,
        "models": [_row_to_dict(row) for row in comparison.rows],
        "agreement": {name: _plain(asdict(matrix)) for name, matrix in comparison.agreement.items()},
        "pareto": pareto_front(comparison),
    }
    if (table := comparison.similarities) is not None:
        values["similarities"] = {"texts": list(table.texts), "images": list(table.ids), "models": _plain(table.models)}
    values["published"] = {table.key: table.to_dict() for table in published}
    values["pull"] = pull_commands(published)
    if comparison.problems:
        values["left_out"] = [{"id": problem.id, "reason": problem.reason} for problem in comparison.problems]
    values["took_s"] = round(comparison.took_s, 2)
    return values


def pareto_front(comparison: Comparison) -> list[str]:
    """Models that no other dominates, of those whose quality was measured, best first."""
    metric = comparison.metric
    if metric is None:
        return []
    front = [row for row in comparison.rows if row.quality is not None and not row.dominated_by]
    return [row.model for row in sorted(front, key=lambda row: -row.quality.metrics[metric] if row.quality else 0.0)]


def format_comparison(comparison: Comparison) -> str:
    """The page as HTML."""
    data = comparison.data
    split = f", {data.split}" if data.split else ""
    counts = f"{comparison.n_images:,} images, {len(data.queries):,} queries"
    published = load_published()
    return render_page(
        "lab/evaluation/comparison.html",
        title="Models compared",
        lead=f"{data.dataset.name}{split}: {counts}. {comparison.machine}.",
        quality=quality_table(comparison),
        costs=cost_table(comparison),
        costs_note=_COSTS,
        tradeoff=_show_tradeoff(comparison),
        agreement=_show_agreement(comparison),
        similarities=_show_similarities(comparison),
        published=[
            (table, [[name, *(percent(figures[name]) for figures in table.metrics.values())] for name in table.names])
            for table in published
        ],
        pull=pull_commands(published),
    )


def list_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """The tables of a comparison with their headings, as a terminal shows them."""
    tables = [("Speed and size", cost_table(comparison))]
    if (quality := quality_table(comparison)) and (tradeoff := tradeoff_table(comparison)):
        tables = [("Quality", quality), (f"{comparison.metric} against images/s", tradeoff), *tables]
    labels = shorten_names(row.model for row in comparison.rows)
    for name, matrix in comparison.agreement.items():
        short = [labels[model] for model in matrix.models]
        rows = [[one, *map(percent, overlaps)] for one, overlaps in zip(short, matrix.overlap, strict=True)]
        tables.append((describe_agreement(name, matrix), (["", *short], rows)))
    return tables


def quality_table(comparison: Comparison) -> Table | None:
    """A row for each metric that is a rate; None where no quality was measured."""
    measured = [(row.model, row.quality.metrics) for row in comparison.rows if row.quality is not None]
    if comparison.metric is None:
        return None
    labels = shorten_names(row.model for row in comparison.rows)
    names = [name for name in measured[0][1] if any(word in name for word in RATES)]
    rows = [[name, *(format_figure(name, metrics[name]) for _, metrics in measured)] for name in names]
    return ["", *(labels[model] for model, _ in measured)], rows


def tradeoff_table(comparison: Comparison) -> Table | None:
    """A row for each model with quality: how far it is behind the best, and which others dominate it."""
    metric = comparison.metric
    if metric is None:
        return None
    labels = shorten_names(row.model for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        if row.quality is not None:
            others = ", ".join(labels[name] for name in row.dominated_by)
            standing = f"dominated by {others}" if others else "on the front"
            value = format_figure(metric, row.quality.metrics[metric])
            rows.append([labels[row.model], value, distance(row, metric), standing])
    return ["model", metric, "behind the best (95% interval)", "Pareto"], rows


def cost_table(comparison: Comparison) -> Table:
    """Speed and size of each model; random weights are named so."""
    labels = shorten_names(row.model for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        low, high = row.images.range_per_s
        rows.append(
            [
                labels[row.model] + (f" ({RANDOM})" if row.random_weights else ""),
                rate(row.images.per_s),
                f"{rate(low)} to {rate(high)}",
                rate(row.texts.per_s),
                megabytes(row.memory_bytes),
                megabytes(row.facts.disk_bytes),
                str(row.facts.dim),
                f"{row.facts.input_px} px",
                RANDOM if row.random_weights else row.facts.precision,
                row.facts.runtime.replace("ExecutionProvider", ""),
            ]
        )
    return ["model", "images/s", "rounds", "queries/s", "memory", "disk", "dim", "input", "weights", "runtime"], rows


def shorten_names(models: Iterable[str]) -> dict[str, str]:
    """Short names of models: of folders, only as much of the path as tells them apart, or all of it."""
    short = {name: _shorten(name, parts=1) for name in models}
    for parts in (2, 3, None):
        taken = list(short.values())
        short = {name: _shorten(name, parts=parts) if taken.count(own) > 1 else own for name, own in short.items()}
    return short


def describe_agreement(name: str, matrix: AgreementMatrix) -> str:
    """The caption of a matrix."""
    asked = {"text_to_image": "texts", "image_to_image": "pictures"}.get(name, "queries")
    return (
        f"Agreement, {name.replace('_', ' ')}: share of the first {matrix.k} of {matrix.n_candidates:,} pictures that "
        f"two models have in common, over {matrix.n_queries:,} {asked}; chance {percent(matrix.chance)}"
    )


def percent(value: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{value:.1%}"


def rate(per_s: float) -> str:
    """Three digits that count: 4.57, 45.7, 457, 4,570."""
    if per_s >= 100:
        return f"{float(f'{per_s:.3g}'):,.0f}"
    return f"{per_s:.3g}"


def megabytes(size_bytes: int | None) -> str:
    """Millions of bytes; `-` where it isn't known."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 1e7 else f"{size_bytes / 1e6:.1f} MB"


def distance(row: ModelRow, metric: str) -> str:
    """The distance of a model to the best, with its interval."""
    if not row.behind:
        return "best"
    in_percent = any(word in metric for word in RATES)
    scale, number, unit = (100, "+z.1f", " points") if in_percent else (1, "+z.3f", "")
    text = f"{-scale * row.behind:{number}}{unit}"
    if row.behind_interval is None:
        return text
    low, high = row.behind_interval
    return f"{text} ({-scale * high:{number}} to {-scale * low:{number}})"


def _row_to_dict(row: ModelRow) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": row.model,
        "random_weights": row.random_weights,
        "runtime": row.facts.runtime,
        "precision": row.facts.precision,
        "dim": row.facts.dim,
        "input_px": row.facts.input_px,
        "weights_hash": row.facts.weights_hash,
        "images_per_s": _speed_to_dict(row.images),
        "text_queries_per_s": _speed_to_dict(row.texts),
        "memory_bytes": row.memory_bytes,
        "disk_bytes": row.facts.disk_bytes,
    }
    if row.quality is None or not row.quality.metrics:
        return values
    values |= {"metrics": _plain(row.quality.metrics), "intervals": _plain(row.quality.intervals)}
    if row.behind is not None:
        behind = {"behind": row.behind, "behind_interval": row.behind_interval, "dominated_by": row.dominated_by}
        values |= _plain(behind)
    return values


def _speed_to_dict(speed: Speed) -> dict[str, Any]:
    return {"median": round(speed.per_s, 1), "range": [round(end, 1) for end in speed.range_per_s]}


def _plain(value: Any) -> Any:
    """Rounded, and with lists, as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _show_tradeoff(comparison: Comparison) -> dict[str, Any] | None:
    metric, table = comparison.metric, tradeoff_table(comparison)
    if metric is None or table is None:
        return None
    headings, rows = table
    measured = [(row, row.quality.metrics[metric]) for row in comparison.rows if row.quality is not None]
    marks = [
        Mark(number=n, x=row.images.per_s, y=value, strong=not row.dominated_by, title=f"{label}: {value:.1%}")
        for n, ((row, value), (label, *_)) in enumerate(zip(measured, rows, strict=True), start=1)
    ]
    numbered = [[f"{n}  {label}", *cells] for n, (label, *cells) in enumerate(rows, start=1)]
    return {
        "note": f"{metric} upward, images/s to the right. Filled: no other model is at least as good and as fast.",
        "chart": draw_tradeoff(marks, x_label="images/s", y_label=metric),
        "table": (["", *headings[1:]], numbered),
    }


def _show_agreement(comparison: Comparison) -> list[tuple[Any, ...]]:
    """Words, models, rows in percent and the chance of each matrix."""
    labels = shorten_names(row.model for row in comparison.rows)
    shown = []
    for name, matrix in comparison.agreement.items():
        short = [labels[model] for model in matrix.models]
        rows = [(one, [100 * value for value in row]) for one, row in zip(short, matrix.overlap, strict=True)]
        shown.append((describe_agreement(name, matrix), short, rows, 100 * matrix.chance))
    return shown


def _show_similarities(comparison: Comparison) -> dict[str, Any] | None:
    table = comparison.similarities
    if table is None:
        return None
    thumbnails = Thumbnails.of(comparison.data.dataset)
    labels = shorten_names(row.model for row in comparison.rows)
    models = []
    for model, rows in table.models.items():
        values = [value for row in rows for value in row]
        shown = list(zip(table.texts, rows, strict=True))
        models.append((labels[model], shown, (min(values), max(values))))
    return {"columns": [thumbnails.well(id_) for id_ in table.ids], "models": models}


def _shorten(name: str, *, parts: int | None) -> str:
    if parts is None or not name.startswith("dir:"):
        return name
    return "dir:" + "/".join(PurePath(name.removeprefix("dir:")).parts[-parts:])

"""A comparison as one HTML file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from sightline.evaluation.charts import Mark, draw_tradeoff
from sightline.evaluation.comparison import Comparison
from sightline.evaluation.comparison_text import (
    Labels,
    cost_cells,
    cost_headings,
    describe_agreement,
    distance,
    figure,
    headline_metrics,
    percent,
    standing,
)
from sightline.evaluation.measured_model import SPEED_BATCH
from sightline.evaluation.pages import (
    Thumbnails,
    format_heatmap,
    format_page,
    format_section,
    format_table,
)
from sightline.evaluation.published import PublishedTable, load_published, pull_commands
from sightline.pages import escape, write_page

_COSTS = (
    f"Images/s: the image tower alone, {SPEED_BATCH} pictures a run, after reading and resizing; queries/s: texts one "
    "at a time. Medians of rounds in which the models took turns, with the slowest and the fastest round. Memory: the "
    "most that loading and running a model added to a process of its own, its runtime included. Disk: the files that "
    "this runtime reads."
)


def write_comparison_page(target: Path, comparison: Comparison) -> None:
    """Write the page. Raises InputError where it can't be written."""
    write_page(target, format_comparison(comparison))


def format_comparison(comparison: Comparison) -> str:
    """The page as HTML."""
    labels = Labels.of([row.model for row in comparison.rows])
    data = comparison.data
    split = f", {data.split}" if data.split else ""
    counts = f"{comparison.n_images:,} images, {len(data.queries):,} queries"
    lead = f"{data.dataset.name}{split}: {counts}. {comparison.machine}."
    costs = format_table(cost_headings(), [cost_cells(row, labels) for row in comparison.rows])
    sections = [
        _format_quality(comparison, labels),
        format_section("Speed and size", costs, note=_COSTS),
        _format_tradeoff(comparison, labels),
        _format_agreement(comparison, labels),
        _format_similarities(comparison, labels),
        _format_published(),
    ]
    return format_page("Models compared", lead=lead, sections=sections)


def _format_quality(comparison: Comparison, labels: Labels) -> str:
    rows = [(row, row.quality) for row in comparison.rows if row.quality is not None]
    if comparison.metric is None:
        return ""
    names = headline_metrics(rows[0][1].metrics)
    cells = [[name, *(figure(name, quality.metrics[name]) for _, quality in rows)] for name in names]
    table = format_table(["", *(labels[row.model] for row, _ in rows)], cells)
    return format_section("Quality", table, note="image_retrieval finds images by texts.")


def _format_tradeoff(comparison: Comparison, labels: Labels) -> str:
    metric = comparison.metric
    if metric is None:
        return ""
    rows = [(row, row.quality.metrics[metric]) for row in comparison.rows if row.quality is not None]
    marks = [
        Mark(
            number=number,
            x=row.images.per_s,
            y=value,
            strong=not row.dominated_by,
            title=f"{labels[row.model]}: {value:.1%}",
        )
        for number, (row, value) in enumerate(rows, start=1)
    ]
    table = format_table(
        ["", metric, "behind the best (95% interval)", "Pareto"],
        [
            [f"{number}  {labels[row.model]}", figure(metric, value), distance(row, metric), standing(row, labels)]
            for number, (row, value) in enumerate(rows, start=1)
        ],
    )
    note = f"{metric} upward, images/s to the right. Filled: no other model is at least as good and as fast."
    return format_section(
        "Quality against speed", draw_tradeoff(marks, x_label="images/s", y_label=metric), table, note=note
    )


def _format_agreement(comparison: Comparison, labels: Labels) -> str:
    parts = []
    for name, matrix in comparison.agreement.items():
        short = [escape(labels[model]) for model in matrix.models]
        shown = [(one, [100 * value for value in row]) for one, row in zip(short, matrix.overlap, strict=True)]
        parts.append(f'<p class="note">{escape(describe_agreement(name, matrix))}</p>')
        parts.append(format_heatmap(short, shown, number=".1f", between=(100 * matrix.chance, 100.0)))
    return format_section("Agreement of rankings, percent", *parts) if parts else ""


def _format_similarities(comparison: Comparison, labels: Labels) -> str:
    table = comparison.similarities
    if table is None:
        return ""
    thumbnails = Thumbnails.of(comparison.data.dataset)
    columns = [thumbnails.well(id_) for id_ in table.ids]
    parts = []
    for model, rows in table.models.items():
        values = [value for row in rows for value in row]
        shown = [(escape(text), row) for text, row in zip(table.texts, rows, strict=True)]
        parts.append(f"<h3>{escape(labels[model])}</h3>")
        parts.append(format_heatmap(columns, shown, number=".2f", between=(min(values), max(values))))
    note = (
        "Cosines of some texts with the pictures that all models together find best for them. Each model has a scale "
        "of its own: compare the pattern, not the numbers."
    )
    return format_section("Similarities", *parts, note=note)


def _format_published() -> str:
    tables = load_published()
    parts = [part for table in tables for part in _format_table_of(table)]
    commands = "".join(f"<code>{escape(command)}</code>" for command in pull_commands(tables))
    parts.append(f'<h3>First fetch the weights</h3><div class="commands">{commands}</div>')
    note = "Figures of others, from the sources named; nothing here was measured on this machine."
    return format_section("Published by others", *parts, note=note)


def _format_table_of(table: PublishedTable) -> list[str]:
    rows = [
        [name, *(percent(figures[name]) for figures in table.metrics.values())]
        for name in next(iter(table.metrics.values()))
    ]
    source = f'<p class="source">{table.n_images:,} images. {escape(table.note)} Source: {escape(table.source)}</p>'
    command = f'<div class="commands"><code>{escape(table.command)}</code></div>'
    return [f"<h3>{escape(table.title)}</h3>", format_table(["", *table.metrics], rows), source, command]

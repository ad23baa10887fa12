"""Parts of a report: sections with figures and tables, as an HTML page and as Markdown, and how its figures look.

Figures share their size, colours that survive colour blindness, and marks that survive grey print.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightline.errors import InputError
from sightline.kit.files import explained
from sightline.kit.pages import render_page, write_page
from sightline.kit.text import visible
from sightline.lab.experiments.effects import Analysis, Effect, Interaction
from sightline.lab.experiments.summary import is_share, p_value
from sightline.lab.training.log import colour_of, import_matplotlib, new_figure, quiet_glyphs

MOST_ROWS = 60
"""Most rows of a table."""
WIDTH_IN = 7.2
"""Text width of a printed page; nothing in a figure is smaller than 8 points there."""
DPI = 150
NEUTRAL = "#666666"
PALE = "#bbbbbb"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))
_STYLE: Any = {
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure."""

    name: str
    """Name of its file, without suffix."""
    png: bytes
    caption: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; the first column names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a note, figures and tables."""

    title: str
    note: str = ""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is shown."""

    title: str
    lead: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    analysis: Analysis
    """The basis of the summary and of the figures of settings."""


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """The files of a report."""

    html: Path
    markdown: Path
    images: Path


def report_files(output: Path) -> ReportFiles:
    """The files of a report by that of its page. Raises InputError where that is no HTML file."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is a page: --output must end in .html, as in report.html; it is {output.name}.")
    return ReportFiles(html=output, markdown=output.with_suffix(".md"), images=output.with_name(f"{output.stem}-files"))


def write_report_files(report: Report, output: Path) -> ReportFiles:
    """Write page, Markdown and images. Raises InputError where they can't be."""
    files = report_files(output)
    write_page(files.html, format_html(report))
    with explained(files.images, "Choose another --output.", error=InputError):
        files.images.mkdir(exist_ok=True)
        for section in report.sections:
            for plot in section.plots:
                (files.images / f"{plot.name}.png").write_bytes(plot.png)
    write_page(files.markdown, format_markdown(report, images=files.images.name))
    return files


def format_html(report: Report) -> str:
    """The page; its images are inside."""

    def encode(png: bytes) -> str:
        return base64.b64encode(png).decode("ascii")

    return render_page(
        "lab/experiments/report.html", title=report.title, lead=report.lead, report=report, encode=encode
    )


def format_markdown(report: Report, *, images: str) -> str:
    """The same in Markdown; `pictures` is their folder beside it."""
    blocks = [f"# {_plain(report.title)}", _plain(report.lead), "## Summary"]
    blocks.append("\n".join(f"- {_plain(sentence)}" for sentence in report.summary))
    for section in report.sections:
        blocks += [f"## {_plain(section.title)}", *([_plain(section.note)] if section.note else [])]
        for plot in section.plots:
            blocks += [f"![{_plain(plot.caption)}]({quote(images)}/{plot.name}.png)", f"*{_plain(plot.caption)}*"]
        blocks += [_format_table(table) for table in section.tables]
    return "\n\n".join(blocks) + "\n"


def _format_table(table: Table) -> str:
    lines = [[_plain(cell) for cell in row] for row in (table.headings, *table.rows)]
    lines.insert(1, ["---"] + ["---:"] * (len(table.headings) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    r"""Text that came from outside as Markdown that shows it: one line, no markup, no HTML."""
    line = visible(" ".join(text.split()))
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, f"\\{mark}")
    return line


def draw_figure(draw: Callable[[Any], None], *, height_in: float) -> bytes:
    """A PNG of what `draw` puts on a figure. Raises InputError where matplotlib isn't installed."""
    with import_matplotlib().rc_context(_STYLE), quiet_glyphs():
        figure = new_figure(WIDTH_IN, height_in, dpi=DPI)
        draw(figure)
        figure.draw_without_rendering()  # ticks settle in the first pass of the layout, room for them in the second
        encoded = io.BytesIO()
        figure.savefig(encoded, format="png", metadata={"Software": None})
    return encoded.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib can draw and doesn't read as a formula, on one line."""
    return visible(" ".join(text.split())).replace("$", r"\$")


def shorten(text: str, most: int) -> str:
    """At most so many characters."""
    return plain(text if len(text) <= most else f"{text[: most - 1]}…")


def line_of(index: int) -> Any:
    """The line style of a level or run."""
    return LINES[index % len(LINES)]


def style_of(index: int, *, line: int | None = None) -> dict[str, Any]:
    """Colour, mark and line of a level or run; `line` is the index of another line."""
    style = {"color": colour_of(index), "marker": MARKERS[index % len(MARKERS)]}
    return style | {"linestyle": line_of(index if line is None else line)}


def show_metric_axis(axis: Any, metric: str) -> None:
    """Shares in percent, with as many decimals as the ticks need."""
    if is_share(metric):
        axis.set_major_formatter(lambda value, _: f"{round(100 * value, 3):g}%")


def number_ticks(axis: Any, numbers: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks at these places and nowhere else, also on a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axis.set_major_locator(FixedLocator(list(numbers)))
    axis.set_ticklabels([plain(label) for label in labels])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def scale_by_powers(axes: Any) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def slant_long_labels(axes: Any, labels: Sequence[str], *, room: int) -> None:
    """Turn tick labels of the x axis where they don't fit side by side in so many characters."""
    if must_slant(labels, room=room):
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def must_slant(labels: Sequence[str], *, room: int) -> bool:
    """True where labels don't fit side by side in so many characters."""
    return sum(len(label) + 2 for label in labels) > room


def verdict_of(found: Effect | Interaction) -> str:
    """A verdict as the title of a panel says it."""
    if found.p_holm is None:
        return found.verdict
    return f"{found.verdict}, {p_value(found.p_holm)}"

"""A report as one HTML page that needs nothing beside it, and as Markdown with its pictures in a folder."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.pages import escape, format_frame, write_page
from sightline.kit.text import visible
from sightline.lab.evaluation.pages import format_section, format_table
from sightline.lab.experiments.effects import Analysis

MOST_ROWS = 60
"""Of a table."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure."""

    name: str
    """Of its file, without suffix."""
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
    """What the summary and the figures of settings rest on."""


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report was written."""

    html: Path
    markdown: Path
    pictures: Path


def report_files(output: Path) -> ReportFiles:
    """The files of a report by that of its page. Raises InputError where that is no HTML file."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is a page: --output must end in .html, as in report.html; it is {output.name}.")
    return ReportFiles(
        html=output, markdown=output.with_suffix(".md"), pictures=output.with_name(f"{output.stem}-files")
    )


def write_report_files(report: Report, output: Path) -> ReportFiles:
    """Write page, Markdown and pictures. Raises InputError where they can't be."""
    files = report_files(output)
    write_page(files.html, format_html(report))
    try:
        files.pictures.mkdir(exist_ok=True)
        for section in report.sections:
            for plot in section.plots:
                (files.pictures / f"{plot.name}.png").write_bytes(plot.png)
    except OSError as error:
        raise InputError(f"{files.pictures} can't be written: {error.strerror}. Choose another --output.") from error
    write_page(files.markdown, format_markdown(report, pictures=files.pictures.name))
    return files


def format_html(report: Report) -> str:
    """The page; its pictures are inside."""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.summary)
    sections = [format_section("Summary", f'<ul class="says">{sentences}</ul>')]
    for section in report.sections:
        parts = [_format_plot(plot) for plot in section.plots]
        parts += [format_table(table.headings, table.rows) for table in section.tables]
        sections.append(format_section(section.title, *parts, note=section.note))
    style = resources.files("sightline.lab.experiments") / "report.css"
    return format_frame(report.title, lead=report.lead, sections=sections, style=style)


def format_markdown(report: Report, *, pictures: str) -> str:
    """The same in Markdown; `pictures` is their folder beside it."""
    blocks = [f"# {_plain(report.title)}", _plain(report.lead), "## Summary"]
    blocks.append("\n".join(f"- {_plain(sentence)}" for sentence in report.summary))
    for section in report.sections:
        blocks += [f"## {_plain(section.title)}", *([_plain(section.note)] if section.note else [])]
        for plot in section.plots:
            blocks += [f"![{_plain(plot.caption)}]({_address(pictures)}/{plot.name}.png)", f"*{_plain(plot.caption)}*"]
        blocks += [_format_table(table) for table in section.tables]
    return "\n\n".join(blocks) + "\n"


def _format_plot(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    caption = escape(plot.caption)
    return (
        f'<figure class="plot"><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _format_table(table: Table) -> str:
    rows: Sequence[Sequence[str]] = [table.headings, ["---"] + ["---:"] * (len(table.headings) - 1), *table.rows]
    head, rule, *body = rows
    lines = [[_plain(cell) for cell in head], rule, *([_plain(cell) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    r"""Text that came from outside as Markdown that shows it: one line, no markup, no HTML."""
    line = visible(" ".join(text.split()))
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, f"\\{mark}")
    return line


def _address(name: str) -> str:
    from urllib.parse import quote

    return quote(name)

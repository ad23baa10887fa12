"""`index`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, library_option, model_option, notice, precision_option, print_json
from sightline.faces.cli.progress import ProgressBar

if TYPE_CHECKING:
    from sightline.core.indexing.report import IndexReport, Progress


@click.command()
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave out files or folders, as in: --exclude '*/raw'"
)
@click.option("--prune", is_flag=True, help="Forget images even where a whole folder is missing or empty.")
@click.option("--retry", is_flag=True, help="Try unchanged files again that could not be read before.")
@model_option
@precision_option
@json_option
@library_option
def index(
    *,
    folders: tuple[Path, ...],
    exclude: tuple[str, ...],
    prune: bool,
    retry: bool,
    model: str | None,
    as_json: bool,
    library_dir: Path | None,
) -> None:
    """Bring the library up to date with folders; without any, with those it knows.

    Only what is new or changed is read. It can be interrupted, or killed, at any moment: run it again to go on.
    With --model, another model's vectors are added beside those that are there. The exit code is 1 if files could
    not be read; they are named with the reason.
    """
    from sightline.core.indexing.report import IndexConfig
    from sightline.core.library import Library

    config = IndexConfig(exclude=exclude, remove_missing="always" if prune else "safe", retry_failures=retry)
    with Library.open(library_dir, model=model) as library, ProgressBar("indexing") as bar:
        if reason := library.choose_model(confirm=_ask if sys.stdin.isatty() else None):
            notice(reason)
        default = library.default_model
        report = library.index(*folders, config=config, on_progress=lambda event: _show(bar, event))
        if default not in (None, library.model):
            notice(f"Searches use {default} as before; to change that: sightline models use {library.model}")
    if as_json:
        print_json(_report_as_json(report))
    else:
        click.echo(report.summary())
    if report.skipped or report.interrupted:
        raise SystemExit(1)


def _ask(question: str) -> bool:
    return click.confirm(question, err=True)


def _show(bar: ProgressBar, event: Progress) -> None:
    if event.total is None:
        bar.show(event.seen, note="files found")
        return
    parts = [f"{event.images_per_s:,.0f} images/s"] if event.images_per_s else []
    if event.seconds_left is not None:
        minutes, seconds = divmod(round(event.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    if event.skipped:
        parts.append(f"{event.skipped:,} unreadable")
    bar.show(event.done, total=event.total, note=", ".join(parts))


def _report_as_json(report: IndexReport) -> dict[str, Any]:
    return {
        **report.counts,
        "unreadable": [{"path": str(file.path), "reason": file.reason} for file in report.skipped],
        "warnings": report.warnings,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in report.stage_seconds.items()},
    }

"""`report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, notice, print_json
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.experiments.effects import Analysis


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|SWEEP...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE.html",
    help="The page; the same as Markdown and its pictures lie beside it.",
)
@click.option("--metric", metavar="NAME", help="What runs are compared by [default: mean_recall, else acc1].")
@json_option
def report(*, runs: tuple[Path, ...], output: Path, metric: str | None, as_json: bool) -> None:
    """What came of runs and sweeps: figures, the effect of each setting, and a summary computed from the results.

    \b
    sightline report runs/scenes
    sightline report sweeps/lr --output lr.html
    sightline report runs/seed-0 runs/seed-1 runs/seed-2 --metric image_retrieval_recall@1
    """
    from sightline.lab.experiments.report import write_report
    from sightline.lab.experiments.results import read_results

    made, files = write_report(read_results(runs), output, metric=metric)
    if as_json:
        written = {"html": str(files.html), "markdown": str(files.markdown), "pictures": str(files.pictures)}
        print_json(
            {"title": made.title, "summary": list(made.summary), "settings": _settings(made.analysis), **written}
        )
        return
    for sentence in made.summary:
        notice(printable(sentence))
    notice(f"The same as Markdown: {files.markdown}, with its pictures in {files.pictures}.")
    click.echo(str(files.html))


def _settings(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "name": effect.factor.name,
            "verdict": effect.verdict,
            "range": effect.spread,
            "p_holm": effect.p_holm,
            "means": {level.label: level.mean for level in effect.means},
        }
        for effect in analysis.effects
    ]

"""The `sightline` command."""

from __future__ import annotations

import io
import sys

import click

from sightline import __version__
from sightline.errors import InputError, SightlineError
from sightline.faces.cli.caption import caption
from sightline.faces.cli.compare import compare
from sightline.faces.cli.data import data
from sightline.faces.cli.doctor import doctor
from sightline.faces.cli.endpoint import endpoint
from sightline.faces.cli.evaluate import evaluate
from sightline.faces.cli.export import export
from sightline.faces.cli.generate import generate
from sightline.faces.cli.heatmap import explain, heatmap
from sightline.faces.cli.index import index
from sightline.faces.cli.library import info, remove
from sightline.faces.cli.mcp import mcp
from sightline.faces.cli.models import models
from sightline.faces.cli.report import report
from sightline.faces.cli.search import duplicates, search, similar
from sightline.faces.cli.serve import serve
from sightline.faces.cli.sweep import sweep
from sightline.faces.cli.train import train
from sightline.faces.cli.write import write


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sightline")
def sightline() -> None:
    """Find, caption and explain the images on your own disk with CLIP and BLIP.

    Everything stays on this machine. Start with: sightline index FOLDER, then: sightline search two dogs in the snow
    """


ON_A_LIBRARY = (index, search, similar, duplicates, caption, write, serve, mcp, info, remove)
ON_MODELS = (data, train, sweep, report, evaluate, compare, models, export, endpoint, doctor, generate)
ON_PICTURES = (heatmap, explain)

for command in (*ON_A_LIBRARY, *ON_MODELS, *ON_PICTURES):
    sightline.add_command(command)


def main() -> None:
    """Run the command line. One line on stderr and an exit code say what went wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names come out as the bytes they are; where the terminal can't show a letter, its escape.
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        sightline(prog_name="sightline")
    except InputError as error:
        _fail(error, code=2)
    except SightlineError as error:
        _fail(error, code=1)


def _fail(error: SightlineError, *, code: int) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    raise SystemExit(code)

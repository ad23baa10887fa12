"""The `sightline` command."""

from __future__ import annotations

import io
import sys

import click

from sightline import __version__
from sightline.errors import InputError, SightlineError
from sightline.faces.cli.caption import caption, write
from sightline.faces.cli.compare import compare
from sightline.faces.cli.data import data
from sightline.faces.cli.doctor import doctor
from sightline.faces.cli.duplicates import duplicates
from sightline.faces.cli.evaluate import evaluate
from sightline.faces.cli.explain import explain, generate, heatmap
from sightline.faces.cli.find import index, info, read_text, remove, search, similar, teach
from sightline.faces.cli.models import endpoint, export, models
from sightline.faces.cli.options import CommandGroup
from sightline.faces.cli.serve import mcp, serve
from sightline.faces.cli.train import report, sweep, train


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sightline")
def sightline() -> None:
    """Find, caption and explain the images on your own disk with CLIP and BLIP.

    Everything stays on this machine. Start with: sightline index FOLDER, then: sightline search two dogs in the snow
    """


sightline.add_section("Find", index, read_text, search, similar, teach, duplicates, info, remove)
sightline.add_section("Caption", caption, write)
sightline.add_section("Explain and generate", explain, heatmap, generate)
sightline.add_section("Models", models, endpoint, export, doctor)
sightline.add_section("Train and measure", data, train, sweep, report, evaluate, compare)
sightline.add_section("Serve", serve, mcp)


def main() -> None:
    """Run the command line. One line on stderr and an exit code say what went wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names come out as the bytes they are; where the terminal can't show a letter, its escape.
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        sightline(prog_name="sightline")
    except SightlineError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None

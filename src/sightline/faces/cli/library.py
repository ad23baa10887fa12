"""`info` and `remove`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sightline.faces.cli.options import json_option, library_option, notice, print_json, where_option
from sightline.kit.text import printable


@click.command()
@json_option
@library_option
def info(*, as_json: bool, library_dir: Path | None) -> None:
    """Show what a library holds: images, captions, models, folders."""
    from sightline.core.library import Library

    with Library.open(library_dir, create=False, read_only=True) as library:
        facts = library.info()
    if as_json:
        print_json(facts)
        return
    models = ", ".join(f"{name} ({count:,} images)" for name, count in facts["models"].items())
    click.echo(f"library     {printable(facts['library'])}  ({facts['size_bytes'] / 1e6:,.1f} MB)")
    click.echo(f"images      {facts['images']:,}")
    click.echo(f"captions    {facts['captions']:,}")
    click.echo(f"models      {models or 'none yet'}")
    click.echo(f"default     {facts['model'] or 'none yet'}")
    click.echo(f"unreadable  {facts['unreadable']:,}")
    for folder in facts["folders"]:
        click.echo(f"folder      {printable(folder)}")


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@where_option
@click.option("--model", metavar="NAME", help="Drop this model's vectors instead; the images stay.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@library_option
def remove(
    *, paths: tuple[Path, ...], where: str | None, model: str | None, yes: bool, library_dir: Path | None
) -> None:
    """Forget images, by path or filter, or a model's vectors. Files on disk are never touched."""
    from sightline.core.library import Library

    if model and (paths or where):
        raise click.UsageError("--model drops vectors and goes without paths or --where.")
    with Library.open(library_dir, create=False) as library:
        if model:
            _confirm(f"Drop the vectors of {model}?", yes)
            notice(f"Dropped {library.remove_model(model):,} vectors of {model}.")
            return
        if where and not yes:
            count = sum(1 for _ in library.store.scan(where=where))
            _confirm(f"Forget {count:,} images?", yes)
        notice(f"Forgot {library.remove(paths=paths, where=where):,} images. The files are where they were.")


def _confirm(question: str, yes: bool) -> None:
    """Ask at a terminal; elsewhere the flag is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes to do it without being asked.")
    click.confirm(question, abort=True, err=True)

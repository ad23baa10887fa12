"""`doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from sightline.faces.cli.options import json_option, library_option, print_json

_MARKS = {True: ("ok", "green"), False: ("FAILS", "red"), None: ("-", "yellow")}


@click.command()
@json_option
@library_option
def doctor(*, as_json: bool, library_dir: Path | None) -> None:
    """Check what works here: versions, execution providers, models, caches, write access."""
    from sightline.faces.doctor import run_checks

    failed = False
    for check in run_checks(library_dir):
        failed |= check.ok is False
        if as_json:
            print_json({"name": check.name, "ok": check.ok, "detail": check.detail})
            continue
        mark, colour = _MARKS[check.ok]
        click.echo(f"{click.style(mark.rjust(5), fg=colour)}  {check.name:<22}  {check.detail}")
    if failed:
        raise SystemExit(1)

"""`endpoint`: what a remote model serves, and what a run on it will cost."""

from __future__ import annotations

from pathlib import Path

import click

from sightline.faces.cli.options import json_option, notice, print_json
from sightline.kit.text import printable

_url = click.argument("url", metavar="URL")


@click.group()
def endpoint() -> None:
    """Look at an inference endpoint before using it as a model, `endpoint:URL`.

    The key, if it needs one, stands in SIGHTLINE_ENDPOINT_KEY.
    """


@endpoint.command()
@_url
@json_option
def info(*, url: str, as_json: bool) -> None:
    """Show what the endpoint at URL serves."""
    from sightline.core.models.remote import Endpoint

    facts = Endpoint(url).describe()
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        click.echo(f"{key:<10} {printable(str(value))}")


@endpoint.command()
@_url
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", type=click.IntRange(min=0), metavar="N", help="So many images, instead of those of folders.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), metavar="PRICE", help="Of the endpoint's machine.")
@json_option
def cost(
    *, url: str, folders: tuple[Path, ...], images: int | None, price_per_hour: float | None, as_json: bool
) -> None:
    """Estimate how long indexing takes with the endpoint at URL, and what it costs.

    Some batches are sent and timed: images x seconds x price.
    """
    from sightline.core.models.remote import estimate_cost, load_remote_encoder

    if (images is None) == (not folders):
        raise click.UsageError("Say what to index: folders, or --images N.")
    count = images if images is not None else _count(folders)
    estimate = estimate_cost(load_remote_encoder(url), count, price_per_hour=price_per_hour)
    if as_json:
        facts = {"images": count, "images_per_s": 1 / estimate.image_s, "seconds": estimate.seconds}
        print_json({**facts, "price": estimate.price})
        return
    click.echo(estimate.describe())
    if price_per_hour is not None:
        notice("An endpoint is paid while it is up: what it takes to start and to fall asleep comes on top.")


def _count(folders: tuple[Path, ...]) -> int:
    from sightline.core.library import list_pictures

    return len(list_pictures(folders))

"""`models list`, `info`, `pull` and `use`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.cli.options import json_option, library_option, notice, print_json, print_table

if TYPE_CHECKING:
    from sightline.models.base import ModelCard


@click.group()
def models() -> None:
    """List, describe and download models, and choose a library's default."""


@models.command("list")
@json_option
def list_models(*, as_json: bool) -> None:
    """List the models that Sightline knows; `hf:org/name` and `dir:PATH` name any other."""
    from sightline.models.registry import known_cards
    from sightline.models.resolve import is_available

    rows = [(card, is_available(card)) for card in known_cards().values()]
    if as_json:
        for card, here in rows:
            print_json({**_facts(card), "available": here})
        return
    print_table(
        ["name", "kind", "pixels", "dim", "here", "licence"],
        [
            (c.name, c.kind, str(c.preprocessing.size_px), str(c.dim or ""), "yes" if here else "no", _short(c.licence))
            for c, here in rows
        ],
    )


@models.command("info")
@click.argument("name")
@json_option
def show_model(name: str, *, as_json: bool) -> None:
    """Describe a model: source, licence, what it takes, how good it is."""
    from sightline.models.registry import find_card

    card = find_card(name)
    if as_json:
        print_json(_facts(card))
        return
    for key, value in _facts(card).items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for inner, figure in value.items():
                click.echo(f"    {inner}: {figure}")
        elif value is not None:
            click.echo(f"{key}: {value}")


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Download a model, so that it runs without network from then on."""
    from sightline.models.pulling import pull as download

    folder = download(name, progress=notice)
    notice(f"{name} is ready in {folder}")
    notice(f"Add its vectors to your library: sightline index --model {name}   then: sightline models use {name}")


@models.command()
@click.argument("name")
@library_option
def use(name: str, *, library_dir: Path | None) -> None:
    """Make NAME the library's default model; it must have been indexed with it."""
    from sightline.library import Library

    with Library.open(library_dir, create=False) as library:
        library.use_model(name)
    notice(f"The default model is now {name}.")


def _short(licence: str) -> str:
    return textwrap.shorten(licence, 30, placeholder=" ...")


def _facts(card: ModelCard) -> dict[str, Any]:
    image = card.preprocessing
    return {
        "name": card.name,
        "kind": card.kind,
        "family": card.family,
        "source": card.source,
        "revision": card.revision,
        "licence": card.licence,
        "paper": card.paper,
        "dim": card.dim,
        "size_px": image.size_px,
        "resize": image.resize_mode,
        "interpolation": image.interpolation,
        "mean": list(image.mean),
        "std": list(image.std),
        "context_length": card.text.context_length,
        "activation": card.activation,
        "temperature": card.temperature,
        "download_bytes": card.size_bytes,
        "onnx_export": card.onnx.repo if card.onnx else None,
        "figures": dict(card.figures),
    }

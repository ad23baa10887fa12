"""`export`: models for other places."""

from __future__ import annotations

from pathlib import Path

import click

from sightline.faces.cli.options import json_option, notice, print_json


@click.group()
def export() -> None:
    """Write models in forms that run elsewhere."""


@export.command()
@click.argument("model")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--captioner", metavar="NAME", help="A captioner to serve beside the encoder.")
@json_option
def endpoint(*, model: str, folder: Path, captioner: str | None, as_json: bool) -> None:
    """Write the repository of a Hugging Face inference endpoint for MODEL into DIR.

    It holds handler.py, requirements, a model card, the weights and the code that runs them, and needs no PyTorch. Try
    it here: python DIR/handler.py --port 8080, then: sightline index --model endpoint:http://127.0.0.1:8080
    """
    from sightline.faces.integrations.endpoint_export import export_endpoint

    made = export_endpoint(model, folder, captioner=captioner)
    if as_json:
        names = [card.name for card in made.models]
        print_json({"folder": str(made.folder), "models": names, "size_bytes": made.size_bytes})
        return
    notice(f"{made.folder} is ready ({made.size_bytes / 1e6:,.0f} MB). To try it: python {made.folder}/handler.py")
    for card in made.models:
        notice(f"  {card.kind}  {card.name}  licence of its weights: {card.licence}")

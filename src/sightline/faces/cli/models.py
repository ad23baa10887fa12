"""Models: `models` and the models of others, `endpoint`; `export` for other places."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.core.library import Library, list_images
from sightline.faces.cli.options import NUMBER, CommandGroup, json_option, library_option
from sightline.faces.cli.printing import notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.models.cards import ModelCard
    from sightline.core.models.precision import Verdict

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group(cls=CommandGroup)
def models() -> None:
    """List, describe and download models, and choose a library's default."""


@models.command("list")
@json_option
def list_models(*, as_json: bool) -> None:
    """List the models that Sightline knows; `hf:org/name` and `dir:PATH` name any other."""
    from sightline.core.models.cards import known_cards
    from sightline.core.models.files import is_available

    rows = [(card, is_available(card)) for card in known_cards().values()]
    if as_json:
        for card, here in rows:
            print_json({**_facts(card), "available": here})
        return
    print_table(
        ["name", "kind", "pixels", "dim", "here", "licence"],
        [
            (
                c.name,
                c.kind,
                str(c.preprocessing.size_px),
                str(c.dim or ""),
                "yes" if here else "no",
                textwrap.shorten(c.licence, 30, placeholder=" ..."),
            )
            for c, here in rows
        ],
    )


@models.command("info")
@click.argument("name")
@json_option
def show_model(name: str, *, as_json: bool) -> None:
    """Describe a model: source, licence, what it takes, how good it is, and how it runs here."""
    from sightline.core.models.cards import find_card
    from sightline.core.models.precision import describe_runtime

    card = find_card(name)
    facts = {**_facts(card), "here": describe_runtime(card)}
    if as_json:
        print_json(facts)
        return
    gate = facts["here"].get("gate")
    if isinstance(gate, dict):
        facts["here"]["gate"] = {part: verdict["verdict"] for part, verdict in gate.items()}
    for key, value in facts.items():
        _print_fact(key, value)


@models.command()
@click.argument("name")
@click.option(
    "--images",
    "folders",
    multiple=True,
    required=True,
    type=_FOLDER,
    metavar="DIR",
    help="Pictures like those that you search, 256 or more; can be given several times.",
)
@json_option
def quantise(name: str, *, folders: tuple[Path, ...], as_json: bool) -> None:
    """Make int8 graphs of a model, and let them run from then on if they agree with fp32 on your pictures.

    Indexing does this by itself, once, with the first 256 pictures. The exit code is 1 where the image tower (of a
    captioner, its captions) didn't pass; the model then runs in fp32.
    """
    from sightline.core.models.cards import find_card

    card = find_card(name)
    if card.kind == "matcher":
        raise click.UsageError(f"{card.name} runs in PyTorch, in fp32; encoders and captioners can be quantised.")
    places = [folder.absolute() for folder in folders]
    verdicts = _judge_encoder(card, places) if card.kind == "encoder" else _judge_captioner(card, places)
    if as_json:
        print_json({part: asdict(verdict) for part, verdict in verdicts.items()})
    if not next(iter(verdicts.values())).passed:
        raise SystemExit(1)


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Download a model, so that it runs without network from then on."""
    from sightline.core.models.cards import find_card
    from sightline.core.models.loading import pull as download

    folder = download(name, progress=notice)
    notice(f"{name} is ready in {folder}")
    if find_card(name).kind == "matcher":
        notice("Read the first results again with it: sightline search --rerank 20 WORDS")
        return
    notice(f"Add its vectors to your library: sightline index --model {name}   then: sightline models use {name}")


@models.command()
@click.argument("name")
@library_option
def use(name: str, *, library_dir: Path | None) -> None:
    """Make NAME the library's default model; it must have been indexed with it."""
    with Library.open(library_dir, create=False) as library:
        library.use_model(name)
    notice(f"The default model is now {name}.")


def _judge_encoder(card: ModelCard, folders: Sequence[Path]) -> Mapping[str, Verdict]:
    from sightline.core.indexing.reading import sample_images
    from sightline.core.models.precision import EncoderGate
    from sightline.core.models.quantise.gate import quantise_encoder

    pixels = sample_images(folders, card.preprocessing, EncoderGate().min_images)
    return quantise_encoder(card, pixels, sample=f"pictures of {', '.join(map(str, folders))}", tell=notice)


def _judge_captioner(card: ModelCard, folders: Sequence[Path]) -> Mapping[str, Verdict]:
    from sightline.core.indexing.reading import draw_files
    from sightline.core.models.precision import VERDICT_NAME, CaptionerGate
    from sightline.lab.evaluation.captions.gate import gate_captioner

    # Drawn beyond those that a captioner's gate needs, in place of files that can't be read.
    enough = CaptionerGate().min_images + 64
    notice(f"Making int8 graphs of {card.name} and comparing its captions with those of fp32; this takes minutes.")
    verdict = gate_captioner(card.name, draw_files(folders)[:enough])
    notice(f"{card.name}: int8 {verdict.describe()} ({verdict.took_s:.0f} s)")
    return {VERDICT_NAME: verdict}


def _print_fact(key: str, value: Any, indent: str = "") -> None:
    if isinstance(value, dict) and value:
        click.echo(f"{indent}{key}:")
        for inner, figure in value.items():
            _print_fact(inner, figure, indent + "    ")
    elif value not in (None, {}, ""):
        click.echo(f"{indent}{key}: {value}")


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


_url = click.argument("url", metavar="URL")


@click.group(cls=CommandGroup)
def endpoint() -> None:
    """Look at an inference endpoint before using it as a model, `endpoint:URL`.

    The key, if it needs one, stands in SIGHTLINE_ENDPOINT_KEY.
    """


@endpoint.command("info")
@_url
@json_option
def show_endpoint(*, url: str, as_json: bool) -> None:
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
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=_FOLDER)
@click.option("--images", type=NUMBER, metavar="N", help="So many images, instead of those of folders.")
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
    count = images if images is not None else len(list_images(folders))
    estimate = estimate_cost(load_remote_encoder(url), count, price_per_hour=price_per_hour)
    if as_json:
        facts = {"images": count, "images_per_s": 1 / estimate.image_s, "seconds": estimate.seconds}
        print_json({**facts, "price": estimate.price})
        return
    click.echo(estimate.describe())
    if price_per_hour is not None:
        notice("An endpoint is paid while it is up: what it takes to start and to fall asleep comes on top.")


@click.group(cls=CommandGroup)
def export() -> None:
    """Write models in forms that run elsewhere."""


@export.command("endpoint")
@click.argument("model")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--captioner", metavar="NAME", help="A captioner to serve beside the encoder.")
@json_option
def export_model(*, model: str, folder: Path, captioner: str | None, as_json: bool) -> None:
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

"""`generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.generate.run import GenerateReport

_DIFFUSERS = "diffusers:"
_GUIDED_ONLY = ("parameterisation", "frames")
_SHOWN = 60
"""Rows of the printed table."""


@click.command()
@click.argument("words", nargs=-1)
@click.option("--prompts", "source", metavar="FILE|scenes:N", help="Many prompts: one a line, or captions of N scenes.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="Makes the pictures (several: together), or ranks."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder.")
@click.option("--engine", default="clip", show_default=True, metavar="clip|diffusers:MODEL", help="What makes them.")
@click.option("--avoid", multiple=True, metavar="WORDS", help="What is not to be seen.")
@click.option("--against", metavar="FILE|DATA", help="Texts to tell pictures from [default: what the model learned].")
@click.option("--judge", metavar="MODEL", help="Another model, which names each picture's prompt among all.")
@click.option("--variant", "variants", multiple=True, metavar="WORDS", help="diffusers: another wording to compare.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each picture [default: clip 80, diffusers 30].")
@click.option("--size-px", type=click.IntRange(min=8), help="Side of the pictures [default: the model's].")
@click.option("--seeds", type=click.IntRange(min=1), help="Pictures of each prompt [default: 4; with --prompts 1].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--parameterisation", type=click.Choice(["fourier", "network"]), help="clip: [default: fourier].")
@click.option("--frames", type=click.IntRange(min=0), help="clip: frames of each GIF [default: 16; with --prompts 0].")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting, as views=8.")
@click.option("--download", is_flag=True, help="Fetch what isn't on this machine from the hub.")
@json_option
def generate(
    *,
    words: tuple[str, ...],
    source: str | None,
    models: tuple[str, ...],
    output: Path,
    engine: str,
    avoid: tuple[str, ...],
    against: str | None,
    judge: str | None,
    variants: tuple[str, ...],
    settings: tuple[str, ...],
    download: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Make pictures from WORDS with a CLIP's own gradients, or with a text-to-image pipeline whose pictures it ranks.

    \b
    sightline generate a red circle above a blue square --model dir:runs/scenes --output pictures
    sightline generate --prompts scenes:50 --model dir:runs/scenes --judge dir:runs/other --output judged
    sightline generate a dog in the snow --engine diffusers:PATH --model starter --output dogs

    DIR gets the pictures, a contact sheet (sheet.html) and generate.json with all settings and figures.
    """
    from sightline.faces.cli.progress import ProgressBar
    from sightline.lab.generate.config import load_prompts

    if bool(words) == (source is not None):
        raise click.UsageError("Give the words, or --prompts FILE or scenes:50.")
    prompts = [" ".join(words)] if source is None else load_prompts(source)
    values = {key: value for key, value in named.items() if value is not None}
    if source is not None:
        values = {"seeds": 1} | values
    common = {"prompts": prompts, "avoid": avoid, "against": against, "judge": judge, "download": download}
    with ProgressBar("generating") as bar:

        def show(done: int, total: int, note: str) -> None:
            bar.show(done, total=total, note=note)

        if engine.startswith(_DIFFUSERS):
            report = _diffuse(engine, models, variants, common, values, settings, output, show)
        elif engine == "clip":
            report = _guide(models, variants, common, values, settings, output, show)
        else:
            raise click.UsageError(f"--engine is clip or diffusers:MODEL, not {engine!r}.")
    _show(report, as_json=as_json)
    if report.stopped is not None:
        raise SystemExit(1)


def _guide(
    models: tuple[str, ...],
    variants: tuple[str, ...],
    common: dict[str, Any],
    values: dict[str, Any],
    settings: tuple[str, ...],
    output: Path,
    show: Any,
) -> GenerateReport:
    from sightline.lab.generate.config import GuidedConfig, change_config

    if variants:
        raise click.UsageError("--variant compares samples of a pipeline: it needs --engine diffusers:MODEL.")
    if not models:
        raise click.UsageError("--model names what makes the pictures, such as a model you trained: --model dir:RUN")
    if len(common["prompts"]) > 1:
        values = {"frames": 0} | values
    config = change_config(GuidedConfig(**values), settings)
    _require_torch()
    from sightline.lab.generate.run import GuidedRequest, generate_guided

    return generate_guided(GuidedRequest(**common, models=models, config=config), output, report=notice, progress=show)


def _diffuse(
    engine: str,
    models: tuple[str, ...],
    variants: tuple[str, ...],
    common: dict[str, Any],
    values: dict[str, Any],
    settings: tuple[str, ...],
    output: Path,
    show: Any,
) -> GenerateReport:
    from sightline.lab.generate.config import DiffusionConfig, change_config

    if len(models) > 1:
        raise click.UsageError("With a pipeline, one --model ranks the pictures; name one.")
    if misplaced := [name for name in _GUIDED_ONLY if name in values]:
        raise click.UsageError(f"--{misplaced[0]} is of --engine clip; a pipeline has no such setting.")
    config = change_config(DiffusionConfig(**values), settings)
    _require_torch()
    from sightline.lab.generate.run import DiffusionRequest, generate_diffused

    request = DiffusionRequest(
        **common,
        pipeline=engine.removeprefix(_DIFFUSERS),
        model=models[0] if models else "starter",
        variants=variants,
        config=config,
    )
    return generate_diffused(request, output, report=notice, progress=show)


def _require_torch() -> None:
    from importlib.util import find_spec

    from sightline.errors import ModelError, install_advice

    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ModelError(f"Making pictures needs PyTorch: {install_advice('torch')}")


def _show(report: GenerateReport, *, as_json: bool) -> None:
    """stdout: one object, or a table with the best first; stderr: how it went and where everything is."""
    from sightline.lab.generate.run import SETTINGS_FILE, SHEET_FILE, name_pictures

    named = sorted(zip(name_pictures(report.pictures), report.pictures, strict=True), key=lambda p: -p[1].similarity)
    judgement = report.judgement
    if as_json:
        value: dict[str, Any] = {
            "output": str(report.output),
            "engine": report.engine,
            "stopped": report.stopped,
            "took_s": round(report.took_s, 1),
            "pictures": [
                {"file": f"{name}.png", "prompt": p.prompt, "seed": p.seed, "similarity": round(p.similarity, 4)}
                for name, p in named
            ],
            "judgement": None if judgement is None else judgement.to_dict(),
            "feedback": [feedback.to_dict() for feedback in report.feedback],
        }
        print_json(value)
    else:
        rows = [(f"{p.similarity:.3f}", str(p.seed), f"{name}.png", p.prompt) for name, p in named[:_SHOWN]]
        print_table(["similarity", "seed", "file", "prompt"], rows)
        for feedback in report.feedback:
            click.echo("\n" + printable(feedback.prompt) + ":")
            for line in feedback.lines:
                click.echo(f"  {printable(line)}")
        if judgement is not None:
            low, high = judgement.interval
            click.echo(
                f"\n{judgement.judge} names the right prompt of {judgement.n_prompts} for {judgement.n_right} of "
                f"{len(judgement.verdicts)} pictures ({judgement.rate:.0%}; 95% interval {low:.0%} to {high:.0%}; "
                f"chance {judgement.chance:.1%})."
            )
    if report.stopped:
        notice(f"{report.stopped}; what there was is kept. For the rest, run it again with another --output.")
    count = max(len(report.pictures), 1)
    notice(f"{len(report.pictures)} pictures in {report.took_s:.0f} s ({report.took_s / count:.1f} s each).")
    notice(f"Look at {report.output / SHEET_FILE}; settings and figures: {report.output / SETTINGS_FILE}")

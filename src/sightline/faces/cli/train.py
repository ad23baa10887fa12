"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sightline.faces.cli.options import json_option, notice, print_json, print_table


@click.command()
@click.argument("recipe", required=False)
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder; a model, dir:DIR.")
@click.option("--data", metavar="DATA", help="Pairs to train on, as flickr8k:PATH [default: the recipe's].")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, as lr=1e-3.")
@click.option("--init", metavar="MODEL", help="Start from this model's weights, as dir:PATH.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR after its newest checkpoint.")
@click.option("--smoke", is_flag=True, help="A run of seconds that only shows that everything works.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes, or describe RECIPE.")
@json_option
def train(
    *,
    recipe: str | None,
    output: Path | None,
    data: str | None,
    settings: tuple[str, ...],
    init: str | None,
    resume: bool,
    smoke: bool,
    list_recipes: bool,
    as_json: bool,
) -> None:
    """Train or fine-tune a CLIP by RECIPE and keep the best weights in DIR, which is a model from then on.

    \b
    sightline train scenes-scratch --output runs/scenes
    sightline train flickr8k-scratch --data flickr8k:PATH --output runs/flickr8k --set epochs=20
    torchrun --nproc-per-node 4 -m sightline train cc3m-scratch --data cc:PATH --output runs/cc3m
    """
    from sightline.lab.training.recipes import describe_recipe, known_recipes

    if list_recipes:
        if recipe is not None:
            click.echo(describe_recipe(recipe))
        else:
            print_table(["recipe", "what"], [(name, summary) for name, summary in known_recipes().items()])
        return
    if recipe is None or output is None:
        raise click.UsageError("Give a RECIPE and --output DIR; `sightline train --list` lists the recipes.")
    if resume and smoke:
        raise click.UsageError("--smoke: a run that is resumed keeps its own settings. Leave --smoke or --resume out.")
    _run(recipe, output, _changes(settings, data=data, init=init), resume=resume, smoke=smoke, as_json=as_json)


def _changes(settings: tuple[str, ...], **named: str | None) -> list[str]:
    return [*settings, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _run(recipe: str, output: Path, changes: list[str], *, resume: bool, smoke: bool, as_json: bool) -> None:
    from sightline.faces.cli.progress import ProgressBar
    from sightline.lab.training.recipes import make_config, resumed_config

    config = resumed_config(recipe, changes, output) if resume else make_config(recipe, changes, smoke=smoke)
    _require_torch()
    from sightline.lab.training.loop import train as run_training  # loads torch: only once the settings are right

    with ProgressBar("training") as bar:

        def show(done: int, total: int, note: str) -> None:
            bar.show(done, total=total, note=note)

        report = run_training(config, output, resume=resume, report=notice, progress=show)
    values: dict[str, Any] = {
        "output": str(output),
        "steps": report.steps,
        "total_steps": report.total_steps,
        "stopped": report.stopped,
        "best_step": report.best_step,
        "metrics": report.metrics,
        "images_per_s": round(report.images_per_s, 1),
        "took_s": round(report.took_s, 1),
    }
    if as_json:
        print_json(values)
        return
    notice(f"{report.steps:,} steps in {report.took_s / 60:.1f} min ({report.images_per_s:,.0f} images/s).")
    if report.metrics:
        notice(f"The best weights, of step {report.best_step:,}, are in {output}. Use them: --model dir:{output}")
    else:
        notice(f"It ended before the first measurement, so {output} is no model yet. Go on with --resume.")
    click.echo(str(output))


def _require_torch() -> None:
    from importlib.util import find_spec

    from sightline.errors import TrainingError, install_advice

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise TrainingError(f"Training needs {' and '.join(missing)}: {install_advice('train')}")

"""Training: `train`, `sweep`, and `report`, what came of both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline import lab
from sightline.errors import TrainingError, install_advice
from sightline.faces.cli.options import COUNT, FILE, NUMBER, PATH, choice_option, default_option, json_option
from sightline.faces.cli.printing import ProgressBar, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.experiments.effects import Analysis
    from sightline.lab.experiments.results import RunResult
    from sightline.lab.experiments.sweep_config import SweepConfig
    from sightline.lab.training.loop import TrainReport

_data_option = click.option(
    "--data", metavar="DATA", help="Pairs to train on, as flickr8k:PATH [default: the recipe's]."
)


@click.command()
@click.argument("recipe", required=False)
@click.option("--output", type=PATH, metavar="DIR", help="The run's folder; a model, dir:DIR.")
@_data_option
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, as lr=1e-3.")
@click.option(
    "--init", metavar="MODEL", help="Start from this model's weights, as dir:PATH; scenes-flow reads its words."
)
@click.option("--resume", is_flag=True, help="Go on with the run in DIR after its newest checkpoint; needs no RECIPE.")
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

    The recipe scenes-flow trains a model that makes pictures: sightline generate WORDS --engine flow:DIR

    \b
    sightline train scenes-scratch --output runs/scenes
    sightline train scenes-flow --init dir:runs/scenes --output runs/flow
    sightline train flickr8k-scratch --data flickr8k:PATH --output runs/flickr8k --set epochs=20
    torchrun --nproc-per-node 4 -m sightline train cc3m-scratch --data cc:PATH --output runs/cc3m
    """
    if list_recipes:
        _list_recipes(recipe)
        return
    if output is None or (recipe is None and not resume):
        raise click.UsageError("Give a RECIPE and --output DIR; `sightline train --list` lists the recipes.")
    if resume and smoke:
        raise click.UsageError("--smoke: a run that is resumed keeps its own settings. Leave --smoke or --resume out.")
    named = [f"{key}={value}" for key, value in (("data", data), ("init", init)) if value is not None]
    _train(recipe, output, [*settings, *named], resume=resume, smoke=smoke, as_json=as_json)


def _list_recipes(recipe: str | None) -> None:
    from sightline.lab.generate.config import FLOW_RECIPE, FlowConfig
    from sightline.lab.training.recipes import describe_recipe, known_recipes

    flow = (FlowConfig.__doc__ or "").splitlines()[0]
    if recipe == FLOW_RECIPE:
        settings = [f"  {key} = {value}" for key, value in vars(FlowConfig()).items()]
        click.echo("\n".join([flow, "", "Settings (--set key=value):", *settings]))
    elif recipe is not None:
        click.echo(describe_recipe(recipe))
    else:
        print_table(["recipe", "what"], list({**known_recipes(), FLOW_RECIPE: flow}.items()))


def _train(recipe: str | None, output: Path, changes: list[str], *, resume: bool, smoke: bool, as_json: bool) -> None:
    from sightline.lab.generate.config import FLOW_RECIPE, is_flow, make_flow_config
    from sightline.lab.training.recipes import make_config, resumed_config

    train: Callable[..., TrainReport]
    makes_images = recipe == FLOW_RECIPE or (resume and is_flow(output))
    if makes_images:
        flow = make_flow_config(output, changes, resume=resume, smoke=smoke)
        _require_torch()
        from sightline.lab.generate.flow import train_flow

        train = partial(train_flow, flow)
    else:
        if recipe is None or resume:
            config = resumed_config(recipe, changes, output)
        else:
            config = make_config(recipe, changes, smoke=smoke)
        _require_torch()
        train = partial(lab.train, config)  # loads torch: only once the settings are right
    with ProgressBar("training") as bar:
        ended = train(output, resume=resume, report=notice, progress=bar.show)
    values: dict[str, Any] = {
        "output": str(output),
        "steps": ended.steps,
        "total_steps": ended.total_steps,
        "stopped": ended.stopped,
        "best_step": ended.best_step,
        "metrics": ended.metrics,
        "images_per_s": round(ended.images_per_s, 1),
        "took_s": round(ended.took_s, 1),
    }
    if as_json:
        print_json(values)
        return
    notice(f"{ended.steps:,} steps in {ended.took_s / 60:.1f} min ({ended.images_per_s:,.0f} images/s).")
    if makes_images:
        notice(f"Make pictures: sightline generate WORDS --engine flow:{output} --output NEW")
    elif ended.metrics:
        notice(f"The best weights, of step {ended.best_step:,}, are in {output}. Use them: --model dir:{output}")
    else:
        notice(f"It ended before the first measurement, so {output} is no model yet. Go on with --resume.")
    click.echo(str(output))


def _require_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise TrainingError(f"Training needs {' and '.join(missing)}: {install_advice('train')}")


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class _GridCommand(click.Command):
    """Takes all `key=values` that follow `--grid`, not only the first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the flag before each of them, as click wants it."""
        spread: list[str] = []
        in_grid = False
        for arg in args:
            if arg == "--grid":
                in_grid = True
            elif in_grid and "=" in arg and not arg.startswith("-"):
                spread += ["--grid", arg]
            else:
                in_grid = False
                spread.append(arg)
        return super().parse_args(ctx, spread)


class _Duration(click.ParamType[float]):
    """Seconds, written as 90s, 20m or 1.5h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails for anything else."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no duration; write 90s, 20m or 1.5h.", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


@click.command(cls=_GridCommand)
@click.argument("recipe")
@click.option("--output", required=True, type=PATH, metavar="DIR", help="The sweep's folder.")
@click.option("--grid", multiple=True, metavar="KEY=VALUES...", help="What varies: lr=3e-4,1e-3 batch_size=64,256.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting that all trials share.")
@_data_option
@choice_option(
    "--sampler",
    "grid",
    "random",
    "tpe",
    help="All cells of the grid, or --trials drawn at random or by what was good so far, also from lr=1e-4..1e-2.",
)
@click.option("--trials", type=COUNT, metavar="N", help="How many [default: the grid's cells, else 20].")
@choice_option("--prune", "none", "median", "halving", help="End trials early that are worse than others were.")
@default_option("--metric", default="mean_recall", help="What trials are compared by.")
@click.option("--budget", type=_Duration(), metavar="TIME", help="Begin no trial that won't be done in time: 20m, 2h.")
@click.option("--extend", is_flag=True, help="Add the grid's values to those of the sweep in DIR.")
@click.option("--retry-failed", is_flag=True, help="Train the settings of failed trials once more.")
@click.option("--storage", metavar="URL", help="A database that several machines share [default: a file in DIR].")
@default_option("--seed", type=NUMBER, default=0, help="Of what is drawn.")
@click.option("--smoke", is_flag=True, help="Trials of seconds that only show that everything works.")
@json_option
def sweep(*, as_json: bool, output: Path, **options: Any) -> None:
    """Train RECIPE with many settings, one run after the other, each in a folder of its own.

    The same command again goes on with what is left, and a second one at the same time takes its share of the trials.

    \b
    sightline sweep scenes-sweep --output runs/sweep --grid lr=1e-3,2e-3 batch_size=64,128 seed=0,1,2
    sightline sweep scenes-sweep --output runs/search --sampler tpe --trials 30 --grid lr=1e-4..1e-2 --budget 1h
    """
    config = _make_sweep_config(**options)
    from sightline.lab.experiments.results import read_sweep

    interrupted = False
    with ProgressBar("trials") as bar:
        try:
            results: Sequence[RunResult] = lab.sweep(config, output, report=notice, progress=bar.show)
        except KeyboardInterrupt:
            notice("interrupted; the same command again goes on")
            interrupted, results = True, read_sweep(output).trials
    _show_trials(results, config.metric, as_json=as_json)
    _end_sweep(results, output, interrupted=interrupted)


def _make_sweep_config(
    *, settings: tuple[str, ...], data: str | None, prune: str, budget: float | None, **options: Any
) -> SweepConfig:
    from sightline.lab.experiments.sweep_config import SweepConfig

    shared = (*settings, *(() if data is None else (f"data={data}",)))
    return SweepConfig(settings=shared, pruner=prune, budget_s=budget, **options)  # type: ignore[arg-type]


def _show_trials(results: Sequence[RunResult], metric: str, *, as_json: bool) -> None:
    """The trials, best first, then those without a result."""
    from sightline.lab.experiments.sweep_config import best_first, short_text

    ordered = best_first(results, metric)
    if as_json:
        for result in ordered:
            print_json(_trial_as_json(result, metric))
        return
    keys = list(dict.fromkeys(key for result in ordered for key in result.settings))
    rows = []
    for result in ordered:
        settings = [short_text(result.settings.get(key, "")) for key in keys]
        value = f"{result.metrics[metric]:.4f}" if metric in result.metrics else ""
        took = f"{result.took_s:,.0f} s" if result.took_s is not None else ""
        rows.append([result.name.partition("-")[0], *settings, value, took, result.state, result.reason or ""])
    print_table(["trial", *keys, metric, "took", "state", "reason"], rows)


def _trial_as_json(result: RunResult, metric: str) -> dict[str, Any]:
    return {
        "trial": result.name,
        "path": str(result.path),
        "settings": dict(result.settings),
        "state": result.state,
        "reason": result.reason,
        "metric": metric,
        "value": result.metrics.get(metric),
        "metrics": dict(result.metrics),
        "images_seen": result.images_seen,
        "took_s": result.took_s,
    }


def _end_sweep(results: Sequence[RunResult], output: Path, *, interrupted: bool) -> None:
    """Say what to do next; exit code 1 where it was interrupted or nothing came of it."""
    states = [result.state for result in results]
    failed, good = states.count("failed"), states.count("complete") + states.count("pruned")
    if failed:
        notice(f"{failed:,} of {len(states):,} trials failed; once the cause is gone: --retry-failed")
    if good:
        notice(f"Read what came of it: sightline report {output}")
    if interrupted or "stopped" in states or (failed and not good):
        raise SystemExit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN|SWEEP...")
@default_option(
    "-o",
    "--output",
    type=FILE,
    default=Path("report.html"),
    metavar="FILE.html",
    help="The page; the same as Markdown and its pictures lie beside it.",
)
@click.option("--metric", metavar="NAME", help="What runs are compared by [default: mean_recall, else acc1].")
@json_option
def report(*, runs: tuple[Path, ...], output: Path, metric: str | None, as_json: bool) -> None:
    """Report on runs and sweeps: figures, the effect of each setting, and a summary computed from the results.

    \b
    sightline report runs/scenes
    sightline report sweeps/lr --output lr.html
    sightline report runs/seed-0 runs/seed-1 runs/seed-2 --metric image_retrieval_recall@1
    """
    made, files = lab.report(runs, output, metric=metric)
    if as_json:
        written = {"html": str(files.html), "markdown": str(files.markdown), "pictures": str(files.images)}
        print_json(
            {"title": made.title, "summary": list(made.summary), "settings": _effects_as_json(made.analysis), **written}
        )
        return
    for sentence in made.summary:
        notice(printable(sentence))
    notice(f"The same as Markdown: {files.markdown}, with its pictures in {files.images}.")
    click.echo(str(files.html))


def _effects_as_json(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "name": effect.factor.name,
            "verdict": effect.verdict,
            "range": effect.spread,
            "p_holm": effect.p_holm,
            "means": {level.label: level.mean for level in effect.means},
        }
        for effect in analysis.effects
    ]

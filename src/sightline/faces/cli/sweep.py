"""`sweep`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, notice, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sightline.lab.experiments.results import RunResult
    from sightline.lab.experiments.sweep_config import SweepConfig

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
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The sweep's folder.")
@click.option("--grid", multiple=True, metavar="KEY=VALUES...", help="What varies: lr=3e-4,1e-3 batch_size=64,256.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting that all trials share.")
@click.option("--data", metavar="DATA", help="Pairs to train on, as flickr8k:PATH [default: the recipe's].")
@click.option(
    "--sampler",
    type=click.Choice(["grid", "random", "tpe"]),
    default="grid",
    show_default=True,
    help="All cells of the grid, or --trials drawn at random or by what was good so far, also from lr=1e-4..1e-2.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="How many [default: the grid's cells, else 20]."
)
@click.option(
    "--prune",
    type=click.Choice(["none", "median", "halving"]),
    default="none",
    show_default=True,
    help="End trials early that are worse than others were.",
)
@click.option("--metric", default="mean_recall", show_default=True, help="What trials are compared by.")
@click.option("--budget", type=_Duration(), metavar="TIME", help="Begin no trial that won't be done in time: 20m, 2h.")
@click.option("--extend", is_flag=True, help="Add the grid's values to those of the sweep in DIR.")
@click.option("--retry-failed", is_flag=True, help="Train the settings of failed trials once more.")
@click.option("--storage", metavar="URL", help="A database that several machines share [default: a file in DIR].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@click.option("--smoke", is_flag=True, help="Trials of seconds that only show that everything works.")
@json_option
def sweep(*, as_json: bool, output: Path, **options: Any) -> None:
    """Train RECIPE with many settings, one run after the other, each in a folder of its own.

    The same command again goes on with what is left, and a second one at the same time takes its share of the trials.

    \b
    sightline sweep scenes-sweep --output runs/sweep --grid lr=1e-3,2e-3 batch_size=64,128 seed=0,1,2
    sightline sweep scenes-sweep --output runs/search --sampler tpe --trials 30 --grid lr=1e-4..1e-2 --budget 1h
    """
    config = _make_config(**options)
    from sightline.faces.cli.progress import ProgressBar
    from sightline.lab.experiments.results import read_sweep
    from sightline.lab.experiments.sweep import run_sweep  # loads torch: only once the settings are right

    interrupted = False
    with ProgressBar("trials") as bar:

        def show(done: int, total: int, note: str) -> None:
            bar.show(done, total=total, note=note)

        try:
            results: Sequence[RunResult] = run_sweep(config, output, report=notice, progress=show)
        except KeyboardInterrupt:
            notice("interrupted; the same command again goes on")
            interrupted, results = True, read_sweep(output).trials
    _show(results, config.metric, as_json=as_json)
    _end(results, output, interrupted=interrupted)


def _make_config(
    *, settings: tuple[str, ...], data: str | None, prune: str, budget: float | None, **options: Any
) -> SweepConfig:
    from sightline.lab.experiments.sweep_config import SweepConfig

    shared = (*settings, *(() if data is None else (f"data={data}",)))
    return SweepConfig(settings=shared, pruner=prune, budget_s=budget, **options)  # type: ignore[arg-type]


def _show(results: Sequence[RunResult], metric: str, *, as_json: bool) -> None:
    """The trials, best first, then those without a result."""
    from sightline.lab.experiments.sweep_config import best_first, short_text

    ordered = best_first(results, metric)
    if as_json:
        for result in ordered:
            print_json(_as_json(result, metric))
        return
    keys = list(dict.fromkeys(key for result in ordered for key in result.settings))
    rows = []
    for result in ordered:
        settings = [short_text(result.settings.get(key, "")) for key in keys]
        value = f"{result.metrics[metric]:.4f}" if metric in result.metrics else ""
        took = f"{result.took_s:,.0f} s" if result.took_s is not None else ""
        rows.append([result.name.partition("-")[0], *settings, value, took, result.state, result.reason or ""])
    print_table(["trial", *keys, metric, "took", "state", "reason"], rows)


def _as_json(result: RunResult, metric: str) -> dict[str, Any]:
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


def _end(results: Sequence[RunResult], output: Path, *, interrupted: bool) -> None:
    """What to do next; exit code 1 where it was interrupted or nothing came of it."""
    states = [result.state for result in results]
    failed, good = states.count("failed"), states.count("complete") + states.count("pruned")
    if failed:
        notice(f"{failed:,} of {len(states):,} trials failed; once the cause is gone: --retry-failed")
    if good:
        notice(f"Read what came of it: sightline report {output}")
    if interrupted or "stopped" in states or (failed and not good):
        raise SystemExit(1)

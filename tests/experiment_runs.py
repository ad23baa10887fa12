"""Constructed results of runs whose truth is known."""

from itertools import product
from pathlib import Path

from sightline.lab.experiments.results import RunResult
from sightline.lab.training.recipes import make_config


def make_run(name="run", *, settings=None, value=0.5, metric="mean_recall", base=(), **changes):
    """A run that never ran; `base` are settings that aren't of the sweep."""
    settings = dict(settings or {})
    config = make_config("scenes-scratch", [*base, *(f"{key}={value}" for key, value in settings.items())])
    values = {"metrics": {metric: float(value)}, "images_seen": 6400, "took_s": 60.0, **changes}
    return RunResult(name=name, path=Path("nowhere") / name, config=config, settings=settings, **values)


def make_sweep(grid, truth, **changes):
    """One run for each combination of a grid; `truth` gives its value by the settings."""
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return [
        make_run(f"{number:03d}", settings=settings, value=truth(**settings), **changes)
        for number, settings in enumerate(combinations)
    ]


GRID = {"lr": (3e-4, 1e-3, 3e-3), "batch_size": (64, 256), "train_fraction": (0.1, 0.3, 1.0)}
"""That of `make study`: 18 trials without replicates."""
SEEDED = {"lr": (3e-4, 1e-3, 3e-3), "batch_size": (64, 256), "seed": (0, 1, 2)}

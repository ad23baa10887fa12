"""Notebooks of a study: claims that are checked against figures where they are made, the models and sweeps they load.

A full run of a notebook fails where a claim doesn't hold, so prose can't outlive its results; a smoke run, whose
figures mean nothing, checks only that the claims can be made. Models are two seeds of a convolutional tower on scenes,
and a ViT; notebooks load them and the sweeps from a study's folder, or train smaller ones where there is none.
Shape suffixes: N results, G groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import InputError, SightlineError
from sightline.kit.work import Notice
from sightline.lab.evaluation.results import Bootstrap, Figures, mean_of
from sightline.lab.experiments.results import is_run, read_run
from sightline.lab.experiments.sweep_config import SweepConfig

SMOKE_VARIABLE = "SIGHTLINE_SMOKE"
STUDY_VARIABLE = "SIGHTLINE_STUDY"
RECIPE = "scenes-scratch"
SMALL_SAMPLES = 30_000
"""Images seen by a model that a notebook trains itself: a minute or two on two cores, an eighth of the study's."""
_VIT = {
    "architecture": "vit",
    "patch_px": "8",
    "image_width": "128",
    "image_layers": "4",
    "image_heads": "4",
    "text_layers": "2",
    "text_heads": "4",
    "text_bigrams": "0",
    "coordinates": "false",
}
STUDY_MODELS: Mapping[str, tuple[str, ...]] = {
    "scenes-0": (),
    "scenes-1": ("seed=1",),
    "scenes-vit-0": (*(f"towers.{key}={value}" for key, value in _VIT.items()), "lr=1e-3"),
}
"""Name -> what it sets beside the recipe."""
_RATES, _SEEDS = "lr=1e-3,2e-3,4e-3,8e-3", "seed=0,1,2"
SWEEP_IMAGES, SMALL_BATCH, LARGE_BATCH = 12_000, 32, 128
STUDY_SWEEPS: Mapping[str, SweepConfig] = {
    name: SweepConfig(recipe="scenes-sweep", grid=(*grid, _SEEDS), settings=settings)
    for name, grid, settings in (
        ("sweep-rates", (_RATES, f"batch_size={SMALL_BATCH},{LARGE_BATCH}"), (f"samples_seen={SWEEP_IMAGES}",)),
        # As many updates as the large batch makes on all images.
        (
            "sweep-updates",
            (_RATES,),
            (f"samples_seen={SWEEP_IMAGES * SMALL_BATCH // LARGE_BATCH}", f"batch_size={SMALL_BATCH}"),
        ),
        ("sweep-data", ("train_fraction=0.1,0.3,1.0",), (f"samples_seen={SWEEP_IMAGES}",)),
    )
}
"""Each combination with three seeds: rates by batches at equal images, at equal updates, and shares of the images."""


def is_smoke() -> bool:
    """True where this is a smoke run: everything tiny, figures without meaning, claims not checked."""
    return os.environ.get(SMOKE_VARIABLE, "") not in ("", "0")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement with the figures that it rests on; notebooks show it as text."""

    text: str
    """A sentence, in Markdown."""
    holds: bool
    margin: float | None = None
    """The distance of the figure on the claimed side."""
    noise: float | None = None
    """The movement that chance alone makes: half the width of its 95% interval."""

    def _repr_markdown_(self) -> str:
        return self.text if self.holds else f"**Not so in this run:** {self.text}"


class Claims:
    """The statements of one study, in the order they were made."""

    def __init__(self) -> None:
        self.made: list[Claim] = []

    def state(self, text: str, *, holds: bool = True, margin: float | None = None, noise: float | None = None) -> Claim:
        """Keep a statement and give it to be shown. With a margin it holds where that exceeds the noise (0 if none).

        A margin or noise that isn't a number never holds. Raises InputError for a noise without a margin, a negative
        noise, and a statement without words.
        """
        if not text.strip():
            raise InputError("A claim needs words.")
        if noise is not None and (margin is None or noise < 0):
            raise InputError(f"The noise of a claim ({noise}) must be 0 or more, and belongs to a margin ({margin}).")
        beyond = margin is None or margin > (noise or 0.0)  # false for NaN
        claim = Claim(text=text, holds=bool(holds) and beyond, margin=margin, noise=noise)
        self.made.append(claim)
        return claim

    @property
    def broken(self) -> list[Claim]:
        """Those that don't hold."""
        return [claim for claim in self.made if not claim.holds]

    def check(self) -> str:
        """The number of claims that hold, in words. Raises SightlineError with those that don't, but in a smoke run."""
        if is_smoke():
            return f"A smoke run: {len(self.made)} claims were made, none checked."
        if self.broken:
            lines = "\n".join(f"- {claim.text} ({_figures(claim)})" for claim in self.broken)
            raise SightlineError(
                f"{len(self.broken)} of {len(self.made)} claims don't hold in this run; "
                f"mend the text, or what it says:\n{lines}"
            )
        measured = sum(claim.noise is not None for claim in self.made)
        return f"All {len(self.made)} claims of this notebook hold in this run, {measured} of them beyond noise."


def measure_noise(result_N: Sequence[float], group_N: Sequence[int] | None = None, *, seed: int = 0) -> float:
    """Half the width of the 95% interval of a mean, from resampling groups (default: each result its own).

    Results of one image belong together: resampled one by one they would look surer than they are. Raises InputError
    for results and groups of different lengths, and for fewer than two groups, which tell nothing of noise.
    """
    if group_N is not None and len(group_N) != len(result_N):
        raise InputError(f"{len(result_N)} results need as many groups, not {len(group_N)}.")
    _, group = np.unique(np.arange(len(result_N)) if group_N is None else np.asarray(group_N), return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    mean = mean_of(np.asarray(result_N, np.float64), group, n_groups)
    figures = Figures(statistics={"mean": mean}, n_groups=n_groups)
    intervals = figures.intervals(Bootstrap(resamples=4000, seed=seed))
    if not intervals:
        raise InputError(f"Noise can't be told from {n_groups} group; give two or more.")
    low, high = intervals["mean"]
    return (high - low) / 2


def _figures(claim: Claim) -> str:
    if claim.margin is None:
        return "a fact that isn't so"
    noise = "" if claim.noise is None else f", noise {claim.noise:.3g}"
    return f"margin {'not a number' if math.isnan(claim.margin) else f'{claim.margin:.3g}'}{noise}"


def study_folder() -> Path | None:
    """The folder of a study that was run, named by `SIGHTLINE_STUDY`; None where none is named.

    Raises InputError where it is named and isn't there.
    """
    named = os.environ.get(STUDY_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{STUDY_VARIABLE} is {named}, which is no folder. Run the study: make study")
    return folder


def find_study_model(name: str) -> Path | None:
    """The run of a model in the study's folder, where it was finished. Raises InputError for an unknown name."""
    _require_known(name)
    folder = study_folder()
    run = folder / name if folder is not None else None
    return run if run is not None and is_finished(run) else None


def is_finished(run: Path) -> bool:
    """True where a folder holds a model that was trained to its end."""
    return is_run(run) and (run / WEIGHTS_FILE).is_file() and read_run(run).state == "complete"


def train_small(name: str, output: Path, *, smoke: bool = False, report: Notice = lambda line: None) -> Path:
    """Train a smaller model of the same kind, or with `smoke` one of seconds that knows nothing; its folder.

    Raises InputError for an unknown name.
    """
    from sightline.lab.training.loop import train
    from sightline.lab.training.recipes import make_config

    _require_known(name)
    settings = [*STUDY_MODELS[name], *([] if smoke else [f"samples_seen={SMALL_SAMPLES}"])]
    train(make_config(RECIPE, settings, smoke=smoke), output, report=report)
    return output


def shrink_sweep(config: SweepConfig, *, smoke: bool = False) -> SweepConfig:
    """A sweep for where there is no study: both ends of each axis, a sixth of the images; with `smoke` a hundredth."""
    names = [axis.partition("=")[::2] for axis in config.grid]
    ends = tuple(f"{key}={values.split(',')[0]},{values.split(',')[-1]}" for key, values in names)
    key, _, images = config.settings[0].partition("=")
    fewer = f"{key}={int(images) // (100 if smoke else 6)}"
    return replace(config, grid=ends, settings=(fewer, *config.settings[1:]), smoke=smoke)


def _require_known(name: str) -> None:
    if name not in STUDY_MODELS:
        raise InputError(f"The study has no model {name!r}; it has {', '.join(STUDY_MODELS)}.")

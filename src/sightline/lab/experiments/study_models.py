"""The models that the study trains, by name: two seeds of a convolutional tower on scenes, and a ViT.

Notebooks load them from a study's folder, or train smaller ones of the same kind where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import InputError
from sightline.lab.experiments.results import is_run, read_run

STUDY_VARIABLE = "SIGHTLINE_STUDY"
RECIPE = "scenes-scratch"
SCENES = "scenes:0"
OTHER_RECIPE = "flickr8k-scratch"
"""For pairs that aren't scenes."""
SMALL_SAMPLES = 30_000
"""Pictures seen by a model that a notebook trains itself: a minute or two on two cores, an eighth of the study's."""

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

Report = Callable[[str], None]


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
    """Whether a folder holds a model that was trained to its end."""
    return is_run(run) and (run / WEIGHTS_FILE).is_file() and read_run(run).state == "complete"


def train_small(
    name: str, output: Path, *, data: str = SCENES, smoke: bool = False, report: Report = lambda line: None
) -> Path:
    """Train a smaller model of the same kind, or with `smoke` one of seconds that knows nothing; its folder.

    On other pairs than scenes it keeps what makes the model another one (its seed, its towers), by the recipe for such
    pairs. Raises InputError for an unknown name, and for data that isn't there.
    """
    from sightline.lab.training.loop import train
    from sightline.lab.training.recipes import make_config

    _require_known(name)
    settings = [*STUDY_MODELS[name], *([] if smoke else [f"samples_seen={SMALL_SAMPLES}"])]
    if data == SCENES:
        config = make_config(RECIPE, settings, smoke=smoke)
    else:
        shared = ("seed=", "towers.architecture=")
        own = [setting for setting in settings if setting.startswith((*shared, "samples_seen="))]
        config = make_config(OTHER_RECIPE, [f"data={data}", *own], smoke=smoke)
    train(config, output, report=report)
    return output


def _require_known(name: str) -> None:
    if name not in STUDY_MODELS:
        raise InputError(f"The study has no model {name!r}; it has {', '.join(STUDY_MODELS)}.")

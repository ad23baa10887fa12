"""The request of a run: settings of a CLIP's gradients or of a text-to-image pipeline, prompts, and other texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from sightline.errors import InputError, ModelError
from sightline.kit.config import expand
from sightline.lab.data.addressing import load_dataset
from sightline.lab.data.scenes.dataset import load_scenes
from sightline.lab.training.config import check_choice, check_finite, check_least, check_range, parse_field

Parameterisation = Literal["fourier", "network"]
Precision = Literal["bf16", "fp32"]
MOST_IMAGES = 4096
"""More than that in one run is a mistake: prompts times seeds."""
MAX_PROMPT_CHARS = 1000
_SCENES = re.compile(r"scenes(?::([0-9]{1,9}))?")


@dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Images that a CLIP makes itself: pixels are changed until the model finds that the words fit."""

    steps: int = 80
    """Updates of each image."""
    size_px: int | None = None
    """Side of the images; None takes the model's own."""
    seeds: int = 4
    """Images of each prompt, each from other noise."""
    seed: int = 0
    """Seed of the first image's noise and of all that is random."""
    parameterisation: Parameterisation = "fourier"
    views: int = 4
    """Changed copies of an image that are looked at in each step."""
    lr: float | None = None
    """Adam's learning rate; None takes 0.3 for Fourier coefficients and 0.02 for networks."""
    shift: float = 0.06
    """Most that a view is moved, as a fraction of the side."""
    zoom: float = 0.1
    """Most that a view is enlarged or shrunk, as a fraction."""
    turn_deg: float = 5.0
    noise: float = 0.08
    """Standard deviation of what is added to a view's pixels, which lie in [0, 1]."""
    blur_px: float = 0.8
    """Greatest standard deviation of a view's blur, at the model's size."""
    light: float = 0.1
    """Most that brightness and contrast of a view differ from 1."""
    smoothness: float = 30.0
    """Weight of the mean difference between neighbouring pixels."""
    contrast: float = 1.0
    """Weight of the cross-entropy against the bank of other texts; beside it the cosine itself is raised."""
    bank: int = 2000
    """Texts that the prompt is told from."""
    precision: Precision = "bf16"
    """Precision of the models' forward and backward passes: `bf16` is autocast, `fp32` exact and slower."""
    frames: int = 16
    """Images kept on the way, for the GIF; 0 keeps none."""

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        check_finite(self)
        check_least(self, 1, "steps", "seeds", "views", "bank")
        check_least(self, 0, "seed", "frames", "turn_deg", "noise", "blur_px", "smoothness", "contrast")
        check_range(self, 0.0, 1.0, "shift", "zoom", "light")
        check_choice(self, "parameterisation", get_args(Parameterisation))
        check_choice(self, "precision", get_args(Precision))
        if self.size_px is not None and not 16 <= self.size_px <= 1024:
            raise InputError(f"size_px must lie between 16 and 1024, got {self.size_px}.")
        if self.lr is not None and not self.lr > 0:
            raise InputError(f"lr must be above 0, got {self.lr}.")

    @property
    def learning_rate(self) -> float:
        """Adam's, for what is changed."""
        return self.lr or (0.3 if self.parameterisation == "fourier" else 0.02)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Images that a text-to-image pipeline or a flow makes, ranked by CLIP."""

    steps: int = 30
    """Denoising steps of each image."""
    size_px: int | None = None
    """Side of the images; None takes the pipeline's own."""
    seeds: int = 4
    """Samples of each prompt."""
    seed: int = 0
    guidance: float = 7.5
    """Weight of the words beside none (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598)."""

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        check_finite(self)
        check_least(self, 1, "steps", "seeds")
        check_least(self, 0, "seed", "guidance")
        if self.size_px is not None and (self.size_px < 8 or self.size_px % 8):
            raise InputError(f"size_px of a pipeline must be a multiple of 8, got {self.size_px}.")


FLOW = "flow:"
"""Begins the name of a flow where a pipeline could be named, before its folder."""
FLOW_FILE = "flow.json"
FLOW_RECIPE = "scenes-flow"
FLOW_SAMPLING: Mapping[str, Any] = {"steps": 20, "guidance": 3.0}
"""What differs for images of a flow."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A rectified flow learns to make rendered scenes from their captions, which a trained CLIP's text tower reads."""

    init: str = ""
    """The CLIP whose text tower reads the words, as dir:RUN; it isn't trained."""
    size_px: int = 48
    """Side of the images."""
    patch_px: int = 4
    """Side of a patch: the network sees a grid of them."""
    width: int = 64
    """Channels on that grid; twice as many on one of half its side."""
    depth: int = 2
    """Blocks on the coarse grid, each with attention to all cells and all words."""
    n_scenes: int = 50_000
    """Different scenes, rendered when they are first drawn."""
    batch_size: int = 32
    steps: int = 8_000
    lr: float = 1e-3
    wordless: float = 0.1
    """Share of captions that are left out, for classifier-free guidance."""
    average_decay: float = 0.998
    """Of the moving average of the weights, which is what is kept."""
    keep_steps: int = 1_000
    """Steps between checkpoints, each with samples and the loss on val scenes."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        check_finite(self)
        check_least(self, 1, "patch_px", "depth", "n_scenes", "batch_size", "steps", "keep_steps")
        check_least(self, 0, "seed")
        if self.width < 8 or self.width % 8:
            raise InputError(f"width must be a multiple of 8, got {self.width}.")
        if self.size_px % (2 * self.patch_px) or self.size_px < 1:
            raise InputError(f"size_px must be a multiple of twice patch_px, got {self.size_px} and {self.patch_px}.")
        if not self.lr > 0 or not 0 <= self.wordless < 1 or not 0 < self.average_decay < 1:
            raise InputError("lr must be above 0, wordless in [0, 1), average_decay between 0 and 1.")


Config = TypeVar("Config", GuidedConfig, DiffusionConfig, FlowConfig)


def make_flow_config(output: Path, changes: Sequence[str], *, resume: bool = False, smoke: bool = False) -> FlowConfig:
    """The settings of a new flow, or with `resume` of the one in `output`, whose `steps` may be changed; `key=value`.

    Raises InputError for what can't be met, ModelError where no flow is to be gone on with.
    """
    if resume:
        before = read_flow(output)[0]
        config = change_config(before, changes)
        if replace(config, steps=before.steps, keep_steps=before.keep_steps) != before:
            raise InputError("A flow goes on with the settings it began with; only steps and keep_steps may change.")
        return config
    tiny: dict[str, Any] = {"width": 8, "depth": 1, "n_scenes": 8, "batch_size": 4, "steps": 4, "keep_steps": 2}
    config = change_config(FlowConfig(**tiny) if smoke else FlowConfig(), changes)
    if not config.init:
        raise InputError("scenes-flow needs a CLIP that reads the words: --init dir:RUN, a run of scenes-scratch.")
    kind, colon, path = config.init.partition(":")
    return replace(config, init=f"dir:{expand(path).resolve()}") if kind == "dir" and colon else config


def is_flow(folder: Path) -> bool:
    """True where a folder holds a flow, be it whole or not."""
    return (folder / FLOW_FILE).is_file()


def has_finished(flow: Path) -> bool:
    """True where a folder holds a flow that was trained to its last step."""
    return is_flow(flow) and (flow / "checkpoints" / f"step-{read_flow(flow)[0].steps}").is_dir()


def read_flow(folder: str | Path) -> tuple[FlowConfig, str]:
    """The settings of a flow's folder, and the hash of its CLIP's weights. Raises ModelError where it holds no flow."""
    try:
        values = json.loads((expand(str(folder)) / FLOW_FILE).read_text(encoding="utf-8"))
        return FlowConfig(**values["settings"]), str(values["weights_hash"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder} holds no flow ({error}). Train one: sightline train scenes-flow --init dir:RUN --output {folder}"
        ) from error


def change_config(config: Config, changes: Sequence[str]) -> Config:
    """The config with settings as `key=value`. Raises InputError for an unknown key or a value that doesn't fit."""
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} is no setting; write key=value, as in steps=100.")
        values[key] = parse_field(type(config), key, text)
    return replace(config, **values)


def load_prompts(source: str) -> list[str]:
    """The lines of a text file, or `scenes:N`: captions of N val scenes, which training has never seen.

    The captions take turns: relations, things, places, counts and denials. Raises InputError for a file that can't be
    read or holds no line, and more scenes than can be told apart.
    """
    if match := _SCENES.fullmatch(source):
        pairs = load_scenes(split="val", limit=int(match[1] or 50))
        return [pair.captions[number % len(pair.captions)] for number, pair in enumerate(pairs)]
    path = expand(source)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompts {source}: the file can't be read ({error}). Give a text file, one prompt a line, or scenes:50."
        ) from error
    return check_prompts([line.strip() for line in lines if line.strip()], where=source)


def check_prompts(prompts: Sequence[str], *, where: str = "the command line") -> list[str]:
    """The prompts without outer spaces. Raises InputError where there are none, or one is empty or far too long."""
    if not prompts:
        raise InputError(f"{where}: there is no prompt. Give words, or a file with one prompt a line.")
    for prompt in prompts:
        if not prompt.strip():
            raise InputError(f"{where}: a prompt is empty. Say what is to be seen, as in 'a red circle'.")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise InputError(
                f"{where}: a prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARS:,} are taken."
            )
    return [prompt.strip() for prompt in prompts]


def load_bank(against: str | None, models: Sequence[str], *, limit: int) -> tuple[list[str], str]:
    """Texts that an image is told from, at most `limit`, and where they are from, in words.

    `against` is a text file or the address of a data set, whose training captions are taken. Without it the captions
    that the first model was trained on, where its folder names data that is here; else the package's own bank of
    captions of photos. Raises InputError for what can't be read.
    """
    if against is not None:
        path = expand(against)
        texts = load_prompts(against) if path.is_file() else _captions_of(against, limit)
        return texts[:limit], against
    trained_on = _data_of(models[0])
    if trained_on is not None:
        try:
            return _captions_of(trained_on, limit), f"captions of {trained_on}, which {models[0]} was trained on"
        except InputError:
            pass  # the data is no longer where it was
    from sightline.core.captioning.bank import load_bank as load_photo_bank

    return list(load_photo_bank().prompts[:limit]), "the package's bank of captions of photos"


def _captions_of(address: str, limit: int) -> list[str]:
    """One caption of each of the first images, another one each time."""
    dataset = load_dataset(address, split="train", limit=limit)
    texts = [pair.captions[number % len(pair.captions)] for number, pair in enumerate(dataset) if pair.captions]
    if not texts:
        raise InputError(f"{address} has no captions to tell a picture from. Name a text file with --against.")
    return texts


def _data_of(model: str) -> str | None:
    """The address of what a model's run was trained on, where its folder tells."""
    path = Path(model.removeprefix("dir:")).expanduser() / "run.json"
    if not model.startswith("dir:") or not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8")).get("data")
    except (OSError, ValueError, AttributeError):
        return None  # a note of where texts may be found, not something that must be there
    return data if isinstance(data, str) and data else None

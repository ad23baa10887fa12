"""How pictures are made from words: by a CLIP's gradients, or by a text-to-image pipeline."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from sightline.errors import InputError

Parameterisation = Literal["fourier", "network"]
Precision = Literal["bf16", "fp32"]

MOST_PICTURES = 4096
"""More than that in one run is a mistake: prompts times seeds."""


@dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Pictures that a CLIP makes itself: pixels are changed until the model finds that the words fit."""

    steps: int = 80
    """Updates of each picture."""
    size_px: int | None = None
    """Side of the pictures; None takes the model's own."""
    seeds: int = 4
    """Pictures of each prompt, each from other noise."""
    seed: int = 0
    """Of the first picture's noise and of all that is random."""
    parameterisation: Parameterisation = "fourier"
    views: int = 4
    """Changed copies of a picture that are looked at in each step."""
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
    """Of the models' forward and backward passes: `bf16` is autocast, `fp32` exact and slower."""
    frames: int = 16
    """Pictures kept on the way, for the GIF; 0 keeps none."""

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        for name, least in (("steps", 1), ("seeds", 1), ("seed", 0), ("views", 1), ("bank", 1), ("frames", 0)):
            _check_least(name, getattr(self, name), least)
        if self.size_px is not None and not 16 <= self.size_px <= 1024:
            raise InputError(f"size_px must lie between 16 and 1024, got {self.size_px}.")
        for name, kind in (("parameterisation", Parameterisation), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                allowed = " or ".join(get_args(kind))
                raise InputError(f"{name} must be {allowed}, got {getattr(self, name)!r}.")
        for name in ("shift", "zoom", "turn_deg", "noise", "blur_px", "light", "smoothness", "contrast"):
            _check_least(name, getattr(self, name), 0)
        if self.zoom >= 1 or self.shift >= 1 or self.light >= 1:
            raise InputError("shift, zoom and light are fractions below 1.")
        if self.lr is not None and not self.lr > 0:
            raise InputError(f"lr must be above 0, got {self.lr}.")

    @property
    def learning_rate(self) -> float:
        """Adam's, for what is changed."""
        return self.lr or (0.3 if self.parameterisation == "fourier" else 0.02)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Pictures that a text-to-image pipeline makes, ranked by CLIP."""

    steps: int = 30
    """Denoising steps of each picture."""
    size_px: int | None = None
    """Side of the pictures; None takes the pipeline's own."""
    seeds: int = 4
    """Samples of each prompt."""
    seed: int = 0
    guidance: float = 7.5
    """How much more than without words (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598)."""

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        for name, least in (("steps", 1), ("seeds", 1), ("seed", 0), ("guidance", 0)):
            _check_least(name, getattr(self, name), least)
        if self.size_px is not None and (self.size_px < 8 or self.size_px % 8):
            raise InputError(f"size_px of a pipeline must be a multiple of 8, got {self.size_px}.")


Config = TypeVar("Config", GuidedConfig, DiffusionConfig)


def change_config(config: Config, changes: Sequence[str]) -> Config:
    """The config with settings as `key=value`. Raises InputError for an unknown key or a value that doesn't fit."""
    known = {field.name: str(field.type) for field in fields(config)}
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} is no setting; write key=value, as in steps=100.")
        if key not in known:
            close = difflib.get_close_matches(key, known, 3) or sorted(known)
            raise InputError(f"There is no setting {key!r}. Did you mean {', '.join(close)}?")
        values[key] = _parse(key, text, known[key])
    return replace(config, **values)


def _parse(key: str, text: str, kind: str) -> Any:
    """A value of a field that is annotated as `int`, `int | None`, `float` or a literal."""
    if kind.endswith("None") and text in ("", "none"):
        return None
    try:
        return int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text
    except ValueError as error:
        wanted = "a whole number" if kind.startswith("int") else "a number"
        raise InputError(f"{key} must be {wanted}, got {text!r}.") from error


def _check_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # NaN too
        raise InputError(f"{name} must be at least {least}, got {value}.")

"""Sightline finds, captions and explains the images on your own disk with CLIP and BLIP.

The names below load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.core.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.core.indexing.report import IndexConfig
    from sightline.core.library import Library, caption
    from sightline.core.models.base import GenerationConfig
    from sightline.core.models.loading import load_captioner, load_encoder
    from sightline.core.types import Caption, Hit, ImageRecord
    from sightline.errors import (
        DataError,
        ImageError,
        InputError,
        ModelError,
        SightlineError,
        StoreError,
        TrainingError,
    )
    from sightline.lab.data.addressing import load_dataset
    from sightline.lab.data.base import Dataset
    from sightline.lab.training.config import TrainConfig
    from sightline.lab.training.loop import train
    from sightline.lab.training.recipes import make_config

__version__ = "0.2.0.dev0"

_HOMES = {
    name: module
    for module, names in {
        "sightline.core.captioning.dual": "CaptionConfig CaptionFailure DualCaption",
        "sightline.core.indexing.report": "IndexConfig",
        "sightline.core.library": "Library caption",
        "sightline.core.models.base": "GenerationConfig",
        "sightline.core.models.loading": "load_captioner load_encoder",
        "sightline.core.types": "Caption Hit ImageRecord",
        "sightline.errors": "DataError ImageError InputError ModelError SightlineError StoreError TrainingError",
        "sightline.lab.data.addressing": "load_dataset",
        "sightline.lab.data.base": "Dataset",
        "sightline.lab.training.config": "TrainConfig",
        "sightline.lab.training.loop": "train",
        "sightline.lab.training.recipes": "make_config",
    }.items()
    for name in names.split()
}
"""The module of each public name."""

__all__ = [
    "Caption",
    "CaptionConfig",
    "CaptionFailure",
    "DataError",
    "Dataset",
    "DualCaption",
    "GenerationConfig",
    "Hit",
    "ImageError",
    "ImageRecord",
    "IndexConfig",
    "InputError",
    "Library",
    "ModelError",
    "SightlineError",
    "StoreError",
    "TrainConfig",
    "TrainingError",
    "__version__",
    "caption",
    "load_captioner",
    "load_dataset",
    "load_encoder",
    "make_config",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Sightline finds, captions and explains the images on your own disk with CLIP and BLIP.

The names below load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.data.addressing import load_dataset
    from sightline.data.base import Dataset
    from sightline.errors import (
        DataError,
        ImageError,
        InputError,
        ModelError,
        SightlineError,
        StoreError,
        TrainingError,
    )
    from sightline.indexing.report import IndexConfig
    from sightline.library import Library, caption
    from sightline.models.base import GenerationConfig
    from sightline.models.captioners import load_captioner
    from sightline.models.encoders import load_encoder
    from sightline.training.config import TrainConfig
    from sightline.training.loop import train
    from sightline.training.recipes import make_config
    from sightline.types import Caption, Hit, ImageRecord

__version__ = "0.2.0.dev0"

_HOMES = {
    "Caption": "sightline.types",
    "CaptionConfig": "sightline.captioning.dual",
    "CaptionFailure": "sightline.captioning.dual",
    "DataError": "sightline.errors",
    "Dataset": "sightline.data.base",
    "DualCaption": "sightline.captioning.dual",
    "GenerationConfig": "sightline.models.base",
    "Hit": "sightline.types",
    "ImageError": "sightline.errors",
    "ImageRecord": "sightline.types",
    "IndexConfig": "sightline.indexing.report",
    "InputError": "sightline.errors",
    "Library": "sightline.library",
    "ModelError": "sightline.errors",
    "SightlineError": "sightline.errors",
    "StoreError": "sightline.errors",
    "TrainConfig": "sightline.training.config",
    "TrainingError": "sightline.errors",
    "caption": "sightline.library",
    "load_captioner": "sightline.models.captioners",
    "load_dataset": "sightline.data.addressing",
    "load_encoder": "sightline.models.encoders",
    "make_config": "sightline.training.recipes",
    "train": "sightline.training.loop",
}

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

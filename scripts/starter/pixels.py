"""Pictures as the towers take them. Shape suffixes: B images, N pictures of a set, S side."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.data.base import Dataset
from sightline.data.pixel_cache import open_pixel_cache
from sightline.images.preprocess import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which the teacher was trained with."""


def cached_pixels(dataset: Dataset, size_px: int) -> NDArray[np.uint8]:
    """All pictures, squashed as the models' card asks: uint8 (N, S, S, 3), memory-mapped."""
    return open_pixel_cache(dataset, preprocessing=Preprocessing(size_px=size_px, resize_mode="squash")).pixels_NSS3


def as_images(pixels_BSS3: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1]."""
    return pixels_BSS3.permute(0, 3, 1, 2).float() / 255


def normalise(image_B3SS: Tensor) -> Tensor:
    """Pixels in [0, 1] with the card's mean and deviation, channels side by side in memory."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    return ((image_B3SS - mean) / std).contiguous(memory_format=torch.channels_last)

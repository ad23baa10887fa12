"""Random crops, mirroring and light colour changes, a whole batch at once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from teacher import IMAGENET_MEAN, IMAGENET_STD
from torch import Tensor

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD


def normalise(pixels_BHWC: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels last in memory, with the card's mean and deviation."""
    image = torch.from_numpy(np.array(pixels_BHWC)).permute(0, 3, 1, 2).float() / 255
    return _standardise(image).contiguous(memory_format=torch.channels_last)


def augment(
    pixels_BHWC: NDArray[np.uint8],
    size_px: int,
    generator: torch.Generator,
    *,
    smallest: float = 0.7,
    colour: float = 0.2,
) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, size, size), each image cropped, mirrored and tinted on its own.

    A crop's side is uniform in [smallest, 1] of the image's, at a uniform place; brightness, contrast and saturation
    change by up to `colour`.
    """
    image = torch.from_numpy(np.array(pixels_BHWC)).permute(0, 3, 1, 2).float() / 255
    n = len(image)
    side = smallest + (1 - smallest) * torch.rand(n, generator=generator)
    shift = (1 - side)[:, None] * (2 * torch.rand(n, 2, generator=generator) - 1)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = side * mirror, side, shift
    grid = F.affine_grid(affine, [n, 3, size_px, size_px], align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    strength = 1 + colour * (2 * torch.rand(3, n, 1, 1, 1, generator=generator) - 1)
    image = image * strength[0]
    image = (image - image.mean(dim=(1, 2, 3), keepdim=True)) * strength[1] + image.mean(dim=(1, 2, 3), keepdim=True)
    grey = image.mean(dim=1, keepdim=True)
    image = ((image - grey) * strength[2] + grey).clamp(0, 1)
    return _standardise(image).contiguous(memory_format=torch.channels_last)


def _standardise(image_BCHW: Tensor) -> Tensor:
    return (image_BCHW - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

"""Changed copies of pictures, so that what a model sees in them holds for more than one arrangement of pixels.

Everything is drawn on the CPU, so that a seed gives the same views on every device. Shape suffixes: N pictures, V views
of each, B = N * V, H W pixels, S the model's side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sightline.lab.generate.config import GuidedConfig


def draw_views(image_N3HW: Tensor, size_px: int, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """`config.views` copies of each picture (N, 3, H, W), moved, zoomed, turned, blurred, relit and with noise.

    They come as (N * views, 3, S, S), those of a picture side by side; differentiable in the pixels. `chances` has a
    generator for each picture, so that its views don't depend on the pictures beside it.
    """
    image_N3SS = fit_size(image_N3HW, size_px)
    view_B3SS = image_N3SS.repeat_interleave(config.views, dim=0)
    affine_B23 = _draw_affine(config, chances).to(view_B3SS.device)
    grid_BSS2 = F.affine_grid(affine_B23, list(view_B3SS.shape), align_corners=False)
    view_B3SS = F.grid_sample(view_B3SS, grid_BSS2, mode="bilinear", padding_mode="reflection", align_corners=False)
    if config.blur_px:
        view_B3SS = _blur_some(view_B3SS, config)
    if config.light:
        view_B3SS = _relight(view_B3SS, config, chances)
    if config.noise:
        shape = (config.views, *view_B3SS.shape[1:])
        noise_B3SS = torch.cat([torch.randn(shape, generator=chance) for chance in chances])
        view_B3SS = view_B3SS + config.noise * noise_B3SS.to(view_B3SS)
    return view_B3SS


def fit_size(image_N3HW: Tensor, size_px: int) -> Tensor:
    """The pictures at a model's size, with antialiasing where they shrink."""
    if image_N3HW.shape[-1] == size_px:
        return image_N3HW
    return F.interpolate(image_N3HW, size=(size_px, size_px), mode="bilinear", antialias=image_N3HW.shape[-1] > size_px)


def _draw_affine(config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """Where the views look, as affine maps (B, 2, 3) of coordinates from -1 to 1."""
    zoom_B, turn_B, right_B, down_B = _uniform(4, config, chances)
    zoom_B, turn_B = 1 + config.zoom * zoom_B, math.radians(config.turn_deg) * turn_B
    affine_B23 = torch.zeros(len(zoom_B), 2, 3)
    affine_B23[:, 0, 0] = affine_B23[:, 1, 1] = zoom_B * turn_B.cos()
    affine_B23[:, 0, 1], affine_B23[:, 1, 0] = -zoom_B * turn_B.sin(), zoom_B * turn_B.sin()
    affine_B23[:, 0, 2], affine_B23[:, 1, 2] = 2 * config.shift * right_B, 2 * config.shift * down_B
    return affine_B23


def _blur_some(view_B3SS: Tensor, config: GuidedConfig) -> Tensor:
    """The first view of each picture stays sharp, the last is blurred most."""
    view_NV3SS = view_B3SS.reshape(-1, config.views, *view_B3SS.shape[1:])
    sigmas_px = [config.blur_px * view / max(config.views - 1, 1) for view in range(config.views)]
    return torch.stack([_blur(view_NV3SS[:, view], sigma_px) for view, sigma_px in enumerate(sigmas_px)], 1).flatten(
        0, 1
    )


def _blur(view_N3SS: Tensor, sigma_px: float) -> Tensor:
    """A Gaussian blur, along rows and then along columns."""
    reach = min(math.ceil(2 * sigma_px), view_N3SS.shape[-1] - 1)
    if reach == 0:
        return view_N3SS
    at = torch.arange(-reach, reach + 1, dtype=view_N3SS.dtype, device=view_N3SS.device)
    kernel = torch.softmax(-at.square() / (2 * sigma_px**2), dim=0).expand(3, 1, 1, -1)
    rows = F.conv2d(F.pad(view_N3SS, (reach, reach, 0, 0), mode="reflect"), kernel, groups=3)
    both: Tensor = F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="reflect"), kernel.transpose(2, 3), groups=3)
    return both


def _relight(view_B3SS: Tensor, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """Another contrast and brightness for each view."""
    factors_2B = 1 + config.light * _uniform(2, config, chances).to(view_B3SS)
    contrast_B111, brightness_B111 = factors_2B[:, :, None, None, None]
    mean_B111 = view_B3SS.mean(dim=(1, 2, 3), keepdim=True)
    lit_B3SS: Tensor = ((view_B3SS - mean_B111) * contrast_B111 + mean_B111) * brightness_B111
    return lit_B3SS


def _uniform(n: int, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """`n` values in [-1, 1) for each view (n, B)."""
    return torch.cat([2 * torch.rand(n, config.views, generator=chance) - 1 for chance in chances], dim=1)

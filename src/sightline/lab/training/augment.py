"""Random crops, mirroring, stretching and light colour changes, a whole batch at once, on the device that trains.

Shape suffixes: B images, H W the cached pixels' sides, S the side that is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sightline.lab.data.base import fingerprint_of


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much a picture may change between two steps; see `TrainConfig` for the fields."""

    crop_min: float = 0.7
    aspect_jitter: float = 1.0
    flip: bool = True
    colour_jitter: float = 0.2

    @property
    def changes_place(self) -> bool:
        """Whether pixels move at all."""
        return self.flip or self.crop_min < 1 or self.aspect_jitter > 1

    def still(self) -> Augmentation:
        """The same without changes of colour."""
        return replace(self, colour_jitter=0.0)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is done to each picture of a batch. Drawn for the whole batch, so that ranks and chunks see their part."""

    affine_B23: Tensor
    colour_3B: Tensor
    """Factors on brightness, contrast and saturation."""

    def part(self, rows: slice) -> Changes:
        """The changes of some pictures."""
        return Changes(affine_B23=self.affine_B23[rows], colour_3B=self.colour_3B[:, rows])


@dataclass(frozen=True, kw_only=True)
class FixedCrops:
    """Crops that are drawn once: those of picture n are rows `first_N[n]` to `first_N[n + 1]`, the first the whole."""

    affine_C23: Tensor
    first_N: Tensor
    augmentation: Augmentation

    @classmethod
    def draw(cls, counts_N: Tensor, augmentation: Augmentation, *, seed: int) -> FixedCrops:
        """`counts_N[n]` crops of picture n, each at least 1."""
        first_N = F.pad(counts_N.cumsum(0), (1, 0))
        affine_C23 = _draw_affine(int(first_N[-1]), augmentation, torch.Generator().manual_seed(seed))
        affine_C23[first_N[:-1]] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        return cls(affine_C23=affine_C23, first_N=first_N, augmentation=augmentation)

    @property
    def fingerprint(self) -> str:
        """Changes with any crop, and with which picture it is of."""
        return fingerprint_of(tensor.numpy().tobytes().hex() for tensor in (self.affine_C23, self.first_N))

    def pick(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        """One crop of each of these pictures, as rows of `affine_C23`."""
        first_B, last_B = self.first_N[rows_B], self.first_N[rows_B + 1]
        return first_B + (torch.rand(len(rows_B), generator=generator) * (last_B - first_B)).long()

    def owners(self) -> Tensor:
        """The picture of each crop."""
        return torch.arange(len(self.first_N) - 1).repeat_interleave(self.first_N.diff())


def draw_changes(n: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
    """Changes of `n` pictures, on the CPU, so that a seed gives the same ones on every device."""
    affine_B23 = _draw_affine(n, augmentation, generator)
    colour_3B = 1 + augmentation.colour_jitter * (2 * torch.rand(3, n, generator=generator) - 1)
    return Changes(affine_B23=affine_B23, colour_3B=colour_3B)


def _draw_affine(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Where `n` crops lie, as affine maps (n, 2, 3).

    A crop's area is that of a square whose side is uniform in [crop_min, 1] of the picture's; its aspect ratio is
    log-uniform within the jitter; its place is uniform.
    """
    side_B = augmentation.crop_min + (1 - augmentation.crop_min) * torch.rand(n, generator=generator)
    stretch_B = augmentation.aspect_jitter ** (torch.rand(n, generator=generator) - 0.5)
    width_B, height_B = (side_B * stretch_B).clamp(max=1), (side_B / stretch_B).clamp(max=1)
    shift_B2 = 2 * torch.rand(n, 2, generator=generator) - 1
    mirrored_B = torch.rand(n, generator=generator) < (0.5 if augmentation.flip else 0.0)
    affine_B23 = torch.zeros(n, 2, 3)
    affine_B23[:, 0, 0], affine_B23[:, 1, 1] = width_B * torch.where(mirrored_B, -1.0, 1.0), height_B
    affine_B23[:, 0, 2], affine_B23[:, 1, 2] = (1 - width_B) * shift_B2[:, 0], (1 - height_B) * shift_B2[:, 1]
    return affine_B23


def augment(pixels_BHW3: Tensor, size_px: int, augmentation: Augmentation, changes: Changes) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, S, S) in [0, 1], each picture changed on its own."""
    image_B3HW = pixels_BHW3.permute(0, 3, 1, 2).float().div_(255)
    if augmentation.changes_place:
        affine_B23 = changes.affine_B23.to(image_B3HW.device)
        grid_BSS2 = F.affine_grid(affine_B23, [len(image_B3HW), 3, size_px, size_px], align_corners=False)
        image_B3SS = F.grid_sample(
            image_B3HW, grid_BSS2, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    else:
        image_B3SS = _resize(image_B3HW, size_px)
    return _recolour(image_B3SS, changes.colour_3B) if augmentation.colour_jitter else image_B3SS


def _resize(image_B3HW: Tensor, size_px: int) -> Tensor:
    """The whole pictures at another size, with antialiasing."""
    if image_B3HW.shape[-1] == size_px:
        return image_B3HW
    return F.interpolate(image_B3HW, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def _recolour(image_B3SS: Tensor, colour_3B: Tensor) -> Tensor:
    brightness, contrast, saturation = colour_3B[:, :, None, None, None].to(image_B3SS.device)
    image_B3SS = image_B3SS * brightness
    mean_B111 = image_B3SS.mean(dim=(1, 2, 3), keepdim=True)
    image_B3SS = (image_B3SS - mean_B111) * contrast + mean_B111
    grey_B1SS = image_B3SS.mean(dim=1, keepdim=True)
    recoloured_B3SS: Tensor = ((image_B3SS - grey_B1SS) * saturation + grey_B1SS).clamp(0, 1)
    return recoloured_B3SS

"""Images as something that gradients can shape, and changed copies of them for a model to look at.

Parameters are Fourier coefficients, or small networks of the coordinates; both give pixels in [0, 1]. Views make that
what a model sees holds for more than one arrangement of pixels; all chance is drawn on the CPU, so that a seed gives
the same views on every device. Shape suffixes: N images, H W pixels, K kept frequencies along x, P pixels of an image,
E width of a network, V views of each image, B = N * V, S the model's side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sightline.lab.generate.config import GuidedConfig, Parameterisation

_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.0, -0.5], [-0.25, 0.5, -0.25]])
"""Rows: how much of red, green and blue each channel holds; natural images vary along them almost independently
(Ohta, Kanade and Sakai 1980, "Color information for region segmentation")."""
_FOURIER_SPREAD = 4.0
_FALLOFF = 1.5
"""Power of the frequency that amplitudes fall with. Natural images have 1; models agree more on smoother ones."""
_START = 0.3
"""Standard deviation of an image's logits before the first step: a soft cloud around grey."""
_WIDTH = 24
_LAYERS = 3
_FREQUENCY = 12.0


class FourierImages(nn.Module):
    """The spectrum of each colour channel, scaled so that high frequencies are weak.

    So one step of Adam changes large and small structures alike, and neighbouring pixels together (Olah, Mordvintsev
    and Schubert 2017, "Feature visualization", https://distill.pub/2017/feature-visualization).
    """

    def __init__(self, seeds: Sequence[int], size_px: int) -> None:
        super().__init__()
        self.size_px = size_px
        down_H1 = torch.fft.fftfreq(size_px)[:, None]
        right_K = torch.fft.rfftfreq(size_px)[None]
        frequency_HK = (down_H1.square() + right_K.square()).sqrt().clamp(min=1 / size_px)
        self.register_buffer("scale_HK", _FOURIER_SPREAD * (size_px * frequency_HK) ** -_FALLOFF)
        shape = (3, *frequency_HK.shape, 2)
        spectrum_N3HK2 = torch.stack([_START * torch.randn(shape, generator=_generator(seed)) for seed in seeds])
        self.spectrum_N3HK2 = nn.Parameter(spectrum_N3HK2 / _FOURIER_SPREAD)

    def forward(self) -> Tensor:
        """Pixels (N, 3, H, W) in [0, 1]."""
        scale_HK: Tensor = self.get_buffer("scale_HK")
        scaled_N3HK = torch.view_as_complex(self.spectrum_N3HK2) * scale_HK
        size = (self.size_px, self.size_px)
        channels_N3HW = torch.fft.irfft2(scaled_N3HK, s=size, norm="ortho")
        return _to_rgb(channels_N3HW)


class NetworkImages(nn.Module):
    """A small network from a pixel's coordinates to its colour, one for each image, with sines between its layers.

    What it draws is smooth and has no size of its own (Sitzmann et al. 2020, arXiv:2006.09661).
    """

    def __init__(self, seeds: Sequence[int], size_px: int) -> None:
        super().__init__()
        self.size_px = size_px
        side_W = torch.linspace(-1, 1, size_px)
        down_HW, right_HW = torch.meshgrid(side_W, side_W, indexing="ij")
        self.register_buffer("place_P2", torch.stack([right_HW, down_HW], dim=-1).flatten(0, 1))
        widths = [2, *[_WIDTH] * _LAYERS, 3]
        layers = [_draw_layers(widths, _generator(seed)) for seed in seeds]
        self.weights = nn.ParameterList(torch.stack([each[i][0] for each in layers]) for i in range(len(widths) - 1))
        self.biases = nn.ParameterList(torch.stack([each[i][1] for each in layers]) for i in range(len(widths) - 1))

    def forward(self) -> Tensor:
        """Pixels (N, 3, H, W) in [0, 1]."""
        place_P2 = self.get_buffer("place_P2")
        x_NPE = place_P2.expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x_NPE = torch.baddbmm(bias[:, None], x_NPE, weight)
            if i < last:
                x_NPE = torch.sin(_FREQUENCY * x_NPE if i == 0 else x_NPE)
        channels_N3HW = x_NPE.transpose(1, 2).reshape(len(x_NPE), 3, self.size_px, self.size_px)
        return _to_rgb(channels_N3HW)


Images = FourierImages | NetworkImages


def make_start(kind: Parameterisation, seeds: Sequence[int], size_px: int) -> Images:
    """Images before the first step, the same for a seed whatever is beside it."""
    return FourierImages(seeds, size_px) if kind == "fourier" else NetworkImages(seeds, size_px)


def _to_rgb(channels_N3HW: Tensor) -> Tensor:
    """Independent colour channels -> red, green and blue in [0, 1]."""
    basis_33 = _OPPONENT.to(channels_N3HW) / _OPPONENT.norm(dim=1, keepdim=True).to(channels_N3HW)
    return torch.einsum("ncxy,cd->ndxy", channels_N3HW, basis_33).sigmoid()


def _draw_layers(widths: Sequence[int], generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Weights (in, out) and biases, so that every layer's input to its sine varies by about 1."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        reach = 1 / inputs if inputs == 2 else math.sqrt(6 / inputs)
        weight = (2 * torch.rand(inputs, outputs, generator=generator) - 1) * reach
        layers.append((weight, torch.zeros(outputs)))
    return layers


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_views(image_N3HW: Tensor, size_px: int, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """`config.views` copies of each image (N, 3, H, W), moved, zoomed, turned, blurred, relit and with noise.

    They come as (N * views, 3, S, S), those of an image side by side; differentiable in the pixels. `chances` has a
    generator for each image, so that its views don't depend on the images beside it.
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
    """The images at a model's size, with antialiasing where they shrink."""
    if image_N3HW.shape[-1] == size_px:
        return image_N3HW
    return F.interpolate(image_N3HW, size=(size_px, size_px), mode="bilinear", antialias=image_N3HW.shape[-1] > size_px)


def _draw_affine(config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
    """Places where the views look, as affine maps (B, 2, 3) of coordinates from -1 to 1."""
    zoom_B, turn_B, right_B, down_B = _uniform(4, config, chances)
    zoom_B, turn_B = 1 + config.zoom * zoom_B, math.radians(config.turn_deg) * turn_B
    affine_B23 = torch.zeros(len(zoom_B), 2, 3)
    affine_B23[:, 0, 0] = affine_B23[:, 1, 1] = zoom_B * turn_B.cos()
    affine_B23[:, 0, 1], affine_B23[:, 1, 0] = -zoom_B * turn_B.sin(), zoom_B * turn_B.sin()
    affine_B23[:, 0, 2], affine_B23[:, 1, 2] = 2 * config.shift * right_B, 2 * config.shift * down_B
    return affine_B23


def _blur_some(view_B3SS: Tensor, config: GuidedConfig) -> Tensor:
    """The first view of each image stays sharp, the last is blurred most."""
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

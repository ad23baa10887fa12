"""Pictures as something that gradients can shape: Fourier coefficients, or small networks of the coordinates.

Both give pixels in [0, 1]. Shape suffixes: N pictures, H W pixels, K kept frequencies along x, P pixels of a picture,
E width of a network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.lab.generate.config import Parameterisation

_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.0, -0.5], [-0.25, 0.5, -0.25]])
"""Rows: how much of red, green and blue each channel holds; natural pictures vary along them almost independently
(Ohta, Kanade and Sakai 1980, "Color information for region segmentation")."""
_FOURIER_SPREAD = 4.0
_FALLOFF = 1.5
"""Power of the frequency that amplitudes fall with. Natural pictures have 1; models agree more on smoother ones."""
_START = 0.3
"""Standard deviation of a picture's logits before the first step: a soft cloud around grey."""
_WIDTH = 24
_LAYERS = 3
_FREQUENCY = 12.0


class Pictures(nn.Module):
    """N pictures of one size, each with parameters of its own."""

    def forward(self) -> Tensor:
        """Pixels (N, 3, H, W) in [0, 1]."""
        raise NotImplementedError


class FourierPictures(Pictures):
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


class NetworkPictures(Pictures):
    """A small network from a pixel's coordinates to its colour, one for each picture, with sines between its layers.

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


def make_start(kind: Parameterisation, seeds: Sequence[int], size_px: int) -> Pictures:
    """Pictures before the first step, the same for a seed whatever is beside it."""
    return FourierPictures(seeds, size_px) if kind == "fourier" else NetworkPictures(seeds, size_px)


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

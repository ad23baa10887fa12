"""CLIP-guided images: parameters changed by Adam until a model, or several, find that the words fit.

The loss falls as an image's words fit it better than other texts. Parameters are Fourier coefficients, or small
networks of the coordinates; both give pixels in [0, 1]. Views, changed copies of an image, make that what a model sees
holds for more than one arrangement of pixels; all chance is drawn on the CPU, so that a seed gives the same views on
every device.

Shape suffixes: N images, V views of each, B = N * V, T texts of the bank, A texts to avoid, D joint space, H W pixels,
S the model's side, K kept frequencies along x, P pixels of an image, E width of a network.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.core.models.cards import ENDPOINT_PREFIX, find_card
from sightline.core.models.files import find_weights, resolve_folder, torch_installed
from sightline.core.models.loading import load_encoder
from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import ModelError, install_advice
from sightline.kit.work import Progress
from sightline.lab.generate.config import GuidedConfig, Parameterisation
from sightline.lab.generate.judge import MadeImage

_ADVICE = (
    "Use a model that you trained (`sightline train scenes-scratch --output RUN`, then --model dir:RUN), or another "
    "with PyTorch weights, such as ViT-B-32/openai once it is pulled."
)
_VIEWS_PX = 512 * 64 * 64
"""Pixels of views that are looked at together: a few hundred MB of activations in a small tower."""


def load_guide(name: str, *, download: bool = False) -> TorchEncoder:
    """The model as PyTorch modules, for their gradients. Raises ModelError where it has no such weights here."""
    if name.startswith(ENDPOINT_PREFIX):
        raise ModelError(f"{name} runs elsewhere, and pictures are made by a model's gradients. {_ADVICE}")
    if not torch_installed():
        raise ModelError(f"Making pictures needs PyTorch: {install_advice('torch')}")
    card = find_card(name)
    if card.kind == "encoder" and not find_weights(resolve_folder(card, download=download, runtime="torch")):
        raise ModelError(f"{name} has ONNX graphs only, and pictures are made by a model's gradients. {_ADVICE}")
    encoder = load_encoder(name, runtime="torch", download=download)
    assert isinstance(encoder, TorchEncoder)  # what runtime="torch" gives
    return encoder


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts that all images of a run are told from."""

    bank: Sequence[str]
    avoid: Sequence[str] = ()


class Guide:
    """One model and the words, as a loss of images."""

    def __init__(self, encoder: TorchEncoder, prompts: Sequence[str], *, words: Words) -> None:
        """`prompts` has one text for each image; `words` hold for all."""
        self.encoder = encoder
        self.size_px = encoder.card.preprocessing.size_px
        self.temperature = encoder.temperature
        self._towers = encoder.towers.requires_grad_(False)
        texts_TD = torch.from_numpy(encoder.encode_texts([*prompts, *words.bank, *words.avoid])).to(encoder.device)
        counts = [len(prompts), len(words.bank), len(words.avoid)]
        self._prompt_ND, self._bank_TD, self._avoid_AD = torch.split(texts_TD, counts)
        # A text of the bank that says the same as a prompt must not be held against it.
        self._same_NT = self._prompt_ND @ self._bank_TD.T > 1 - 1e-4
        preprocessing = encoder.card.preprocessing
        self._mean_311 = torch.tensor(preprocessing.mean, device=encoder.device)[:, None, None]
        self._std_311 = torch.tensor(preprocessing.std, device=encoder.device)[:, None, None]

    def embed(self, image_B3SS: Tensor) -> Tensor:
        """Pixels in [0, 1] at the model's size -> unit vectors (B, D)."""
        embeds_BD = self._towers.embed_images((image_B3SS - self._mean_311) / self._std_311)[0]
        return F.normalize(embeds_BD.float(), dim=-1)

    def loss(self, image_N3HW: Tensor, config: GuidedConfig, chances: Sequence[torch.Generator]) -> Tensor:
        """The loss of each image (N,), the mean over its views.

        It is 1 minus the cosine to the prompt, plus `config.contrast` times the cross-entropy of the prompt among the
        bank's texts at the model's own temperature. A text to avoid counts as much as the whole bank.
        """
        view_B3SS = draw_views(image_N3HW, self.size_px, config, chances)
        is_bf16 = config.precision == "bf16"
        with torch.autocast(view_B3SS.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            view_BD = self.embed(view_B3SS)
        prompt_BD = self._prompt_ND.repeat_interleave(config.views, dim=0)
        cosine_B = (view_BD * prompt_BD).sum(dim=-1)
        same_BT = self._same_NT.repeat_interleave(config.views, dim=0)
        others_BT = (view_BD @ self._bank_TD.T).masked_fill(same_BT, -1e4)
        avoided_BA = view_BD @ self._avoid_AD.T
        extra = math.log(len(self._bank_TD))
        logits_BC = torch.cat([cosine_B[:, None], others_BT, avoided_BA + extra / self.temperature], dim=1)
        told_apart_B = -F.log_softmax(self.temperature * logits_BC, dim=1)[:, 0]
        loss_B = 1 - cosine_B + config.contrast * told_apart_B
        return loss_B.reshape(-1, config.views).mean(dim=1)

    @torch.no_grad()
    def similarity(self, image_N3HW: Tensor) -> Tensor:
        """The cosine of each image, as it is, to its own prompt (N,)."""
        return (self.embed(fit_size(image_N3HW, self.size_px)) * self._prompt_ND).sum(dim=-1)


class SeededPrompt(NamedTuple):
    """The words and the noise of one image."""

    prompt: str
    seed: int


def make_guided(
    prompts: Sequence[SeededPrompt],
    encoders: Sequence[TorchEncoder],
    *,
    words: Words,
    config: GuidedConfig,
    progress: Progress = lambda done, total, note: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[MadeImage]:
    """An image for each prompt, in order; the mean over all encoders decides.

    An image depends on its prompt, its seed and the settings, not on the images beside it (up to rounding). Once
    `interrupted` returns True, images are given as they are, and those not begun are left out. Raises ModelError
    where a loss isn't finite.
    """
    size_px = config.size_px or max(encoder.card.preprocessing.size_px for encoder in encoders)
    group = _group_size(encoders, config)
    groups = [prompts[start : start + group] for start in range(0, len(prompts), group)]
    made: list[MadeImage] = []
    for number, some in enumerate(groups):
        if interrupted():
            break

        def show(done: int, note: str, number: int = number) -> None:
            progress(number * config.steps + done, len(groups) * config.steps, note)

        guides = [Guide(encoder, [each.prompt for each in some], words=words) for encoder in encoders]
        images = make_start(config.parameterisation, [each.seed for each in some], size_px)
        run = _Run(some, guides, images.to(encoders[0].device), config)
        made += run.go(show, interrupted)
    return made


class _Run:
    """Images that are made side by side."""

    def __init__(
        self, prompts: Sequence[SeededPrompt], guides: Sequence[Guide], images: Images, config: GuidedConfig
    ) -> None:
        self._prompts = prompts
        self._guides = guides
        self._images = images
        self._config = config
        self._chances = [torch.Generator().manual_seed(each.seed) for each in prompts]
        self._optimiser = torch.optim.Adam(images.parameters(), lr=config.learning_rate)
        self._curves: list[list[tuple[int, float]]] = [[] for _ in prompts]
        self._frames: list[list[NDArray[np.uint8]]] = [[] for _ in prompts]
        self._shown = _spread(config.steps, config.frames)
        self._measured = _spread(config.steps, 40) | {0, config.steps}

    def go(self, show: Callable[[int, str], None], interrupted: Callable[[], bool]) -> list[MadeImage]:
        """All steps, or as many as there are until someone interrupts."""
        started = time.perf_counter()
        similarity_N = self._look(0)
        step = 0
        for step in range(1, self._config.steps + 1):
            self._step(step)
            if step in self._measured or step in self._shown:
                similarity_N = self._look(step)
            show(step, f"similarity {float(similarity_N.mean()):.3f}")
            if interrupted():
                break
        similarity_N = self._look(step, last=True)
        took_s = (time.perf_counter() - started) / len(self._prompts)
        with torch.no_grad():
            pixels_NHW3 = _to_pixels(self._images())
        return [
            MadeImage(
                prompt=each.prompt,
                seed=each.seed,
                rgb=pixels_NHW3[n],
                similarity=float(similarity_N[n]),
                steps=step,
                took_s=took_s,
                curve=tuple(self._curves[n]),
                frames=tuple(self._frames[n]),
            )
            for n, each in enumerate(self._prompts)
        ]

    def _step(self, step: int) -> None:
        # Level for the first half, then falling in a line, so that details settle.
        pace = min(1.0, 2 * (1 - (step - 1) / self._config.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * pace
        image_N3HW = self._images()
        loss_N = self._config.smoothness * _roughness(image_N3HW)
        for guide in self._guides:
            loss_N = loss_N + guide.loss(image_N3HW, self._config, self._chances) / len(self._guides)
        if not torch.isfinite(loss_N).all():
            names = ", ".join(guide.encoder.card.name for guide in self._guides)
            raise ModelError(
                f"The loss of {names} isn't finite at step {step}. Lower lr, or check the model's weights."
            )
        self._optimiser.zero_grad()
        loss_N.sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()

    def _look(self, step: int, *, last: bool = False) -> Tensor:
        """Measure the images as they are, and keep frames: the mean similarity over the guides (N,)."""
        with torch.no_grad():
            image_N3HW = self._images()
            similarity_N = torch.stack([guide.similarity(image_N3HW) for guide in self._guides]).mean(0).cpu()
            frames_NHW3 = _to_pixels(image_N3HW) if step in self._shown or (last and self._config.frames) else None
        for n, curve in enumerate(self._curves):
            if not curve or curve[-1][0] < step:
                curve.append((step, float(similarity_N[n])))
                if frames_NHW3 is not None:
                    self._frames[n].append(frames_NHW3[n])
        return similarity_N


def seed_prompts(prompts: Sequence[str], config: GuidedConfig) -> list[SeededPrompt]:
    """Each prompt with each seed."""
    return [SeededPrompt(prompt=prompt, seed=config.seed + k) for prompt in prompts for k in range(config.seeds)]


def _group_size(encoders: Sequence[TorchEncoder], config: GuidedConfig) -> int:
    largest_px = max(encoder.card.preprocessing.size_px for encoder in encoders)
    return max(1, _VIEWS_PX // (config.views * largest_px**2))


def _spread(steps: int, count: int) -> set[int]:
    """`count` steps from 0 to the last, evenly; fewer where there are fewer steps."""
    if count <= 1:
        return {steps} if count else set()
    return {round(steps * i / (count - 1)) for i in range(count)}


def _roughness(image_N3HW: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels (N,): total variation (Mahendran and Vedaldi 2015)."""
    across_N = (image_N3HW[..., 1:] - image_N3HW[..., :-1]).abs().mean(dim=(1, 2, 3))
    down_N = (image_N3HW[..., 1:, :] - image_N3HW[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    return across_N + down_N


def _to_pixels(image_N3HW: Tensor) -> NDArray[np.uint8]:
    """[0, 1] -> uint8 (N, H, W, 3)."""
    pixels: NDArray[np.uint8] = (image_N3HW * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


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

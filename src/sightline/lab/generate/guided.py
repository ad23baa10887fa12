"""CLIP-guided images: parameters changed by Adam until a model, or several, find that the words fit.

The loss falls as an image's words fit it better than other texts. Shape suffixes: N images, B views, T texts of the
bank, A texts to avoid, D joint space, H W S pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from sightline.core.models.cards import ENDPOINT_PREFIX, find_card
from sightline.core.models.files import find_weights, resolve_folder, torch_installed
from sightline.core.models.loading import load_encoder
from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import ModelError, install_advice
from sightline.kit.work import Progress
from sightline.lab.generate.config import GuidedConfig
from sightline.lab.generate.judge import MadeImage
from sightline.lab.generate.parameterise import Images, draw_views, fit_size, make_start

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

"""CLIP-guided pictures: parameters changed by Adam until a model, or several, find that the words fit.

Shape suffixes: N pictures, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.core.models.torch_models import TorchEncoder
from sightline.errors import ModelError
from sightline.lab.generate.config import GuidedConfig
from sightline.lab.generate.guide import Guide, Words
from sightline.lab.generate.parameterise import Pictures, make_start
from sightline.lab.generate.results import MadePicture

Progress = Callable[[int, int, str], None]
"""Takes steps done, steps in all, and a note."""

_VIEWS_PX = 512 * 64 * 64
"""Pixels of views that are looked at together: a few hundred MB of activations in a small tower."""
_CURVE_POINTS = 40


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One picture to be made."""

    prompt: str
    seed: int


def make_guided(
    wishes: Sequence[Wish],
    encoders: Sequence[TorchEncoder],
    *,
    words: Words,
    config: GuidedConfig,
    progress: Progress = lambda done, total, note: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[MadePicture]:
    """A picture for each wish, in order; the mean over all encoders decides.

    A picture depends on its prompt, its seed and the settings, not on the pictures beside it (up to rounding). Once
    `interrupted` returns True, pictures are given as they are, and those not begun are left out. Raises ModelError
    where a loss isn't finite.
    """
    size_px = config.size_px or max(encoder.card.preprocessing.size_px for encoder in encoders)
    group = _group_size(encoders, config)
    groups = [wishes[start : start + group] for start in range(0, len(wishes), group)]
    made: list[MadePicture] = []
    for number, some in enumerate(groups):
        if interrupted():
            break

        def show(done: int, note: str, number: int = number) -> None:
            progress(number * config.steps + done, len(groups) * config.steps, note)

        guides = [Guide(encoder, [wish.prompt for wish in some], words=words) for encoder in encoders]
        pictures = make_start(config.parameterisation, [wish.seed for wish in some], size_px)
        run = _Run(some, guides, pictures.to(encoders[0].device), config)
        made += run.go(show, interrupted)
    return made


class _Run:
    """Pictures that are made side by side."""

    def __init__(
        self, wishes: Sequence[Wish], guides: Sequence[Guide], pictures: Pictures, config: GuidedConfig
    ) -> None:
        self._wishes = wishes
        self._guides = guides
        self._pictures = pictures
        self._config = config
        self._chances = [torch.Generator().manual_seed(wish.seed) for wish in wishes]
        self._optimiser = torch.optim.Adam(pictures.parameters(), lr=config.learning_rate)
        self._curves: list[list[tuple[int, float]]] = [[] for _ in wishes]
        self._frames: list[list[NDArray[np.uint8]]] = [[] for _ in wishes]
        self._shown = _spread(config.steps, config.frames)
        self._measured = _spread(config.steps, _CURVE_POINTS) | {0, config.steps}

    def go(self, show: Callable[[int, str], None], interrupted: Callable[[], bool]) -> list[MadePicture]:
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
        took_s = (time.perf_counter() - started) / len(self._wishes)
        with torch.no_grad():
            pixels_NHW3 = _to_pixels(self._pictures())
        return [
            MadePicture(
                prompt=wish.prompt,
                seed=wish.seed,
                rgb=pixels_NHW3[n],
                similarity=float(similarity_N[n]),
                steps=step,
                took_s=took_s,
                curve=tuple(self._curves[n]),
                frames=tuple(self._frames[n]),
            )
            for n, wish in enumerate(self._wishes)
        ]

    def _step(self, step: int) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * _pace(step, self._config.steps)
        image_N3HW = self._pictures()
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
        """Measure the pictures as they are, and keep frames: the mean similarity over the guides (N,)."""
        with torch.no_grad():
            image_N3HW = self._pictures()
            similarity_N = torch.stack([guide.similarity(image_N3HW) for guide in self._guides]).mean(0).cpu()
            frames_NHW3 = _to_pixels(image_N3HW) if step in self._shown or (last and self._config.frames) else None
        for n, curve in enumerate(self._curves):
            if not curve or curve[-1][0] < step:
                curve.append((step, float(similarity_N[n])))
                if frames_NHW3 is not None:
                    self._frames[n].append(frames_NHW3[n])
        return similarity_N


def picture_wishes(prompts: Sequence[str], config: GuidedConfig) -> list[Wish]:
    """Each prompt with each seed."""
    return [Wish(prompt=prompt, seed=config.seed + k) for prompt in prompts for k in range(config.seeds)]


def _group_size(encoders: Sequence[TorchEncoder], config: GuidedConfig) -> int:
    largest_px = max(encoder.card.preprocessing.size_px for encoder in encoders)
    return max(1, _VIEWS_PX // (config.views * largest_px**2))


def _spread(steps: int, count: int) -> set[int]:
    """`count` steps from 0 to the last, evenly; fewer where there are fewer steps."""
    if count <= 1:
        return {steps} if count else set()
    return {round(steps * i / (count - 1)) for i in range(count)}


def _pace(step: int, steps: int) -> float:
    """The learning rate as a fraction: level for the first half, then falling in a line, so that details settle."""
    return min(1.0, 2 * (1 - (step - 1) / steps))


def _roughness(image_N3HW: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels (N,): total variation (Mahendran and Vedaldi 2015)."""
    across_N = (image_N3HW[..., 1:] - image_N3HW[..., :-1]).abs().mean(dim=(1, 2, 3))
    down_N = (image_N3HW[..., 1:, :] - image_N3HW[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    return across_N + down_N


def _to_pixels(image_N3HW: Tensor) -> NDArray[np.uint8]:
    """[0, 1] -> uint8 (N, H, W, 3)."""
    pixels: NDArray[np.uint8] = (image_N3HW * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels

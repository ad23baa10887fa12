"""Made images, and the judge: a second model that names the prompt of each image, among all prompts of a run.

The model that made an image always finds that it fits; that says little. A model of another seed has learned other
weights from the same data, so what it recognises is in the image and not in the first model's blind spots.
Shape suffixes: N images, P prompts, D joint space, S the model's side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.embedding import embed_texts
from sightline.lab.evaluation.results import rank_embeddings, require_finite_rows

_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeImage:
    """One image, made from words and noise."""

    prompt: str
    seed: int
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    similarity: float
    """Cosine to its prompt under the model that made it (the mean of several), or that ranks it."""
    steps: int
    took_s: float
    curve: tuple[tuple[int, float], ...] = ()
    """Steps and similarities on the way."""
    frames: tuple[NDArray[np.uint8], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels."""
        kept = ("prompt", "seed", "similarity", "steps", "took_s", "curve")
        return {name: rounded(getattr(self, name)) for name in kept}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's verdict on one image."""

    prompt: str
    seed: int
    rank: float
    """Rank of the right prompt among all, from 1; ties count by their expectation."""
    similarity: float
    """The judge's cosine to the right prompt."""
    taken_for: str
    """The prompt that the judge finds most fitting."""

    @property
    def right(self) -> bool:
        """True where the right prompt ranks first."""
        return self.rank == 1


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The rate at which a model that had no part in making the images names the words that they were made from."""

    judge: str
    n_prompts: int
    """Among how many prompts it had to find the right one."""
    verdicts: Sequence[Verdict]
    """Verdicts on the image of each prompt that its maker finds best."""
    interval: tuple[float, float]
    """95% interval of the rate (Wilson 1927)."""

    @property
    def n_right(self) -> int:
        """Images whose prompt ranks first."""
        return sum(verdict.right for verdict in self.verdicts)

    @property
    def rate(self) -> float:
        """The share of images whose prompt ranks first."""
        return self.n_right / len(self.verdicts)

    @property
    def chance(self) -> float:
        """The rate of a judge that guesses."""
        return 1 / self.n_prompts

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {
            "judge": self.judge,
            "right": self.n_right,
            "pictures": len(self.verdicts),
            "prompts": self.n_prompts,
            "rate": self.rate,
            "interval": self.interval,
            "chance": self.chance,
            "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
        }
        return {name: rounded(value) for name, value in values.items()}


def rounded(value: Any) -> Any:
    """A value as JSON has it, floats with four decimals."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def best_of_each(images: Sequence[MadeImage]) -> list[MadeImage]:
    """The image with the highest similarity of each prompt, in the order of the prompts."""
    best: dict[str, MadeImage] = {}
    for image in images:
        if image.prompt not in best or image.similarity > best[image.prompt].similarity:
            best[image.prompt] = image
    return list(best.values())


def check_judge(judge: Encoder, makers: Sequence[Encoder], prompts: Sequence[str]) -> None:
    """Raises InputError where the judge made the images itself, or has no two different prompts to tell apart."""
    if judge.identity in [maker.identity for maker in makers]:
        raise InputError(
            f"The judge {judge.card.name} has the weights of a model that makes the pictures; its verdict would mean "
            "nothing. Name a model of another seed: --judge dir:OTHER_RUN"
        )
    if len(set(prompts)) < 2:
        raise InputError(
            "A judge picks the right prompt among several: give at least two, as with --prompts scenes:50."
        )


def judge_images(images: Sequence[MadeImage], judge: Encoder, *, prompts: Sequence[str]) -> Judgement:
    """The prompt that the judge finds most fitting for the best image of each prompt, best by its maker's similarity.

    Raises ModelError where the judge gives vectors that aren't finite.
    """
    candidates = list(dict.fromkeys(prompts))
    chosen = best_of_each(images)
    image_ND = embed_images(judge, [image.rgb for image in chosen])
    text_PD = embed_texts(judge, candidates)
    right = [np.array([candidates.index(image.prompt)]) for image in chosen]
    ranks = rank_embeddings(image_ND, text_PD, right)
    similarity_NP = image_ND @ text_PD.T
    verdicts = [
        Verdict(
            prompt=image.prompt,
            seed=image.seed,
            rank=float(ranks.expected_ranks[n]),
            similarity=float(similarity_NP[n, right[n][0]]),
            taken_for=candidates[int(similarity_NP[n].argmax())],
        )
        for n, image in enumerate(chosen)
    ]
    n_right = sum(verdict.right for verdict in verdicts)
    return Judgement(
        judge=judge.card.name,
        n_prompts=len(candidates),
        verdicts=verdicts,
        interval=wilson_interval(n_right, len(verdicts)),
    )


def embed_images(encoder: Encoder, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Images of any size (H, W, 3) -> unit vectors (N, D). Raises ModelError where one isn't finite."""
    pixels_NSS3 = np.stack([encoder.card.preprocessing.resize(rgb) for rgb in images])
    image_ND = encoder.encode_images(pixels_NSS3)
    try:
        require_finite_rows(image_ND, what="vectors of pictures")
    except InputError as error:
        raise ModelError(f"{encoder.card.name} gives vectors that aren't finite: {error}") from error
    return image_ND


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """The 95% interval of a rate (Wilson 1927), which holds for few images and near 0 and 1 too."""
    rate = n_right / n
    spread = _Z95 * math.sqrt(rate * (1 - rate) / n + _Z95**2 / (4 * n**2))
    centre, scale = rate + _Z95**2 / (2 * n), 1 + _Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)

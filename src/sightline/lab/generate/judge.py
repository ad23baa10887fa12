"""The judge: a second model that names the prompt of each picture, among all prompts of a run.

The model that made a picture always finds that it fits; that says little. A model of another seed has learned other
weights from the same data, so what it recognises is in the picture and not in the first model's blind spots.
Shape suffixes: N pictures, P prompts, D joint space, S the model's side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError, ModelError
from sightline.lab.evaluation.embedding import embed_texts
from sightline.lab.evaluation.ranks import rank_embeddings, require_finite_rows
from sightline.lab.generate.results import Judgement, MadePicture, Verdict, best_of_each

_Z95 = 1.959964


def check_judge(judge: Encoder, makers: Sequence[Encoder], prompts: Sequence[str]) -> None:
    """Raises InputError where the judge made the pictures itself, or has no two different prompts to tell apart."""
    if judge.identity in [maker.identity for maker in makers]:
        raise InputError(
            f"The judge {judge.card.name} has the weights of a model that makes the pictures; its verdict would mean "
            "nothing. Name a model of another seed: --judge dir:OTHER_RUN"
        )
    if len(set(prompts)) < 2:
        raise InputError(
            "A judge picks the right prompt among several: give at least two, as with --prompts scenes:50."
        )


def judge_pictures(pictures: Sequence[MadePicture], judge: Encoder, *, prompts: Sequence[str]) -> Judgement:
    """Which of the prompts the judge finds most fitting for the best picture of each, best by its maker's similarity.

    Raises ModelError where the judge gives vectors that aren't finite.
    """
    candidates = list(dict.fromkeys(prompts))
    chosen = best_of_each(pictures)
    image_ND = embed_pictures(judge, [picture.rgb for picture in chosen])
    text_PD = embed_texts(judge, candidates)
    right = [np.array([candidates.index(picture.prompt)]) for picture in chosen]
    ranks = rank_embeddings(image_ND, text_PD, right)
    similarity_NP = image_ND @ text_PD.T
    verdicts = [
        Verdict(
            prompt=picture.prompt,
            seed=picture.seed,
            rank=float(ranks.expected_ranks[n]),
            similarity=float(similarity_NP[n, right[n][0]]),
            taken_for=candidates[int(similarity_NP[n].argmax())],
        )
        for n, picture in enumerate(chosen)
    ]
    n_right = sum(verdict.right for verdict in verdicts)
    return Judgement(
        judge=judge.card.name,
        n_prompts=len(candidates),
        verdicts=verdicts,
        interval=wilson_interval(n_right, len(verdicts)),
    )


def embed_pictures(encoder: Encoder, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Pictures of any size (H, W, 3) -> unit vectors (N, D). Raises ModelError where one isn't finite."""
    pixels_NSS3 = np.stack([encoder.card.preprocessing.resize(rgb) for rgb in pictures])
    image_ND = encoder.encode_images(pixels_NSS3)
    try:
        require_finite_rows(image_ND, what="vectors of pictures")
    except InputError as error:
        raise ModelError(f"{encoder.card.name} gives vectors that aren't finite: {error}") from error
    return image_ND


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """The 95% interval of a rate (Wilson 1927), which holds for few pictures and near 0 and 1 too."""
    rate = n_right / n
    spread = _Z95 * math.sqrt(rate * (1 - rate) / n + _Z95**2 / (4 * n**2))
    centre, scale = rate + _Z95**2 / (2 * n), 1 + _Z95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)

"""Composition: whether a model tells a true sentence from one that differs in a single swapped thing.

As in ARO (Yuksekgonul et al. 2023, arXiv:2210.01936) and SugarCrepe (Hsieh et al. 2023, arXiv:2306.14610): for a
image, the true sentence must be more similar than the false one; chance is 50%. Shape suffixes: N comparisons.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.embedding import CountProgress, EvalConfig, embed_images, embed_texts
from sightline.lab.evaluation.results import TIE_TOLERANCE, EvalResult, Figures, mean_of

MEAN = "compose_mean"


class ComposeEvaluator:
    """True sentences against hard negatives."""

    def __init__(self, config: EvalConfig | None = None) -> None:
        self.config = config or EvalConfig()

    def run(self, encoder: Encoder, dataset: Dataset, *, progress: CountProgress | None = None) -> EvalResult:
        """`compose_KIND` for each kind and `compose_mean`, of quartets such as Winoground's `score_quartets` too.

        Raises InputError where no pair has hard negatives.
        """
        started = time.perf_counter()
        rows = [row for row, pair in enumerate(dataset) if pair.negatives]
        if not rows:
            raise InputError(
                f"{dataset.name} has no hard negatives. Sets that have: scenes, sugarcrepe:PATH, aro:PATH and "
                "winoground:PATH."
            )
        images = embed_images(encoder, dataset, batch_size=self.config.batch_size, progress=progress)
        kept = [(place, negative) for place, row in enumerate(images.row_B) for negative in dataset[row].negatives]
        if not kept:
            raise InputError(f"None of the pictures of {dataset.name} that have hard negatives can be read.")
        image_N = np.array([place for place, _ in kept])
        texts = [negative.caption for _, negative in kept] + [negative.negative for _, negative in kept]
        true_ND, false_ND = np.split(embed_texts(encoder, texts), 2)
        kinds = [negative.kind for _, negative in kept]
        image_ND = images.image_BD[image_N]
        figures = [compare_sentences(image_ND, true_ND, false_ND, image_N=image_N, kinds=kinds)]
        if twins := find_twins([(negative.caption, negative.negative) for _, negative in kept]):
            figures.append(score_quartets(image_ND, true_ND, twins))
        return self.config.make_result(
            encoder,
            dataset,
            *figures,
            details={"comparisons": dict(sorted(Counter(kinds).items()))},
            n_images=len(np.unique(image_N)),
            n_texts=len(set(texts)),
            problems=images.problems,
            took_s=time.perf_counter() - started,
        )


def find_twins(sentences: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Comparisons in pairs where the false sentence of each is the true one of the other.

    None unless all comparisons (true sentence, false sentence) come in such pairs, each in one only.
    """
    waiting: dict[tuple[str, str], list[int]] = {}
    twins = []
    for number, (true, false) in enumerate(sentences):
        if others := waiting.get((false, true)):
            twins.append((others.pop(), number))
        else:
            waiting.setdefault((true, false), []).append(number)
    return [] if any(waiting.values()) else twins


def score_quartets(
    image_ND: NDArray[np.float32], true_ND: NDArray[np.float32], twins: Sequence[tuple[int, int]]
) -> Figures:
    """Two images, each with a sentence that is false of the other (Thrush et al. 2022, arXiv:2204.03162, section 3).

    Vectors of the image and the true sentence of each comparison, and which two make a quartet -> the shares
    `winoground_text_score`, `winoground_image_score` and `winoground_group_score`. Right by text where each image
    prefers its sentence, by image where each sentence prefers its image, as a group where both hold; chance is 25%, 25%
    and 16.7%. A tie is not right. Groups are quartets.
    """
    first, second = (np.array(rows) for rows in zip(*twins, strict=True))

    def similar(image_Q: NDArray[np.intp], text_Q: NDArray[np.intp]) -> NDArray[np.float32]:
        similarity_Q: NDArray[np.float32] = np.einsum("qd,qd->q", image_ND[image_Q], true_ND[text_Q])
        return similarity_Q

    own_2Q = np.stack([similar(first, first), similar(second, second)])
    other_2Q = np.stack([similar(first, second), similar(second, first)])
    text_Q = (own_2Q - other_2Q).min(axis=0) > TIE_TOLERANCE
    image_Q = (own_2Q - other_2Q[::-1]).min(axis=0) > TIE_TOLERANCE
    scores = {"text": text_Q, "image": image_Q, "group": text_Q & image_Q}
    return Figures.means({f"winoground_{name}_score": right_Q for name, right_Q in scores.items()})


def compare_sentences(
    image_ND: NDArray[np.float32],
    true_ND: NDArray[np.float32],
    false_ND: NDArray[np.float32],
    *,
    image_N: NDArray[np.int64],
    kinds: Sequence[str],
) -> Figures:
    """`compose_KIND`, how often the true sentence is preferred, and `compose_mean`, the mean over kinds.

    Takes vectors of the image and the two sentences of each comparison, the number of its image, and its kind. No
    preference counts half. Groups are images.
    """
    margin_N = np.einsum("nd,nd->n", image_ND, true_ND - false_ND)
    # two sentences with the same vector are no preference, whatever float32 leaves of their difference
    right_N = np.where(np.abs(margin_N) <= TIE_TOLERANCE, 0.5, margin_N > 0)
    _, image_N = np.unique(image_N, return_inverse=True)  # numbered without gaps: each is drawn alike
    n_images, kinds_N = int(image_N.max()) + 1, np.array(kinds)
    parts = {
        f"compose_{kind}": mean_of(right_N[kinds_N == kind], image_N[kinds_N == kind], n_images)
        for kind in sorted(set(kinds))
    }

    def mean_of_kinds(counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        """NaN where a kind is unknown in a resample."""
        return np.asarray(np.mean([part(counts_SG) for part in parts.values()], axis=0))

    return Figures(statistics={**parts, MEAN: mean_of_kinds}, n_groups=n_images)

"""Composition: whether a model tells a true sentence from one that differs in a single swapped thing.

As in ARO (Yuksekgonul et al. 2023, arXiv:2210.01936) and SugarCrepe (Hsieh et al. 2023, arXiv:2306.14610): for a
image, the true sentence must be more similar than the false one; chance is 50%. Shape suffixes: N comparisons.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.embedding import EvalConfig, describe_encoder, embed_images, embed_texts
from sightline.lab.evaluation.results import (
    TIE_TOLERANCE,
    Bootstrap,
    EvalResult,
    Mean,
    Statistic,
    bootstrap_intervals,
    require_finite_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder
    from sightline.lab.data.base import Dataset
    from sightline.lab.evaluation.embedding import CountProgress, PixelSource
    from sightline.lab.evaluation.results import Interval

MEAN = "compose_mean"


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(EvalConfig):
    """Settings of hard negatives."""


class ComposeEvaluator:
    """True sentences against hard negatives."""

    def __init__(self, config: ComposeConfig | None = None) -> None:
        self.config = config or ComposeConfig()

    def run(
        self,
        encoder: Encoder,
        dataset: Dataset,
        *,
        pixels: PixelSource | None = None,
        progress: CountProgress | None = None,
    ) -> EvalResult:
        """`compose_KIND` for each kind and `compose_mean`, of quartets such as Winoground's three more (`Quartets`).

        Raises InputError where no pair has hard negatives.
        """
        started = time.perf_counter()
        rows = [row for row, pair in enumerate(dataset) if pair.negatives]
        if not rows:
            raise InputError(
                f"{dataset.name} has no hard negatives. Sets that have: scenes, sugarcrepe:PATH, aro:PATH and "
                "winoground:PATH."
            )
        images = embed_images(encoder, dataset, pixels=pixels, batch_size=self.config.batch_size, progress=progress)
        kept = [(place, negative) for place, row in enumerate(images.row_B) for negative in dataset[row].negatives]
        if not kept:
            raise InputError(f"None of the pictures of {dataset.name} that have hard negatives can be read.")
        image_N = np.array([place for place, _ in kept])
        texts = [negative.caption for _, negative in kept] + [negative.negative for _, negative in kept]
        true_ND, false_ND = np.split(embed_texts(encoder, texts), 2)
        kinds = [negative.kind for _, negative in kept]
        image_ND = images.image_BD[image_N]
        choices = compare_sentences(image_ND, true_ND, false_ND, image_N=image_N, kinds=kinds)
        twins = find_twins([(negative.caption, negative.negative) for _, negative in kept])
        quartets = None if twins is None else score_quartets(image_ND, true_ND, twins)
        metrics, intervals = choices.metrics(), choices.intervals(self.config.bootstrap)
        if quartets is not None:
            metrics |= quartets.metrics()
            intervals |= quartets.intervals(self.config.bootstrap)
        return EvalResult(
            model=encoder.card.name,
            data=dataset.name,
            split=dataset.split,
            n_images=len(np.unique(image_N)),
            n_texts=len(set(texts)),
            metrics=metrics,
            intervals=intervals,
            details=describe_encoder(encoder) | {"comparisons": choices.counts()},
            problems=images.problems,
            took_s=time.perf_counter() - started,
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A model's preference in each comparison: 1 the true sentence, 0 the false one, 0.5 neither."""

    right_N: NDArray[np.float64]
    image_N: NDArray[np.int64]
    kinds: tuple[str, ...]
    """The kind of thing that was swapped in each comparison."""

    def metrics(self) -> dict[str, float]:
        """`compose_KIND` for each kind, and `compose_mean`, the mean over kinds, whatever their numbers."""
        figures = {f"compose_{kind}": float(self.right_N[rows_N].mean()) for kind, rows_N in self._by_kind().items()}
        return figures | {MEAN: float(np.mean(list(figures.values())))}

    def counts(self) -> dict[str, int]:
        """Comparisons of each kind."""
        return {kind: len(rows_N) for kind, rows_N in self._by_kind().items()}

    def intervals(self, config: Bootstrap | None = None) -> dict[str, Interval]:
        """The bootstrap interval of each of the `metrics`, from resampling images."""
        n_images = int(self.image_N.max()) + 1
        parts = {
            f"compose_{kind}": Mean(self.right_N[rows_N], self.image_N[rows_N], n_images)
            for kind, rows_N in self._by_kind().items()
        }
        statistics: dict[str, Statistic] = {**parts, MEAN: _MeanOfKinds(list(parts.values()))}
        return bootstrap_intervals(statistics, n_groups=n_images, config=config or Bootstrap())

    def _by_kind(self) -> dict[str, NDArray[np.intp]]:
        kinds_N = np.array(self.kinds)
        return {kind: np.flatnonzero(kinds_N == kind) for kind in sorted(set(self.kinds))}


@dataclass(frozen=True, kw_only=True)
class Quartets:
    """Two images, each with a sentence that is false of the other (Thrush et al. 2022, arXiv:2204.03162, section 3).

    Right by text where each image prefers its sentence, by image where each sentence prefers its image, as a group
    where both hold; chance is 25%, 25% and 16.7%. A tie is not right.
    """

    text_Q: NDArray[np.bool_]
    image_Q: NDArray[np.bool_]

    def metrics(self) -> dict[str, float]:
        """`winoground_text_score`, `winoground_image_score` and `winoground_group_score`."""
        return {name: float(right_Q.mean()) for name, right_Q in self._scores().items()}

    def intervals(self, config: Bootstrap | None = None) -> dict[str, Interval]:
        """The bootstrap interval of each of the `metrics`, from resampling quartets."""
        count = len(self.text_Q)
        statistics = {name: Mean(right_Q, np.arange(count), count) for name, right_Q in self._scores().items()}
        return bootstrap_intervals(statistics, n_groups=count, config=config or Bootstrap())

    def _scores(self) -> dict[str, NDArray[np.float64]]:
        scores = {"text": self.text_Q, "image": self.image_Q, "group": self.text_Q & self.image_Q}
        return {f"winoground_{name}_score": right_Q.astype(np.float64) for name, right_Q in scores.items()}


def find_twins(sentences: Sequence[tuple[str, str]]) -> list[tuple[int, int]] | None:
    """Comparisons in pairs where the false sentence of each is the true one of the other.

    None unless all of some comparisons (true sentence, false sentence) come in such pairs, each in one only.
    """
    waiting: dict[tuple[str, str], list[int]] = {}
    twins = []
    for number, (true, false) in enumerate(sentences):
        if others := waiting.get((false, true)):
            twins.append((others.pop(), number))
        else:
            waiting.setdefault((true, false), []).append(number)
    return None if any(waiting.values()) or not twins else twins


def score_quartets(
    image_ND: NDArray[np.float32], true_ND: NDArray[np.float32], twins: Sequence[tuple[int, int]]
) -> Quartets:
    """Vectors of the image and the true sentence of each comparison, and which two make a quartet."""
    first, second = (np.array(rows) for rows in zip(*twins, strict=True))

    def similar(image_Q: NDArray[np.intp], text_Q: NDArray[np.intp]) -> NDArray[np.float32]:
        similarity_Q: NDArray[np.float32] = np.einsum("qd,qd->q", image_ND[image_Q], true_ND[text_Q])
        return similarity_Q

    own_2Q = np.stack([similar(first, first), similar(second, second)])
    other_2Q = np.stack([similar(first, second), similar(second, first)])
    return Quartets(
        text_Q=(own_2Q - other_2Q).min(axis=0) > TIE_TOLERANCE,
        image_Q=(own_2Q - other_2Q[::-1]).min(axis=0) > TIE_TOLERANCE,
    )


class _MeanOfKinds:
    """Mean of other figures, NaN where one of them is unknown in a resample."""

    def __init__(self, parts: Sequence[Mean]) -> None:
        self._parts = parts
        self.size = max(part.size for part in parts)

    def of(self, counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        means_S: NDArray[np.float64] = np.mean([part.of(counts_SG) for part in self._parts], axis=0)
        return means_S


def compare_sentences(
    image_ND: NDArray[np.float32],
    true_ND: NDArray[np.float32],
    false_ND: NDArray[np.float32],
    *,
    image_N: NDArray[np.int64],
    kinds: Sequence[str],
) -> Choices:
    """Vectors of the image and the two sentences of each comparison, and the number of its image.

    Raises InputError for no comparisons, arrays of different lengths, and values that aren't finite.
    """
    if not len(image_ND) or not image_ND.shape == true_ND.shape == false_ND.shape:
        raise InputError(
            "Each comparison needs a picture, a true and a false sentence in one space; these are "
            f"{image_ND.shape}, {true_ND.shape}, {false_ND.shape}."
        )
    if image_N.shape != (len(image_ND),) or len(kinds) != len(image_ND):
        raise InputError(f"{len(image_ND)} comparisons need as many pictures ({image_N.shape}) and kinds.")
    for vectors_ND, what in ((image_ND, "image"), (true_ND, "true"), (false_ND, "false")):
        require_finite_rows(vectors_ND, what=f"{what} embeddings")
    margin_N = np.einsum("nd,nd->n", image_ND, true_ND - false_ND)
    # two sentences with the same vector are no preference, whatever float32 leaves of their difference
    right_N = np.where(np.abs(margin_N) <= TIE_TOLERANCE, 0.5, margin_N > 0)
    _, image_N = np.unique(image_N, return_inverse=True)  # numbered without gaps: each is drawn alike
    return Choices(right_N=right_N.astype(np.float64), image_N=image_N, kinds=tuple(kinds))

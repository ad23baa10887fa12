"""Linear probe: how well a logistic regression on frozen embeddings classifies.

Radford et al. 2021 (arXiv:2103.00020), section 3.2 and appendix A.3: L-BFGS, no augmentation, the regularisation chosen
on a held-out part of the training split. They take the features before the joint space; an `Encoder` gives normalised
vectors of the joint space, which is what everything else in Sightline uses, and so what is probed. Needs scikit-learn.
Shape suffixes: B images, C classes, D dimension of the joint space.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.errors import InputError
from sightline.lab.evaluation.embedding import check_batch_size, describe_encoder, embed_images
from sightline.lab.evaluation.labelled import labels_of, require_labels
from sightline.lab.evaluation.ranks import TIE_TOLERANCE, rank_similarities, require_finite_rows
from sightline.lab.evaluation.results import Bootstrap, EvalResult
from sightline.lab.evaluation.zeroshot import ClassRanks, check_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder
    from sightline.lab.data.base import Dataset
    from sightline.lab.evaluation.embedding import Progress

_PATIENCE = 2
"""Values of C tried after the best so far."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the regression is fitted."""

    cs: tuple[float, ...] = tuple(10.0**power for power in range(-3, 5))
    """Inverse strengths of the regularisation to choose from, weakest last."""
    held_out: float = 0.2
    """Share of each class's training pictures that C is chosen on."""
    max_iterations: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for settings that can't be met."""
        if not self.cs or min(self.cs) <= 0 or list(self.cs) != sorted(self.cs):
            raise InputError(f"cs must be positive and ascending, got {list(self.cs)}.")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out must lie between 0 and 1, got {self.held_out}.")
        if self.max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {self.max_iterations}.")


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """How a linear probe is measured."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    batch_size: int = 64
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        """Raises InputError for settings that can't be met."""
        check_batch_size(self.batch_size)


class LinearProbeEvaluator:
    """A logistic regression on frozen image vectors."""

    def __init__(self, config: LinearProbeConfig | None = None) -> None:
        self.config = config or LinearProbeConfig()

    def run(
        self, encoder: Encoder, dataset: Dataset, *, train: Dataset, progress: Progress | None = None
    ) -> EvalResult:
        """`acc1`, `acc5` and `mean_per_class_recall` on `dataset` after fitting on `train`.

        Raises InputError where labels are missing, the classes differ, or a picture is in both sets.
        """
        started = time.perf_counter()
        n_classes = _check_same_classes(train, dataset)
        batch_size = self.config.batch_size
        learnt = embed_images(encoder, train, batch_size=batch_size, progress=progress)
        images = embed_images(encoder, dataset, batch_size=batch_size, progress=progress)
        probe = fit_probe(learnt.image_BD, labels_of(train, learnt), n_classes=n_classes, config=self.config.probe)
        ranks = rank_by_probe(probe, images.image_BD, labels_of(dataset, images))
        fitted = {
            "n_train": len(learnt.image_BD),
            "C": probe.c,
            "held_out_acc1": probe.held_out_acc1,
            "converged": probe.converged,
        }
        return EvalResult(
            model=encoder.card.name,
            data=dataset.name,
            split=dataset.split,
            n_images=len(images.image_BD),
            n_texts=0,
            metrics=ranks.metrics(),
            intervals=ranks.intervals(self.config.bootstrap),
            details=describe_encoder(encoder) | {"n_classes": n_classes} | fitted,
            problems=learnt.problems + images.problems,
            took_s=time.perf_counter() - started,
        )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fitted regression on scaled vectors."""

    mean_D: NDArray[np.float64]
    scale: float
    weight_CD: NDArray[np.float64]
    bias_C: NDArray[np.float64]
    """Minus infinity for classes that had no picture to learn from."""
    c: float
    """The C that was chosen."""
    held_out_acc1: float | None
    """What it reached on the held-out pictures; None where there was only one C."""
    converged: bool

    def logits(self, image_BD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Vectors -> (B, C)."""
        scaled_BD = (image_BD - self.mean_D) / self.scale
        logits_BC: NDArray[np.float64] = scaled_BD @ self.weight_CD.T + self.bias_C
        return logits_BC


def fit_probe(
    image_BD: NDArray[np.float32], label_B: NDArray[np.int64], *, n_classes: int, config: ProbeConfig | None = None
) -> Probe:
    """Choose C on a held-out part of these vectors, then fit on all of them.

    Raises InputError where the pictures show fewer than two classes, a value isn't finite, or scikit-learn is missing.
    """
    config = config or ProbeConfig()
    label_B = check_labels(label_B, n_images=len(image_BD), n_classes=n_classes)
    require_finite_rows(image_BD, what="training embeddings")
    if len(np.unique(label_B)) < 2:
        raise InputError("A linear probe needs training pictures of at least two classes.")
    # One factor for all dimensions: it only renames C, and L-BFGS converges in far fewer steps than on unit vectors.
    mean_D = image_BD.mean(axis=0, dtype=np.float64)
    scale = float((image_BD - mean_D).std()) or 1.0
    scaled_BD = ((image_BD - mean_D) / scale).astype(np.float32)
    c, reached = _choose_c(scaled_BD, label_B, config)
    model, converged = _fit(_regression(config, c), scaled_BD, label_B)
    weight_CD, bias_C = np.zeros((n_classes, image_BD.shape[1])), np.full(n_classes, -np.inf)
    if len(model.classes_) == 2:  # one row, the logit of the second class
        weight_CD[model.classes_[1]], bias_C[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weight_CD[model.classes_], bias_C[model.classes_] = model.coef_, model.intercept_
    return Probe(
        mean_D=mean_D,
        scale=scale,
        weight_CD=weight_CD,
        bias_C=bias_C,
        c=c,
        held_out_acc1=reached,
        converged=converged,
    )


def rank_by_probe(probe: Probe, image_BD: NDArray[np.float32], label_B: NDArray[np.int64]) -> ClassRanks:
    """Rank all classes for each picture by the probe's logits. Raises InputError as `rank_classes` does."""
    n_classes = len(probe.bias_C)
    label_B = check_labels(label_B, n_images=len(image_BD), n_classes=n_classes)
    require_finite_rows(image_BD, what="image embeddings")
    ranks = rank_similarities(probe.logits(image_BD), list(label_B[:, None]), TIE_TOLERANCE)
    return ClassRanks(ranks=ranks, label_B=label_B, n_classes=n_classes)


def _choose_c(
    scaled_BD: NDArray[np.float32], label_B: NDArray[np.int64], config: ProbeConfig
) -> tuple[float, float | None]:
    """The C that classifies held-out pictures best, and how well; ties go to the stronger regularisation."""
    if len(config.cs) == 1:
        return config.cs[0], None
    held_B = hold_out(label_B, share=config.held_out, seed=config.seed)
    if not held_B.any():
        raise InputError(
            "No class has two training pictures, so none can be held out to choose C; use more, or give one C."
        )
    model = _regression(config, config.cs[0])
    reached: list[float] = []
    for c in config.cs:  # each fit starts where the last ended
        model, _ = _fit(model.set_params(C=c), scaled_BD[~held_B], label_B[~held_B])
        reached.append(float(model.score(scaled_BD[held_B], label_B[held_B])))
        if len(reached) - 1 - int(np.argmax(reached)) >= _PATIENCE:
            break
    best = int(np.argmax(reached))
    return config.cs[best], reached[best]


def hold_out(label_B: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """Which pictures are held out (B,): this share of each class, at least one where a class has two, never all."""
    rng = np.random.default_rng(seed)
    held_B = np.zeros(len(label_B), bool)
    for label in np.unique(label_B):
        rows = rng.permutation(np.flatnonzero(label_B == label))
        held_B[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held_B


def _regression(config: ProbeConfig, c: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError(
            "The linear probe needs scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    return LogisticRegression(C=c, max_iter=config.max_iterations, warm_start=True)


def _fit(model: Any, scaled_BD: NDArray[np.float32], label_B: NDArray[np.int64]) -> tuple[Any, bool]:
    """The fitted model, and whether it converged within its iterations."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says it
        model.fit(scaled_BD, label_B)
    return model, int(np.max(model.n_iter_)) < model.max_iter


def _check_same_classes(train: Dataset, dataset: Dataset) -> int:
    names = require_labels(dataset).class_names or ()
    if require_labels(train).class_names != names:
        raise InputError(f"{train.name} and {dataset.name} have different classes; a probe needs the same ones.")
    if train.name == dataset.name and train.split == dataset.split:
        raise InputError(f"A probe that learns on the split {dataset.split} can't be measured on it; take another.")
    return len(names)

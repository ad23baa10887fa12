"""Classification of images: zero-shot by sentences with the classes' names, and by a linear probe.

Zero-shot: each class is the mean of sentences, prompt templates with `{}` where the name goes, and an image is of the
nearest class (Radford et al. 2021, arXiv:2103.00020, section 3.1).

Linear probe: a logistic regression on frozen embeddings (section 3.2 and appendix A.3): L-BFGS, no augmentation, the
regularisation chosen on a held-out part of the training split. They take the features before the joint space
(`pooled`); the default are the normalised vectors of the joint space, which is what everything else in Sightline uses.
It needs scikit-learn. Shape suffixes: B images, C classes, P prompts of a class, D dimension of the joint
space.
"""

from __future__ import annotations

import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Encoder
from sightline.errors import InputError
from sightline.lab.data.base import Dataset
from sightline.lab.evaluation.classic_sets import read_imagenet
from sightline.lab.evaluation.embedding import CountProgress, EvalConfig, embed_images, embed_texts
from sightline.lab.evaluation.labelled import IMAGENET, labels_of, require_labels
from sightline.lab.evaluation.results import (
    TIE_TOLERANCE,
    EvalResult,
    Figures,
    Ranks,
    mean_of,
    mean_of_classes,
    rank_embeddings,
    rank_similarities,
)

DEFAULT_PROMPTS = "photos"
HOLE = "{}"
NamesUsed = Literal["first", "all"]
"""Names of a class that become sentences: the most usual one, or its synonyms too."""
Features = Literal["projected", "pooled"]
"""What a linear probe learns from: the normalised vectors of the joint space, or the features before the projection."""
_SMALLEST_NORM = 1e-6
_HELD_OUT = 0.2
"""Share of each class's training images that C is chosen on."""


@cache
def known_prompts() -> dict[str, tuple[str, ...]]:
    """The sets of templates that Sightline brings, by name; `imagenet` is OpenAI's 80."""
    text = resources.files("sightline.lab.evaluation").joinpath("prompts.toml").read_text(encoding="utf-8")
    sets = {name: tuple(values["templates"]) for name, values in tomllib.loads(text).items()}
    return {**sets, IMAGENET: tuple(read_imagenet()["templates"])}


def default_templates() -> tuple[str, ...]:
    """The set that is used when none is named."""
    return known_prompts()[DEFAULT_PROMPTS]


def load_prompts(name_or_path: str) -> tuple[str, ...]:
    """Templates of a known set, or of a file with one on each line (empty lines and those from `#` are passed over).

    Raises InputError for a name that is neither, and for a line without exactly one `{}`.
    """
    if name_or_path in known_prompts():
        return known_prompts()[name_or_path]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = ", ".join(known_prompts())
        raise InputError(f"{name_or_path!r} is neither a file nor a set of prompts; the sets are {known}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text: {error}") from error
    templates = [
        check_template(line.strip(), where=f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not templates:
        raise InputError(f"{path} has no prompt; write one on each line, such as: a photo of a {HOLE}")
    return tuple(templates)


def prompts_for(address: str | None, name_or_path: str | None) -> tuple[str, ...]:
    """The templates that are named; else OpenAI's for `imagenet:PATH`, and the default for other data."""
    default = IMAGENET if (address or "").startswith(f"{IMAGENET}:") else DEFAULT_PROMPTS
    return load_prompts(name_or_path or default)


def check_template(template: str, *, where: str) -> str:
    """The template. Raises InputError, naming `where`, unless it holds exactly one `{}`."""
    if template.count(HOLE) != 1:
        raise InputError(f"{where}: {template!r} must hold {HOLE} exactly once, where the name of the class goes.")
    return template


def fill(template: str, name: str) -> str:
    """The sentence of one class; braces in the name stay as they are."""
    return template.replace(HOLE, name)


@dataclass(frozen=True, kw_only=True)
class ZeroshotConfig(EvalConfig):
    """Settings of zero-shot classification."""

    templates: tuple[str, ...] = field(default_factory=default_templates)
    names: NamesUsed = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in self.templates:
            check_template(template, where="Prompt")


class ZeroshotEvaluator:
    """Zero-shot classification of a data set with labels."""

    def __init__(self, config: ZeroshotConfig | None = None) -> None:
        self.config = config or ZeroshotConfig()

    def run(self, encoder: Encoder, dataset: Dataset, *, progress: CountProgress | None = None) -> EvalResult:
        """`acc1`, `acc5` and `mean_per_class_recall`. Raises InputError where images have no labels."""
        started = time.perf_counter()
        class_names = require_labels(dataset).class_names or ()
        class_CD = embed_classes(encoder, class_names, self.config.templates, names=self.config.names)
        images = embed_images(encoder, dataset, batch_size=self.config.batch_size, progress=progress)
        figures = rank_classes(images.image_BD, class_CD, labels_of(dataset, images))
        names_used = sum(len(names[: 1 if self.config.names == "first" else None]) for names in class_names)
        return self.config.make_result(
            encoder,
            dataset,
            figures,
            details={"n_classes": len(class_names), "prompts": list(self.config.templates)},
            n_images=len(images.image_BD),
            n_texts=names_used * len(self.config.templates),
            problems=images.problems,
            took_s=time.perf_counter() - started,
        )


def class_figures(ranks: Ranks, label_B: NDArray[np.int64], *, n_classes: int) -> Figures:
    """`acc1`, `acc5` (of five classes or more) and `mean_per_class_recall` over the classes that have images.

    `ranks` are those of each image's own class among all. Groups are images.
    """
    image_B = np.arange(len(label_B))
    statistics = {
        f"acc{k}": mean_of(ranks.found_at(k), image_B, len(image_B)) for k in (1, 5) if k == 1 or k <= n_classes
    }
    statistics["mean_per_class_recall"] = mean_of_classes(ranks.found_at(1), label_B)
    return Figures(statistics=statistics, n_groups=len(image_B))


def embed_classes(
    encoder: Encoder, class_names: Sequence[Sequence[str]], templates: Sequence[str], *, names: NamesUsed = "first"
) -> NDArray[np.float32]:
    """Names of each class -> (C, D): the mean of its sentences' normalised vectors, normalised again.

    Raises InputError for no templates, a class without a name, or sentences whose vectors cancel out.
    """
    if names not in get_args(NamesUsed):
        raise InputError(f"names must be one of {', '.join(get_args(NamesUsed))}, got {names!r}.")
    if not templates:
        raise InputError("Zero-shot classification needs at least one prompt.")
    used = [tuple(several)[: 1 if names == "first" else None] for several in class_names]
    if nameless := [index for index, several in enumerate(used) if not several or not all(several)]:
        raise InputError(f"Class {nameless[0]} has no name, or an empty one.")
    sentences = [[fill(template, name) for name in several for template in templates] for several in used]
    prompt_PD = embed_texts(encoder, [sentence for several in sentences for sentence in several])
    starts_C = np.cumsum([0, *map(len, sentences)])[:-1]
    mean_CD = np.add.reduceat(prompt_PD.astype(np.float64), starts_C, axis=0) / np.array([[len(s)] for s in sentences])
    norm_C1 = np.linalg.norm(mean_CD, axis=1, keepdims=True)
    if (norm_C1 < _SMALLEST_NORM).any():
        index = int((norm_C1[:, 0] < _SMALLEST_NORM).argmax())
        raise InputError(f"The sentences of class {index} ({used[index][0]}) cancel each other out.")
    class_CD: NDArray[np.float32] = (mean_CD / norm_C1).astype(np.float32)
    return class_CD


def rank_classes(image_BD: NDArray[np.float32], class_CD: NDArray[np.float32], label_B: NDArray[np.int64]) -> Figures:
    """The `class_figures` of ranking all classes for each image by dot product; labels are rows of `class_CD`."""
    return class_figures(rank_embeddings(image_BD, class_CD, list(label_B[:, None])), label_B, n_classes=len(class_CD))


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of the regression."""

    cs: tuple[float, ...] = tuple(10.0**power for power in range(-3, 5))
    """Inverse strengths of the regularisation to choose from, weakest last."""
    max_iterations: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cs or min(self.cs) <= 0 or list(self.cs) != sorted(self.cs):
            raise InputError(f"cs must be positive and ascending, got {list(self.cs)}.")
        if self.max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {self.max_iterations}.")


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(EvalConfig):
    """Settings of a linear probe."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    features: Features = "projected"


class LinearProbeEvaluator:
    """A logistic regression on frozen image vectors."""

    def __init__(self, config: LinearProbeConfig | None = None) -> None:
        self.config = config or LinearProbeConfig()

    def run(
        self, encoder: Encoder, dataset: Dataset, *, train: Dataset, progress: CountProgress | None = None
    ) -> EvalResult:
        """`acc1`, `acc5` and `mean_per_class_recall` on `dataset` after fitting on `train`.

        Raises InputError where labels are missing, the classes differ, or an image is in both sets.
        """
        started = time.perf_counter()
        n_classes = _check_same_classes(train, dataset)
        batch_size = self.config.batch_size
        encode = encoder.encode_images if self.config.features == "projected" else _features_of(encoder)
        learnt = embed_images(encoder, train, batch_size=batch_size, progress=progress, encode=encode)
        images = embed_images(encoder, dataset, batch_size=batch_size, progress=progress, encode=encode)
        probe = fit_probe(learnt.image_BD, labels_of(train, learnt), n_classes=n_classes, config=self.config.probe)
        figures = rank_by_probe(probe, images.image_BD, labels_of(dataset, images))
        fitted = {
            "n_classes": n_classes,
            "features": self.config.features,
            "n_train": len(learnt.image_BD),
            "C": probe.c,
            "held_out_acc1": probe.held_out_acc1,
            "converged": probe.converged,
        }
        return self.config.make_result(
            encoder,
            dataset,
            figures,
            details=fitted,
            n_images=len(images.image_BD),
            n_texts=0,
            problems=learnt.problems + images.problems,
            took_s=time.perf_counter() - started,
        )


def _features_of(encoder: Encoder) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """What gives an encoder's features before the projection. Raises InputError where it has none to give."""
    give = getattr(encoder, "encode_features", None)

    def encode(pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        features_BF: NDArray[np.float32] | None = None if give is None else give(pixels_BHW3)
        if features_BF is None:
            raise InputError(
                f"{encoder.card.name} gives no features before a projection: a CLIP or SigLIP does, run by PyTorch "
                "(--runtime torch). Take --features projected."
            )
        return features_BF

    return encode


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fitted regression on scaled vectors."""

    mean_D: NDArray[np.float64]
    scale: float
    model: Any
    """scikit-learn's."""
    n_classes: int
    c: float
    """The C that was chosen."""
    held_out_acc1: float | None
    """Accuracy on the held-out images; None where there was only one C."""
    converged: bool

    def logits(self, image_BD: NDArray[np.float32]) -> NDArray[np.float64]:
        """Vectors -> (B, C): minus infinity for classes that had no image to learn from."""
        known_BK = self.model.decision_function((image_BD - self.mean_D) / self.scale)
        if known_BK.ndim == 1:  # of two classes, the logit of the second
            known_BK = np.stack([np.zeros_like(known_BK), known_BK], axis=1)
        logits_BC = np.full((len(image_BD), self.n_classes), -np.inf)
        logits_BC[:, self.model.classes_] = known_BK
        return logits_BC


def fit_probe(
    image_BD: NDArray[np.float32], label_B: NDArray[np.int64], *, n_classes: int, config: ProbeConfig | None = None
) -> Probe:
    """Choose C on a held-out part of these vectors, then fit on all of them.

    Raises InputError where the images show fewer than two classes, or scikit-learn is missing.
    """
    config = config or ProbeConfig()
    if len(np.unique(label_B)) < 2:
        raise InputError("A linear probe needs training pictures of at least two classes.")
    # One factor for all dimensions: it only renames C, and L-BFGS converges in far fewer steps than on unit vectors.
    mean_D = image_BD.mean(axis=0, dtype=np.float64)
    scale = float((image_BD - mean_D).std()) or 1.0
    scaled_BD = ((image_BD - mean_D) / scale).astype(np.float32)
    c, reached = _choose_c(scaled_BD, label_B, config)
    model, converged = _fit(_regression(config, c), scaled_BD, label_B)
    return Probe(
        mean_D=mean_D, scale=scale, model=model, n_classes=n_classes, c=c, held_out_acc1=reached, converged=converged
    )


def rank_by_probe(probe: Probe, image_BD: NDArray[np.float32], label_B: NDArray[np.int64]) -> Figures:
    """As `rank_classes`, by the probe's logits."""
    ranks = rank_similarities(probe.logits(image_BD), list(label_B[:, None]), TIE_TOLERANCE)
    return class_figures(ranks, label_B, n_classes=probe.n_classes)


def _choose_c(
    scaled_BD: NDArray[np.float32], label_B: NDArray[np.int64], config: ProbeConfig
) -> tuple[float, float | None]:
    """The C that classifies held-out images best, and how well; ties go to the stronger regularisation."""
    if len(config.cs) == 1:
        return config.cs[0], None
    held_B = hold_out(label_B, share=_HELD_OUT, seed=config.seed)
    if not held_B.any():
        raise InputError(
            "No class has two training pictures, so none can be held out to choose C; use more, or give one C."
        )
    model = _regression(config, config.cs[0])
    reached: list[float] = []
    for c in config.cs:  # each fit starts where the last ended
        model, _ = _fit(model.set_params(C=c), scaled_BD[~held_B], label_B[~held_B])
        reached.append(float(model.score(scaled_BD[held_B], label_B[held_B])))
        if len(reached) - 1 - int(np.argmax(reached)) >= 2:  # values of C tried after the best so far
            break
    best = int(np.argmax(reached))
    return config.cs[best], reached[best]


def hold_out(label_B: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """The images that are held out (B,): this share of each class, at least one where a class has two, never all."""
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

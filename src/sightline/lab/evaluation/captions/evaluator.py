"""Measuring captions: those that a captioner writes now, or those of a result file.

Shape suffixes: N images, T references, D dimension of the joint space.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.models.base import GenerationConfig
from sightline.errors import InputError
from sightline.lab.evaluation.captions.clipscore import PROMPT, clip_score, ref_clip_score
from sightline.lab.evaluation.captions.generating import generate_captions
from sightline.lab.evaluation.captions.metrics import (
    CLIP_METRICS,
    METRICS,
    WORD_METRICS,
    caption_intervals,
    check_metrics,
    score_words,
)
from sightline.lab.evaluation.captions.results_file import check_writable, read_results, write_results
from sightline.lab.evaluation.embedding import check_batch_size, embed_images, embed_texts
from sightline.lab.evaluation.results import Bootstrap, EvalResult

if TYPE_CHECKING:
    from sightline.core.models.base import Captioner, Encoder
    from sightline.lab.data.base import Dataset
    from sightline.lab.evaluation.embedding import Progress
    from sightline.lab.evaluation.results import Interval, Problem


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """How captions are written and measured."""

    metrics: tuple[str, ...] | None = None
    """Names of `METRICS`; None measures all that can be: CLIPScore needs an encoder."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    batch_size: int = 16
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        """Raises InputError for settings that can't be met, and for METEOR and SPICE with what to use instead."""
        check_batch_size(self.batch_size)
        if self.metrics is not None:
            check_metrics(self.metrics)

    def choose_metrics(self, encoder: Encoder | None) -> tuple[str, ...]:
        """The metrics to measure. Raises InputError where one was asked for that lacks its encoder."""
        names = check_metrics(self.metrics or (METRICS if encoder is not None else WORD_METRICS))
        if encoder is None and (needs := [name for name in names if name in CLIP_METRICS]):
            raise InputError(
                f"{' and '.join(needs)} compare captions with images in the space of an encoder; name one, such as "
                "ViT-B-32/openai, which published figures are of."
            )
        return names


class CaptionEvaluator:
    """The captions that a model writes for a data set, against its references."""

    def __init__(self, config: CaptionConfig | None = None) -> None:
        self.config = config or CaptionConfig()

    def run(
        self,
        captioner: Captioner,
        dataset: Dataset,
        *,
        encoder: Encoder | None = None,
        output: Path | None = None,
        progress: Progress | None = None,
    ) -> EvalResult:
        """Write a caption for each picture, keep them in a new COCO result file `output`, and measure them.

        Raises InputError for pairs without captions, a metric that lacks its encoder, an `output` that exists or can't
        be written, and where no picture can be read.
        """
        started = time.perf_counter()
        config = self.config
        names = config.choose_metrics(encoder)
        _check_references(dataset, names)
        if output is not None:
            check_writable(output)
        written = generate_captions(
            captioner, dataset, config.generation, batch_size=config.batch_size, progress=progress
        )
        if output is not None:
            ids = (pair.id for pair in written.dataset)
            write_results(output, dict(zip(ids, written.captions, strict=True)), dataset)
        measured = _measure(written.captions, written.dataset, names, encoder=encoder, config=config)
        return EvalResult(
            model=captioner.card.name,
            data=dataset.name,
            split=dataset.split,
            n_images=len(written.dataset),
            n_texts=written.dataset.n_captions,
            metrics=measured.metrics,
            intervals=measured.intervals,
            details={"runtime": captioner.runtime, "generation": asdict(config.generation), **measured.details},
            problems=written.problems + measured.problems,
            took_s=time.perf_counter() - started,
        )


def evaluate_results_file(
    path: Path,
    dataset: Dataset,
    *,
    encoder: Encoder | None = None,
    config: CaptionConfig | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Measure the captions of a COCO result file, `[{"image_id": 42, "caption": "..."}, ...]`; `model` is its path.

    The file must hold one caption for each picture of the data set and no other. Raises InputError where it doesn't,
    for pairs without captions, and for a metric that lacks its encoder.
    """
    started = time.perf_counter()
    config = config or CaptionConfig()
    names = config.choose_metrics(encoder)
    _check_references(dataset, names)
    captions = read_results(path, dataset)
    measured = _measure(captions, dataset, names, encoder=encoder, config=config, progress=progress)
    return EvalResult(
        model=str(path),
        data=dataset.name,
        split=dataset.split,
        n_images=len(dataset),
        n_texts=dataset.n_captions,
        metrics=measured.metrics,
        intervals=measured.intervals,
        details=measured.details,
        problems=measured.problems,
        took_s=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def only(self, names: Sequence[str]) -> _Measured:
        return _Measured(
            metrics={name: self.metrics[name] for name in names if name in self.metrics},
            intervals={name: self.intervals[name] for name in names if name in self.intervals},
            details=self.details,
            problems=self.problems,
        )


def _check_references(dataset: Dataset, names: Sequence[str]) -> None:
    without = [pair.id for pair in dataset if not pair.captions]
    if without and set(names) != {"CLIPScore"}:
        raise InputError(
            f"{len(without)} of the {len(dataset)} pictures of {dataset.name} have no captions to compare with, "
            f"such as {without[0]}; only CLIPScore needs none."
        )


def _measure(
    captions: Sequence[str],
    dataset: Dataset,
    names: Sequence[str],
    *,
    encoder: Encoder | None,
    config: CaptionConfig,
    progress: Progress | None = None,
) -> _Measured:
    """The figures of one caption for each pair."""
    parts = []
    if set(names) & set(WORD_METRICS):
        scores = score_words(captions, [pair.captions for pair in dataset])
        intervals = caption_intervals(scores, {}, config=config.bootstrap)
        parts.append(_Measured(metrics=scores.metrics(), intervals=intervals))
    if encoder is not None and set(names) & set(CLIP_METRICS):
        parts.append(_measure_by_clip(encoder, captions, dataset, config=config, progress=progress))
    together = _Measured(
        metrics={name: value for part in parts for name, value in part.metrics.items()},
        intervals={name: ends for part in parts for name, ends in part.intervals.items()},
        details={name: value for part in parts for name, value in part.details.items()},
        problems=tuple(problem for part in parts for problem in part.problems),
    )
    return together.only(names)


def _measure_by_clip(
    encoder: Encoder, captions: Sequence[str], dataset: Dataset, *, config: CaptionConfig, progress: Progress | None
) -> _Measured:
    """CLIPScore and, where all pairs have references, RefCLIPScore, of the pictures that can be read."""
    images = embed_images(encoder, dataset, batch_size=config.batch_size, progress=progress)
    caption_ND = embed_texts(encoder, [PROMPT + captions[row] for row in images.row_B])
    means = {"CLIPScore": clip_score(images.image_BD, caption_ND)}
    references = [dataset[row].captions for row in images.row_B]
    if all(references):
        owner_T = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
        reference_TD = embed_texts(encoder, [PROMPT + text for texts in references for text in texts])
        means["RefCLIPScore"] = ref_clip_score(means["CLIPScore"], caption_ND, reference_TD, owner_T)
    return _Measured(
        metrics={name: float(values_N.mean()) for name, values_N in means.items()},
        intervals=caption_intervals(None, means, config=config.bootstrap),
        details={"clipscore_model": encoder.card.name, "clipscore_images": len(images.image_BD)},
        problems=images.problems,
    )

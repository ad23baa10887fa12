"""Several models on the same pictures: quality, speed, memory, disk, and how far their rankings agree.

Speed comes first, while all models are in memory, each in a process of its own: they run in turns, so that what else
the machine does meets all alike, and the median of the rounds counts. Then each embeds the images and is let go. The
models worth having are those that no other beats in quality and speed at once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from sightline.errors import InputError
from sightline.lab.evaluation.classification import check_template, default_templates
from sightline.lab.evaluation.comparison_quality import (
    AgreementMatrix,
    Quality,
    SimilarityTable,
    Vectors,
    choose_metric,
    embed_comparison,
    interval_of_difference,
    measure_agreements,
    measure_quality,
    tabulate_corners,
)
from sightline.lab.evaluation.embedding import EvalConfig
from sightline.lab.evaluation.measured_model import ModelProcess

if TYPE_CHECKING:
    from sightline.core.models.files import Runtime
    from sightline.lab.evaluation.comparison_data import ComparisonData
    from sightline.lab.evaluation.measured_model import MeasuredModel, ModelFacts
    from sightline.lab.evaluation.results import Interval, Problem

    AnyModel = MeasuredModel | ModelProcess

_Running = dict[str, tuple["AnyModel", "ModelFacts"]]
Start = Callable[[str, "Runtime"], "AnyModel"]
"""Makes the model of a name, ready to be loaded."""
StageProgress = Callable[[str, int, int], None]
"""Takes what is done, how far it is, and how far it goes."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(EvalConfig):
    """Settings of a comparison."""

    runtime: Runtime = "auto"
    rounds: int = 5
    """Turns of each model; speeds are medians of them."""
    seconds: float = 0.5
    """Length of one measurement, at least."""
    neighbours: int = 10
    """First places of a ranking in which agreement is counted."""
    quality: str | None = None
    """The metric set against speed; by default the first of `PREFERRED` that was measured."""
    templates: tuple[str, ...] = field(default_factory=default_templates)
    """Prompts of zero-shot classification."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.neighbours < 1 or not self.seconds > 0:
            raise InputError("rounds and neighbours must be at least 1, and seconds above 0.")
        for template in self.templates:
            check_template(template, where="Prompt")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The median of all rounds, and the slowest and the fastest of them."""

    per_s: float
    range_per_s: tuple[float, float]

    @classmethod
    def of(cls, rates_per_s: Sequence[float]) -> Speed:
        """Summary of all rounds."""
        return cls(per_s=median(rates_per_s), range_per_s=(min(rates_per_s), max(rates_per_s)))


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """All that a comparison says of one model."""

    model: str
    random_weights: bool
    facts: ModelFacts
    images: Speed
    texts: Speed
    memory_bytes: int | None
    """The most that loading it and running a batch adds to a process; None where the system doesn't tell."""
    quality: Quality | None = None
    """None for random weights, and where nothing of the kind can be measured."""
    behind: float | None = None
    """The lead of the model that is best in the chosen metric."""
    behind_interval: Interval | None = None
    dominated_by: tuple[str, ...] = ()
    """Models at least as good and as fast, and one of the two strictly."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several models on the same images."""

    data: ComparisonData
    rows: tuple[ModelRow, ...]
    metric: str | None
    """The metric that stands for quality; None where none was measured."""
    n_images: int
    agreement: Mapping[str, AgreementMatrix]
    """`text_to_image` by the queries, `image_to_image` of one half of the images in the other."""
    similarities: SimilarityTable | None
    problems: tuple[Problem, ...]
    machine: str
    took_s: float


def compare_models(
    models: Sequence[str],
    data: ComparisonData,
    *,
    random: Sequence[str] = (),
    config: ComparisonConfig | None = None,
    start: Start = ModelProcess,
    report: StageProgress = lambda what, done, total: None,
) -> Comparison:
    """Compare models by name; those of `random` weights take part in speed, memory and disk only.

    Each runs in a process that `start` makes. Raises InputError for no models, a name that occurs twice and images
    that can't be read, ModelError for a model that can't be loaded.
    """
    config = config or ComparisonConfig()
    names = [*models, *random]
    if not names or len(set(names)) < len(names):
        raise InputError(f"Compare one model or more, each once; these are: {', '.join(names) or 'none'}.")
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        running = _load_models(names, data, config=config, start=start, stack=stack, report=report)
        rows = _time_models(running, random=random, config=config, report=report)
        vectors = {}
        for name in models:
            vectors[name] = embed_comparison(
                running[name][0],
                data,
                templates=config.templates,
                batch_size=config.batch_size,
                progress=partial(report, f"embedding with {name}"),
            )
            running[name][0].close()
    _require_same_images(vectors)
    rows, metric = _add_quality(rows, data, vectors, config=config)
    first = next(iter(vectors.values()), None)
    return Comparison(
        data=data,
        rows=tuple(rows),
        metric=metric,
        n_images=len(first.images.row_B) if first else len(data.dataset),
        agreement=measure_agreements(
            {name: one.query_QD for name, one in vectors.items()},
            {name: one.images.image_BD for name, one in vectors.items()},
            k=config.neighbours,
        ),
        similarities=tabulate_corners(data, vectors) if vectors else None,
        problems=(*data.problems, *(first.images.problems if first else ())),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        took_s=time.perf_counter() - started,
    )


def _load_models(
    names: Sequence[str],
    data: ComparisonData,
    *,
    config: ComparisonConfig,
    start: Start,
    stack: contextlib.ExitStack,
    report: StageProgress,
) -> _Running:
    images = [pair.image for pair in data.dataset.pairs[:64]]
    running: _Running = {}
    for done, name in enumerate(names):
        report(f"loading {name}", done, len(names))
        for _ in range(2):
            model = start(name, config.runtime)
            stack.callback(model.close)
            facts = model.load(images, data.queries[:64])
            if not facts.exported:
                break
            model.close()  # once more, in a process without what only exporting needs
        running[name] = (model, facts)
    return running


def _time_models(
    running: _Running, *, random: Sequence[str], config: ComparisonConfig, report: StageProgress
) -> list[ModelRow]:
    images: dict[str, list[float]] = {name: [] for name in running}
    texts: dict[str, list[float]] = {name: [] for name in running}
    order = list(running)
    for done in range(config.rounds):
        report("timing", done, config.rounds)
        for name in order[done % len(order) :] + order[: done % len(order)]:  # another begins each round
            model, _ = running[name]
            images[name].append(model.time_images(config.seconds))
            texts[name].append(model.time_texts(config.seconds))
    return [
        ModelRow(
            model=name,
            random_weights=name in random,
            facts=facts,
            images=Speed.of(images[name]),
            texts=Speed.of(texts[name]),
            memory_bytes=model.added_bytes(),
        )
        for name, (model, facts) in running.items()
    ]


def _require_same_images(vectors: Mapping[str, Vectors]) -> None:
    """Raises InputError where a file could be read by one model's process and not by another's."""
    rows = [tuple(one.images.row_B) for one in vectors.values()]
    if any(other != rows[0] for other in rows[1:]):
        raise InputError(
            "Some pictures could be read for one model and not for another: the files changed while models were "
            "compared, or lie on a disk that comes and goes. Compare again."
        )


def _add_quality(
    rows: Sequence[ModelRow], data: ComparisonData, vectors: Mapping[str, Vectors], *, config: ComparisonConfig
) -> tuple[list[ModelRow], str | None]:
    """The rows with quality, the distance to the best, and who dominates them; and the metric that these speak of."""
    qualities = {name: measure_quality(data, one, bootstrap=config.bootstrap) for name, one in vectors.items()}
    metric = choose_metric(list(next(iter(qualities.values()), Quality()).metrics), config.quality)
    if metric is None:
        return list(rows), None
    measured = [row for row in rows if row.model in qualities]
    quality_of = {row.model: qualities[row.model].metrics[metric] for row in measured}
    best = max(quality_of, key=quality_of.__getitem__)
    with_quality = []
    for row in measured:
        own, interval = qualities[row.model], None
        if row.model != best:
            interval = interval_of_difference(qualities[best], own, metric, bootstrap=config.bootstrap)
        as_good = [other for other in measured if _dominates(other, row, quality_of)]
        with_quality.append(
            replace(
                row,
                quality=own,
                behind=quality_of[best] - quality_of[row.model],
                behind_interval=interval,
                dominated_by=tuple(other.model for other in as_good),
            )
        )
    return [*with_quality, *(row for row in rows if row.model not in qualities)], metric


def _dominates(one: ModelRow, other: ModelRow, quality_of: Mapping[str, float]) -> bool:
    """True where one is at least as good and as fast as another, and one of the two strictly."""
    ours, theirs = ((quality_of[row.model], row.images.per_s) for row in (one, other))
    return ours != theirs and all(own >= its for own, its in zip(ours, theirs, strict=True))

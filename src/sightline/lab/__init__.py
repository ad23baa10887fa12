"""The lab: sets of image-caption pairs, training, evaluation, experiments and pictures made with a model.

Its five doors are `train`, `evaluate`, `compare`, `sweep` and `report`, the functions that the commands of these names
call. What they need loads when they are first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.core.models.base import Captioner, Encoder
    from sightline.lab.data.base import Dataset
    from sightline.lab.evaluation.comparison import Comparison
    from sightline.lab.evaluation.comparison_data import ComparisonData
    from sightline.lab.evaluation.results import EvalResult
    from sightline.lab.experiments.report_parts import Report, ReportFiles
    from sightline.lab.experiments.sweep import run_sweep as sweep
    from sightline.lab.training.loop import train

__all__ = ["compare", "evaluate", "report", "sweep", "train"]

MEASURES = ("retrieval", "zeroshot", "linear-probe", "compose", "captions", "pointing")


def evaluate(
    model: Encoder | Captioner, dataset: Dataset, *, measure: str = "retrieval", config: Any = None, **more: Any
) -> EvalResult:
    """Measure a model on a data set by one of `MEASURES`: an encoder, or the captioner that `captions` needs.

    `config` is the measure's own, such as `RetrievalConfig`; `more` is what its evaluator takes besides: `progress`,
    the set `train` of a linear probe, `encoder` and `output` of captions. Raises InputError for an unknown measure and
    for a data set that lacks what the measure needs.
    """
    subject: Any = model
    match measure:
        case "retrieval":
            from sightline.lab.evaluation.retrieval import RetrievalEvaluator

            return RetrievalEvaluator(config).run(subject, dataset, **more)
        case "zeroshot":
            from sightline.lab.evaluation.classification import ZeroshotEvaluator

            return ZeroshotEvaluator(config).run(subject, dataset, **more)
        case "linear-probe":
            from sightline.lab.evaluation.classification import LinearProbeEvaluator

            return LinearProbeEvaluator(config).run(subject, dataset, **more)
        case "compose":
            from sightline.lab.evaluation.compose import ComposeEvaluator

            return ComposeEvaluator(config).run(subject, dataset, **more)
        case "captions":
            from sightline.lab.evaluation.captions.evaluator import CaptionEvaluator

            return CaptionEvaluator(config).run(subject, dataset, **more)
        case "pointing":
            from sightline.lab.experiments.explain import pointing_game

            return pointing_game(subject, dataset, config, **more)
    from sightline.errors import InputError

    raise InputError(f"There is no measure {measure!r}. Measures: {', '.join(MEASURES)}.")


def compare(models: Sequence[str], data: str | ComparisonData, **settings: Any) -> Comparison:
    """Compare models by name on an address's images (its val split), or on data that was loaded with more choice.

    `settings` and errors are those of `compare_models`.
    """
    from sightline.lab.evaluation.comparison import compare_models
    from sightline.lab.evaluation.comparison_data import gather_images, is_own_images, load_benchmark

    if isinstance(data, str):
        data = gather_images(data) if is_own_images(data) else load_benchmark(data, split=None)
    return compare_models(models, data, **settings)


def report(runs: Iterable[Path | str], output: Path | str, *, metric: str | None = None) -> tuple[Report, ReportFiles]:
    """Write a page on runs and sweeps, given by their folders; what it says, and its files.

    Raises InputError for a folder that is neither and for a page that can't be written.
    """
    from sightline.lab.experiments.report import write_report
    from sightline.lab.experiments.results import read_results

    return write_report(read_results([Path(run) for run in runs]), Path(output), metric=metric)


def __getattr__(name: str) -> Any:
    """Load a door that is its room's own function."""
    if name == "train":
        from sightline.lab.training.loop import train

        return train
    if name == "sweep":
        from sightline.lab.experiments.sweep import run_sweep

        return run_sweep
    raise AttributeError(f"module 'sightline.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

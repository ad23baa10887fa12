"""`eval retrieval`, `zeroshot`, `linear-probe`, `compose`, `captions` and `pointing`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline import lab
from sightline.core.models.base import GenerationConfig
from sightline.faces.cli.options import (
    COUNT,
    FILE,
    NUMBER,
    PATH,
    CommandGroup,
    choice_option,
    default_option,
    figures_option,
    json_option,
    precision_option,
    require_folder_of,
    split_option,
    take_fields,
    with_options,
)
from sightline.faces.cli.printing import ProgressBar, end_by_problems, print_json, print_table, write_figures
from sightline.kit.pages import write_page
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.models.base import Captioner, Encoder
    from sightline.lab.data.base import Dataset
    from sightline.lab.evaluation.results import Bootstrap, EvalResult

_model_option = click.option(
    "--model", metavar="NAME", required=True, help="The model, such as starter, ViT-B-32/openai or dir:PATH."
)
_shared_options = with_options(
    click.option(
        "--data", metavar="DATA", required=True, help="scenes[:SEED], KIND:PATH such as flickr8k:PATH, or PATH."
    ),
    split_option,
    click.option("--limit", type=COUNT, metavar="N", help="Measure on N pictures, chosen by --seed."),
    default_option("--seed", type=NUMBER, default=0, help="Decides which N, and the resamples of intervals."),
    default_option("--batch-size", type=COUNT, default=64, help="Pictures at once."),
    default_option(
        "--resamples", type=NUMBER, default=1000, help="Bootstrap resamples of the 95% intervals; 0 for none."
    ),
    choice_option("--runtime", "auto", "onnx", "torch", help="What runs the model."),
    precision_option,
    figures_option,
    click.option("--csv", type=FILE, metavar="FILE", help="Add a row with CLIP_benchmark's columns to this file."),
    json_option,
)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The options that all evaluations have."""

    data: str
    split: str | None
    limit: int | None
    seed: int
    batch_size: int
    resamples: int
    runtime: Literal["auto", "onnx", "torch"]
    output: Path | None
    csv: Path | None
    as_json: bool

    @property
    def bootstrap(self) -> Bootstrap:
        from sightline.lab.evaluation.results import Bootstrap

        return Bootstrap(resamples=self.resamples, seed=self.seed)

    def load_captioned(self) -> Dataset:
        from sightline.lab.data.addressing import load_measured

        return load_measured(self.data, split=self.split, limit=self.limit, seed=self.seed)

    def load_labelled(self, classes: Path | None) -> Dataset:
        from sightline.lab.evaluation.labelled import load_labelled

        return load_labelled(self.data, split=self.split, limit=self.limit, seed=self.seed, classes=classes)

    def load_encoder(self, name: str) -> Encoder:
        from sightline.core.models.loading import load_encoder

        return load_encoder(name, runtime=self.runtime)


def _measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the shared options; the command gets them as its first argument, its own by name."""

    @functools.wraps(command)
    def call(**options: Any) -> None:
        settings = take_fields(_Settings, options)
        require_folder_of(settings.output, option="--output")
        require_folder_of(settings.csv, option="--csv")
        command(settings, **{name: value for name, value in options.items() if name not in vars(settings)})

    return _shared_options(call)


@click.group("eval", cls=CommandGroup)
def evaluate() -> None:
    """Measure a model on your pairs: retrieval, classification, composition, captions, where words match.

    Rates are fractions in JSON and percent in tables; every figure comes with a bootstrap interval.
    """


@evaluate.command()
@_model_option
@click.option(
    "--page", type=FILE, metavar="FILE.html", help="Write a page of best and worst results, neighbours and a map too."
)
@_measuring
def retrieval(settings: _Settings, *, model: str, page: Path | None) -> None:
    """Find images by captions and captions by images: recall@1, 5, 10, ranks, mean average precision.

    image_retrieval is text to image. An image with several captions is found when its best-ranked caption is.
    """
    from sightline.lab.evaluation.retrieval import RetrievalConfig, RetrievalEvaluator

    require_folder_of(page, option="--page")
    evaluator = RetrievalEvaluator(RetrievalConfig(batch_size=settings.batch_size, bootstrap=settings.bootstrap))
    dataset = settings.load_captioned()
    encoder = settings.load_encoder(model)
    started = time.perf_counter()
    with ProgressBar("embedding") as bar:
        embedded = evaluator.embed(encoder, dataset, progress=bar.show)
    result = replace(evaluator.measure(encoder, dataset, embedded), took_s=time.perf_counter() - started)
    if page is not None:
        from sightline.lab.evaluation.qualitative import format_retrieval

        write_page(page, format_retrieval(dataset, embedded=embedded, result=result))
    _finish(result, settings, measure="retrieval")


@evaluate.command()
@_model_option
@click.option(
    "--prompts",
    metavar="SET|FILE",
    help="Sentences with {} in them; sets are photos, imagenet (OpenAI's 80), ... [default: imagenet for "
    "imagenet:PATH, else photos].",
)
@click.option("--classes", type=PATH, metavar="FILE", help="Names of the classes, one a line.")
@click.option("--synonyms", is_flag=True, help="Use all names of a class, not only the first.")
@_measuring
def zeroshot(settings: _Settings, *, model: str, prompts: str | None, classes: Path | None, synonyms: bool) -> None:
    """Classify without training: a picture is of the class whose sentences are nearest.

    DATA may be imagenet:PATH (its names are OpenAI's), cifar10, cifar100, food101, pets or dtd:PATH,
    tiny-imagenet:PATH, classes:FOLDER with a folder for each class, or labels:FILE, a CSV or TSV with the columns
    filepath and label.
    """
    from sightline.lab.evaluation.classification import ZeroshotConfig, prompts_for

    config = ZeroshotConfig(
        templates=prompts_for(settings.data, prompts),
        names="all" if synonyms else "first",
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
    )
    dataset = settings.load_labelled(classes)
    _measure(settings, settings.load_encoder(model), dataset, measure="zeroshot", config=config)


@evaluate.command("linear-probe")
@_model_option
@click.option("--limit-train", type=click.IntRange(min=2), metavar="N", help="Learn from N pictures of train.")
@choice_option(
    "--features", "projected", "pooled", help="Learn from vectors of the joint space, or from those before it."
)
@_measuring
def linear_probe(
    settings: _Settings, *, model: str, limit_train: int | None, features: Literal["projected", "pooled"]
) -> None:
    """Fit a logistic regression to the image vectors of train, and classify the split with it.

    Its strength of regularisation is chosen on a held-out fifth of train. Needs scikit-learn. DATA as for zeroshot.
    """
    from sightline.lab.evaluation.classification import LinearProbeConfig, ProbeConfig
    from sightline.lab.evaluation.labelled import load_labelled

    if settings.split in ("train", "all"):
        raise click.UsageError("--split: the probe learns on train; measure it on val or test.")
    config = LinearProbeConfig(
        probe=ProbeConfig(seed=settings.seed),
        features=features,
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
    )
    if features == "pooled" and settings.runtime == "auto":
        settings = replace(settings, runtime="torch")
    if settings.split is None and settings.load_labelled(None).split == "train":
        settings = replace(settings, split="val")
    dataset = settings.load_labelled(None)
    train = load_labelled(settings.data, split="train", limit=limit_train, seed=settings.seed)
    _measure(settings, settings.load_encoder(model), dataset, measure="linear-probe", config=config, train=train)


@evaluate.command()
@_model_option
@_measuring
def compose(settings: _Settings, *, model: str) -> None:
    """Tell true sentences from false ones that differ in one swapped attribute, relation, count or negation.

    Chance is 50%. DATA must have hard negatives: scenes[:SEED], sugarcrepe:PATH, aro:PATH or winoground:PATH.
    """
    from sightline.lab.evaluation.embedding import EvalConfig

    config = EvalConfig(batch_size=settings.batch_size, bootstrap=settings.bootstrap)
    dataset = settings.load_captioned()
    _measure(settings, settings.load_encoder(model), dataset, measure="compose", config=config)


@evaluate.command()
@click.option("--model", metavar="NAME", help="The captioner, such as starter-captioner or blip-base.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Measure these captions (COCO JSON).",
)
@click.option("--encoder", metavar="NAME", help="Add CLIPScore and RefCLIPScore by this model.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this one, such as CIDEr; repeatable.")
@default_option("--beams", type=COUNT, default=3, help="Width of the beam; 1 is greedy.")
@click.option("--save", type=PATH, metavar="FILE", help="Keep the written captions (COCO JSON).")
@_measuring
def captions(
    settings: _Settings,
    *,
    model: str | None,
    results: Path | None,
    encoder: str | None,
    metrics: tuple[str, ...],
    beams: int,
    save: Path | None,
) -> None:
    """Compare captions with the references of a data set: BLEU, ROUGE-L, CIDEr, and CLIPScore by a model.

    They are written by the captioner --model, or read from --results.
    """
    from sightline.core.models.loading import load_captioner
    from sightline.lab.evaluation.captions.evaluator import CaptionConfig, evaluate_results_file

    if (model is None) == (results is None):
        raise click.UsageError("Give either --model, which writes the captions, or --results, which has them.")
    if results is not None and save is not None:
        raise click.UsageError("--save keeps captions that --model writes; those of --results are in a file already.")
    config = CaptionConfig(
        metrics=metrics or None,
        generation=GenerationConfig(beams=beams),
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
    )
    dataset = settings.load_captioned()
    scorer = settings.load_encoder(encoder) if encoder is not None else None
    if model is not None:
        captioner = load_captioner(model, runtime=settings.runtime)
        how: dict[str, Any] = {"config": config, "encoder": scorer, "output": save}
        _measure(settings, captioner, dataset, measure="captions", **how)
        return
    assert results is not None  # one of them is given
    with ProgressBar("embedding") as bar:
        result = evaluate_results_file(results, dataset, encoder=scorer, config=config, progress=bar.show)
    _finish(result, settings, measure="captions")


@evaluate.command()
@_model_option
@choice_option(
    "--method",
    "auto",
    "map",
    "gradient",
    "attention",
    help="How the model is asked where words match, as in sightline explain.",
)
@_measuring
def pointing(settings: _Settings, *, model: str, method: Literal["auto", "map", "gradient", "attention"]) -> None:
    """Ask where words match in scenes, where the true place is known, and count strongest points that lie within.

    pointing_chance is the mean share of the picture that the things take. DATA must be scenes[:SEED]. The method
    decides what runs the model, unless --runtime does.
    """
    from sightline.lab.experiments.explain import PointingConfig, load_explainable

    dataset = settings.load_captioned()
    encoder = load_explainable(model, method=method) if settings.runtime == "auto" else settings.load_encoder(model)
    config = PointingConfig(method=method, bootstrap=settings.bootstrap)
    _measure(settings, encoder, dataset, measure="pointing", config=config)


def _measure(settings: _Settings, model: Encoder | Captioner, dataset: Dataset, *, measure: str, **how: Any) -> None:
    with ProgressBar({"captions": "captioning", "pointing": "pointing"}.get(measure, "embedding")) as bar:
        result = lab.evaluate(model, dataset, measure=measure, progress=bar.show, **how)
    _finish(result, settings, measure=measure)


def _finish(result: EvalResult, settings: _Settings, *, measure: str) -> None:
    """Print the result and keep it; exit code 1 where pictures were left out."""
    values = result.to_dict()
    if settings.output is not None:
        write_figures(settings.output, values)
    if settings.csv is not None:
        from sightline.lab.evaluation.results import append_benchmark_row

        append_benchmark_row(settings.csv, result, measure=measure)
    if settings.as_json:
        print_json(values)
    else:
        _print(result)
    end_by_problems(result.problems)


def _print(result: EvalResult) -> None:
    texts = f", {result.n_texts:,} texts" if result.n_texts else ""
    click.echo(f"{result.model} on {printable(result.data)}, {result.split}: {result.n_images:,} images{texts}")
    print_table(["metric", "value", "95% interval" if result.intervals else ""], result.rows())

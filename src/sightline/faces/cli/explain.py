"""`explain`: where in an image words match; `heatmap`: texts x images; `generate`: images made from words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline.errors import ImageError, InputError, ModelError, install_advice
from sightline.faces.cli.options import (
    COUNT,
    FILE,
    NUMBER,
    PATH,
    choice_option,
    default_option,
    json_option,
    precision_option,
    require_folder_of,
)
from sightline.faces.cli.printing import ProgressBar, end_by_problems, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.evaluation.results import Problem
    from sightline.lab.experiments.explain import Match
    from sightline.lab.experiments.heatmap import HeatmapImage, SimilarityHeatmap
    from sightline.lab.generate.run import GenerateReport

_WORDS_WIDTH = 60
_model_option = click.option(
    "--model", metavar="NAME", help="The model, such as starter or dir:RUN [default: as for a new library]."
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A row of the heatmap; repeatable.")
@click.option("--texts", "texts_file", type=FILE, metavar="FILE", help="Rows of the heatmap, one text a line.")
@_model_option
@click.option("--probability", is_flag=True, help="Softmax over the texts for each picture, instead of cosines.")
@click.option("--cluster", is_flag=True, help="Put texts that are alike side by side, and pictures too.")
@precision_option
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Draw it: a .png, or a .html page.")
@json_option
def heatmap(
    *,
    images: tuple[Path, ...],
    texts: tuple[str, ...],
    texts_file: Path | None,
    model: str | None,
    probability: bool,
    cluster: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare texts with IMAGES, each with each: files, or folders of them.

    \b
    sightline heatmap a.jpg b.jpg --text "a dog" --text "a cat" --output heatmap.png
    """
    from sightline.core.models.loading import load_encoder
    from sightline.lab.experiments.heatmap import make_similarity_heatmap

    _require_ending(output, (".png", ".html"))
    rows = [text.strip() for text in (*texts, *(_read_lines(texts_file) if texts_file is not None else ()))]
    if not all(rows):
        raise click.UsageError("--text: a text is empty. Say what is to be compared, as in --text 'a dog'.")
    if not rows:
        raise click.UsageError("Give texts to compare with: --text 'a dog' --text 'a cat', or --texts FILE.")
    encoder = load_encoder(model or _default_model())
    heatmap_images, problems = _read_images(images)
    if not heatmap_images:
        end_by_problems(problems)
        raise click.UsageError("There are no images in what was given.")
    result = make_similarity_heatmap(encoder, heatmap_images, rows, probability=probability, cluster=cluster)
    if output is not None:
        _write_heatmap(result, output)
    if as_json:
        print_json(result.to_dict())
    else:
        _print_heatmap(result)
    end_by_problems(problems)


@click.command()
@click.argument("photo", type=FILE)
@click.argument("words", nargs=-1, required=True)
@choice_option(
    "--method",
    "auto",
    "map",
    "gradient",
    "attention",
    help="How the model is asked; auto takes what points best on scenes among what it can be asked.",
)
@_model_option
@precision_option
@click.option("-o", "--output", type=FILE, metavar="FILE.png", help="Draw it: the photo, and a panel for each words.")
@json_option
def explain(
    *,
    photo: Path,
    words: tuple[str, ...],
    method: Literal["auto", "map", "gradient", "attention"],
    model: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show where in PHOTO words match; several WORDS in quotes give a panel each.

    Places are percent of the picture from its left and from its top. `here` is the strongest place, `elsewhere` the
    mean outside its box, `deviations` how many standard deviations lie between them. The similarity is that of the
    whole picture: where it is low, the strongest place means little.

    \b
    sightline explain photo.jpg "a red car" "a tree" --output explain.png
    """
    from sightline.core.images.decode import read_image
    from sightline.lab.experiments.explain import explain_image, load_explainable

    _require_ending(output, (".png",))
    try:
        rgb_HW3 = read_image(photo).rgb
    except ImageError as error:
        raise InputError(f"{photo} can't be read: {error.reason}.") from error
    encoder = load_explainable(model or _default_model(), method=method)
    matches = explain_image(encoder, rgb_HW3, words, method=method)
    if output is not None:
        from sightline.lab.experiments.heatmap import draw_matches

        draw_matches(rgb_HW3, matches, output)
        notice(f"Drawn to {output}.")
    if as_json:
        for match in matches:
            print_json({"model": encoder.card.name, **match.to_dict()})
        return
    notice(f"{encoder.card.name} ({encoder.runtime}), method {matches[0].method}")
    headings = ["words", "left", "top", "here", "elsewhere", "deviations", "similarity"]
    print_table(headings, [_row(match) for match in matches])


def _row(match: Match) -> list[str]:
    from sightline.lab.experiments.heatmap import short_line

    (x, y), strength = match.place, match.strength
    return [
        short_line(match.words, _WORDS_WIDTH),
        f"{x:.0%}",
        f"{y:.0%}",
        f"{strength.here:.4f}",
        f"{strength.elsewhere:.4f}",
        f"{strength.deviations:.1f}",
        f"{match.similarity:.3f}",
    ]


def _print_heatmap(result: SimilarityHeatmap) -> None:
    from sightline.lab.experiments.heatmap import short_line

    notice(f"{result.model}, {result.kind}")
    names = [image.name[-24:] for image in result.images]
    rows = [
        [short_line(text, _WORDS_WIDTH), *(f"{value:.3f}" for value in row)]
        for text, row in zip(result.texts, result.values_TB, strict=True)
    ]
    print_table(["text", *map(printable, names)], rows)


def _write_heatmap(result: SimilarityHeatmap, output: Path) -> None:
    from sightline.lab.experiments.heatmap import draw_heatmap, write_heatmap_page

    if output.suffix.lower() == ".png":
        files = draw_heatmap(result, output)
        notice(f"Drawn to {', '.join(map(str, files))}.")
    else:
        write_heatmap_page(result, output)
        notice(f"Drawn to {output}.")


def _require_ending(output: Path | None, endings: Sequence[str]) -> None:
    require_folder_of(output, option="--output")
    if output is not None and output.suffix.lower() not in endings:
        raise click.UsageError(f"--output: {output.name} must end in {' or '.join(endings)}.")


def _default_model() -> str:
    from sightline.core.models.loading import default_model_name

    name, line = default_model_name(confirm=None)
    if line is not None:
        notice(line)
    return name


def _read_lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read as lines of UTF-8 text: {error}.") from error
    return [line for line in lines if line.strip()]


def _read_images(images: Sequence[Path]) -> tuple[list[HeatmapImage], list[Problem]]:
    """Files and the files of folders, in order, and what couldn't be read."""
    from sightline.core.images.decode import read_image
    from sightline.lab.evaluation.results import Problem
    from sightline.lab.experiments.heatmap import HeatmapImage

    heatmap_images: list[HeatmapImage] = []
    problems: list[Problem] = []
    for path in _files_of(images, problems):
        try:
            heatmap_images.append(HeatmapImage(name=path.name, rgb=read_image(path, min_side_px=256).rgb))
        except ImageError as error:
            problems.append(Problem(id=str(path), reason=error.reason))
    return heatmap_images, problems


def _files_of(images: Sequence[Path], problems: list[Any]) -> Iterator[Path]:
    from sightline.core.images.files import walk_images
    from sightline.lab.evaluation.results import Problem

    for path in images:
        if path.is_dir():
            found = walk_images(path, on_problem=lambda at, why: problems.append(Problem(id=str(at), reason=why)))
            yield from (file.path for file in found)
        else:
            yield path


@click.command()
@click.argument("words", nargs=-1)
@click.option("--prompts", "source", metavar="FILE|scenes:N", help="Many prompts: one a line, or captions of N scenes.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="Makes the pictures (several: together), or ranks."
)
@click.option("--output", type=PATH, required=True, metavar="DIR", help="A new folder.")
@default_option("--engine", default="clip", metavar="clip|diffusers:MODEL|flow:DIR", help="What makes them.")
@click.option("--avoid", multiple=True, metavar="WORDS", help="What is not to be seen.")
@click.option("--against", metavar="FILE|DATA", help="Texts to tell pictures from [default: what the model learned].")
@click.option("--judge", metavar="MODEL", help="Another model, which names each picture's prompt among all.")
@click.option(
    "--variant", "variants", multiple=True, metavar="WORDS", help="diffusers, flow: another wording to compare."
)
@click.option("--steps", type=COUNT, help="Steps of each picture [default: clip 80, diffusers 30, flow 20].")
@click.option("--size-px", type=click.IntRange(min=8), help="Side of the pictures [default: the model's].")
@click.option("--seeds", type=COUNT, help="Pictures of each prompt [default: 4; with --prompts 1].")
@default_option("--seed", type=NUMBER, default=0, help="The first seed.")
@click.option("--parameterisation", type=click.Choice(["fourier", "network"]), help="clip: [default: fourier].")
@click.option("--frames", type=NUMBER, help="clip: frames of each GIF [default: 16; with --prompts 0].")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting, as views=8.")
@click.option("--download", is_flag=True, help="Fetch what isn't on this machine from the hub.")
@json_option
def generate(
    *,
    words: tuple[str, ...],
    source: str | None,
    models: tuple[str, ...],
    output: Path,
    engine: str,
    avoid: tuple[str, ...],
    against: str | None,
    judge: str | None,
    variants: tuple[str, ...],
    settings: tuple[str, ...],
    download: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Make pictures from WORDS with a CLIP's own gradients, or with a diffusion model whose pictures it ranks.

    \b
    sightline generate a red circle above a blue square --model dir:runs/scenes --output pictures
    sightline generate --prompts scenes:50 --model dir:runs/scenes --judge dir:runs/other --output judged
    sightline generate a dog in the snow --engine diffusers:PATH --model starter --output dogs
    sightline generate a large solid red circle --engine flow:runs/flow --output circles

    DIR gets the pictures, a contact sheet (sheet.html) and generate.json with all settings and figures.
    """
    from sightline.lab.generate.config import load_prompts

    if bool(words) == (source is not None):
        raise click.UsageError("Give the words, or --prompts FILE or scenes:50.")
    prompts = [" ".join(words)] if source is None else load_prompts(source)
    values = {key: value for key, value in named.items() if value is not None}
    if source is not None:
        values = {"seeds": 1} | values
    common = {"prompts": prompts, "avoid": avoid, "against": against, "judge": judge, "download": download}
    if engine.startswith(("diffusers:", "flow:")):
        pipeline = {"pipeline": engine.removeprefix("diffusers:"), "variants": variants}
        run = _diffuse(models, {**common, **pipeline}, values, settings)
    elif engine != "clip":
        raise click.UsageError(f"--engine is clip, diffusers:MODEL or flow:DIR, not {engine!r}.")
    elif variants:
        raise click.UsageError("--variant compares samples: it needs --engine diffusers:MODEL or flow:DIR.")
    else:
        run = _guide(models, common, values, settings)
    with ProgressBar("generating") as bar:
        report = run(output, report=notice, progress=bar.show)
    _show_generated(report, as_json=as_json)
    if report.stopped is not None:
        raise SystemExit(1)


def _guide(
    models: tuple[str, ...], request: dict[str, Any], values: dict[str, Any], settings: tuple[str, ...]
) -> Callable[..., GenerateReport]:
    """The run of a CLIP's own gradients, once its settings are right."""
    from sightline.lab.generate.config import GuidedConfig, change_config

    if not models:
        raise click.UsageError("--model names what makes the pictures, such as a model you trained: --model dir:RUN")
    if len(request["prompts"]) > 1:
        values = {"frames": 0} | values
    config = change_config(GuidedConfig(**values), settings)
    _require_torch()
    from sightline.lab.generate.run import GuidedRequest, generate_guided

    return partial(generate_guided, GuidedRequest(**request, models=models, config=config))


def _diffuse(
    models: tuple[str, ...], request: dict[str, Any], values: dict[str, Any], settings: tuple[str, ...]
) -> Callable[..., GenerateReport]:
    """The run of a pipeline or a flow, once its settings are right."""
    from sightline.lab.generate.config import FLOW, FLOW_SAMPLING, DiffusionConfig, change_config, read_flow

    if len(models) > 1:
        raise click.UsageError("With a pipeline, one --model ranks the pictures; name one.")
    if misplaced := [name for name in ("parameterisation", "frames") if name in values]:
        raise click.UsageError(f"--{misplaced[0]} is of --engine clip; a pipeline has no such setting.")
    is_flow = request["pipeline"].startswith(FLOW)
    config = change_config(DiffusionConfig(**(dict(FLOW_SAMPLING) if is_flow else {}) | values), settings)
    ranker = read_flow(request["pipeline"].removeprefix(FLOW))[0].init if is_flow else "starter"
    _require_torch()
    from sightline.lab.generate.run import DiffusionRequest, generate_diffused

    model = models[0] if models else ranker
    return partial(generate_diffused, DiffusionRequest(**request, model=model, config=config))


def _require_torch() -> None:
    from sightline.core.models.files import torch_installed

    if not torch_installed():
        raise ModelError(f"Making pictures needs PyTorch: {install_advice('torch')}")


def _show_generated(report: GenerateReport, *, as_json: bool) -> None:
    """stdout: one object, or a table with the best first; stderr: how it went and where everything is."""
    from sightline.lab.generate.run import SETTINGS_FILE, SHEET_FILE, name_images

    named = sorted(zip(name_images(report.images), report.images, strict=True), key=lambda p: -p[1].similarity)
    judgement = report.judgement
    if as_json:
        value: dict[str, Any] = {
            "output": str(report.output),
            "engine": report.engine,
            "stopped": report.stopped,
            "took_s": round(report.took_s, 1),
            "pictures": [
                {"file": f"{name}.png", "prompt": p.prompt, "seed": p.seed, "similarity": round(p.similarity, 4)}
                for name, p in named
            ],
            "judgement": None if judgement is None else judgement.to_dict(),
            "feedback": [feedback.to_dict() for feedback in report.feedback],
        }
        print_json(value)
    else:
        # Rows of the printed table.
        rows = [(f"{p.similarity:.3f}", str(p.seed), f"{name}.png", p.prompt) for name, p in named[:60]]
        print_table(["similarity", "seed", "file", "prompt"], rows)
        for feedback in report.feedback:
            click.echo("\n" + printable(feedback.prompt) + ":")
            for line in feedback.lines:
                click.echo(f"  {printable(line)}")
        if judgement is not None:
            low, high = judgement.interval
            click.echo(
                f"\n{judgement.judge} names the right prompt of {judgement.n_prompts} for {judgement.n_right} of "
                f"{len(judgement.verdicts)} pictures ({judgement.rate:.0%}; 95% interval {low:.0%} to {high:.0%}; "
                f"chance {judgement.chance:.1%})."
            )
    if report.stopped:
        notice(f"{report.stopped}; what there was is kept. For the rest, run it again with another --output.")
    count = max(len(report.images), 1)
    notice(f"{len(report.images)} pictures in {report.took_s:.0f} s ({report.took_s / count:.1f} s each).")
    notice(f"Look at {report.output / SHEET_FILE}; settings and figures: {report.output / SETTINGS_FILE}")

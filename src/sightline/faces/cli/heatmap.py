"""`heatmap`: texts x pictures. `explain`: where in a picture words match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline.faces.cli.options import (
    end_by_problems,
    json_option,
    notice,
    precision_option,
    print_json,
    print_table,
    require_folder_of,
)
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.evaluation.results import Problem
    from sightline.lab.experiments.explain import Match
    from sightline.lab.experiments.similarity_heatmap import HeatmapPicture, SimilarityHeatmap

_NAME_WIDTH = 24
_WORDS_WIDTH = 60
_THUMBNAIL_PX = 256
_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_model_option = click.option(
    "--model", metavar="NAME", help="The model, such as starter or dir:RUN [default: as for a new library]."
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=_PATH)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A row of the heatmap; repeatable.")
@click.option("--texts", "texts_file", type=_FILE, metavar="FILE", help="Rows of the heatmap, one text a line.")
@_model_option
@click.option("--probability", is_flag=True, help="Softmax over the texts for each picture, instead of cosines.")
@click.option("--cluster", is_flag=True, help="Put texts that are alike side by side, and pictures too.")
@precision_option
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Draw it: a .png, or a .html page.")
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
    from sightline.lab.experiments.similarity_heatmap import make_similarity_heatmap

    _require_ending(output, (".png", ".html"))
    rows = [text.strip() for text in (*texts, *(_read_lines(texts_file) if texts_file is not None else ()))]
    if not all(rows):
        raise click.UsageError("--text: a text is empty. Say what is to be compared, as in --text 'a dog'.")
    if not rows:
        raise click.UsageError("Give texts to compare with: --text 'a dog' --text 'a cat', or --texts FILE.")
    encoder = load_encoder(model or _default_model())
    pictures, problems = _read_pictures(images)
    if not pictures:
        end_by_problems(problems)
        raise click.UsageError("There are no images in what was given.")
    result = make_similarity_heatmap(encoder, pictures, rows, probability=probability, cluster=cluster)
    if output is not None:
        _write_heatmap(result, output)
    if as_json:
        print_json(result.to_dict())
    else:
        _print_heatmap(result)
    end_by_problems(problems)


@click.command()
@click.argument("photo", type=_FILE)
@click.argument("words", nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(["auto", "map", "gradient", "attention"]),
    default="auto",
    show_default=True,
    help="How the model is asked; auto takes what points best on scenes among what it can be asked.",
)
@_model_option
@precision_option
@click.option("-o", "--output", type=_FILE, metavar="FILE.png", help="Draw it: the photo, and a panel for each words.")
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
    from sightline.core.images.decode import read_picture
    from sightline.errors import ImageError, InputError
    from sightline.lab.experiments.explain import explain_picture, load_explainable

    _require_ending(output, (".png",))
    try:
        rgb_HW3 = read_picture(photo).rgb
    except ImageError as error:
        raise InputError(f"{photo} can't be read: {error.reason}.") from error
    encoder = load_explainable(model or _default_model(), method=method)
    matches = explain_picture(encoder, rgb_HW3, words, method=method)
    if output is not None:
        from sightline.lab.experiments.heatmap_figure import draw_matches

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
    from sightline.lab.experiments.heatmap_figure import short_line

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
    from sightline.lab.experiments.heatmap_figure import short_line

    notice(f"{result.model}, {result.kind}")
    names = [picture.name[-_NAME_WIDTH:] for picture in result.pictures]
    rows = [
        [short_line(text, _WORDS_WIDTH), *(f"{value:.3f}" for value in row)]
        for text, row in zip(result.texts, result.values_TB, strict=True)
    ]
    print_table(["text", *map(printable, names)], rows)


def _write_heatmap(result: SimilarityHeatmap, output: Path) -> None:
    from sightline.lab.experiments.heatmap_figure import draw_heatmap, write_heatmap_page

    (draw_heatmap if output.suffix.lower() == ".png" else write_heatmap_page)(result, output)
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
    from sightline.errors import InputError

    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read as lines of UTF-8 text: {error}.") from error
    return [line for line in lines if line.strip()]


def _read_pictures(images: Sequence[Path]) -> tuple[list[HeatmapPicture], list[Problem]]:
    """Files and the files of folders, in order, and what couldn't be read."""
    from sightline.core.images.decode import read_picture
    from sightline.errors import ImageError
    from sightline.lab.evaluation.results import Problem
    from sightline.lab.experiments.similarity_heatmap import HeatmapPicture

    pictures: list[HeatmapPicture] = []
    problems: list[Problem] = []
    for path in _files_of(images, problems):
        try:
            pictures.append(HeatmapPicture(name=path.name, rgb=read_picture(path, min_side_px=_THUMBNAIL_PX).rgb))
        except ImageError as error:
            problems.append(Problem(id=str(path), reason=error.reason))
    return pictures, problems


def _files_of(images: Sequence[Path], problems: list[Any]) -> Iterator[Path]:
    from sightline.core.images.walk import walk_images
    from sightline.lab.evaluation.results import Problem

    for path in images:
        if path.is_dir():
            found = walk_images(path, on_problem=lambda at, why: problems.append(Problem(id=str(at), reason=why)))
            yield from (file.path for file in found)
        else:
            yield path

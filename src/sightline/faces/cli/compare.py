"""`compare`: several models on the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline import lab
from sightline.core.library import Library
from sightline.faces.cli.options import (
    COUNT,
    FILE,
    NUMBER,
    choice_option,
    default_option,
    figures_option,
    json_option,
    library_option,
    precision_option,
    require_folder_of,
    split_option,
)
from sightline.faces.cli.printing import ProgressBar, end_by_problems, print_json, print_table, write_figures
from sightline.kit.pages import write_page
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.evaluation.comparison import Comparison
    from sightline.lab.evaluation.comparison_data import ComparisonData


@click.command()
@click.option("--models", metavar="NAME,NAME", default="", help="Models, such as starter,ViT-B-32/openai,dir:PATH.")
@click.option("--random", metavar="NAME,NAME", default="", help="Models of random weights: speed, memory, disk only.")
@click.option("--data", metavar="DATA", help="scenes[:SEED], KIND:PATH such as coco:PATH, or a folder of pictures.")
@library_option
@split_option
@click.option("--limit", type=COUNT, metavar="N", help="N pictures, chosen by --seed [own: 1000].")
@default_option("--seed", type=NUMBER, default=0, help="Of the choice and intervals.")
@click.option("--queries", type=FILE, metavar="FILE", help="What to search for, one query a line.")
@click.option(
    "--prompts", metavar="SET|FILE", help="Sentences for classes [default: imagenet for imagenet:PATH, else photos]."
)
@click.option("--classes", type=FILE, metavar="FILE", help="Names of the classes, one a line.")
@click.option("--quality", metavar="METRIC", help="What is set against speed, such as acc1 or text_retrieval_recall@1.")
@choice_option("--runtime", "auto", "onnx", "torch")
@precision_option
@default_option("--rounds", type=COUNT, default=5, help="Times each is timed.")
@click.option("--page", type=FILE, metavar="FILE.html", help="Write a page with charts and pictures too.")
@figures_option
@json_option
def compare(
    *,
    models: str,
    random: str,
    prompts: str | None,
    quality: str | None,
    runtime: Literal["auto", "onnx", "torch"],
    rounds: int,
    seed: int,
    page: Path | None,
    output: Path | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Compare models on the same pictures: quality, speed, memory, disk, and how far their rankings agree.

    Without captions or classes (a folder of your own pictures, or --library) there is no quality to measure; the rest
    is, with the queries of --queries or some everyday ones.
    """
    from sightline.lab.evaluation.classification import prompts_for
    from sightline.lab.evaluation.comparison import ComparisonConfig
    from sightline.lab.evaluation.comparison_report import comparison_to_dict, format_comparison
    from sightline.lab.evaluation.results import Bootstrap

    require_folder_of(page, option="--page")
    require_folder_of(output, option="--output")
    names, random_names = _split_names(models), _split_names(random)
    if not names and not random_names:
        raise click.UsageError("Name the models: --models starter,ViT-B-32/openai")
    config = ComparisonConfig(
        runtime=runtime,
        rounds=rounds,
        quality=quality,
        templates=prompts_for(where["data"], prompts),
        bootstrap=Bootstrap(seed=seed),
    )
    material = _load(seed=seed, **where)
    with ProgressBar() as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.begin(what)
            bar.show(done, total)

        comparison = lab.compare(names, material, random=random_names, config=config, report=show)
    values = comparison_to_dict(comparison)
    if output is not None:
        write_figures(output, values)
    if page is not None:
        write_page(page, format_comparison(comparison))
    if as_json:
        print_json(values)
    else:
        _print(comparison)
    end_by_problems(comparison.problems)


def _split_names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _load(
    *,
    data: str | None,
    library_dir: Path | None,
    split: str | None,
    limit: int | None,
    seed: int,
    queries: Path | None,
    classes: Path | None,
) -> ComparisonData:
    """The pictures that --data or --library name; without both, the library that other commands would take."""
    from dataclasses import replace

    from sightline.lab.evaluation import comparison_data as source

    if data is not None and library_dir is not None:
        raise click.UsageError("Give either --data or --library.")
    asked = source.read_queries(queries) if queries is not None else None
    own_limit = limit or source.OWN_LIMIT
    if data is None:
        with Library.open(library_dir) as library:
            name, paths = f"library:{library.path}", library.images()
        loaded = source.take_images(name, paths, limit=own_limit, seed=seed)
    elif source.is_own_images(data):
        if split is not None:
            raise click.UsageError("--split: pictures without captions have no splits.")
        loaded = source.gather_images(data, limit=own_limit, seed=seed)
    else:
        loaded = source.load_benchmark(data, split=split, limit=limit, seed=seed, classes=classes)
    return loaded if asked is None else replace(loaded, queries=asked)


def _print(comparison: Comparison) -> None:
    from sightline.lab.evaluation.comparison_report import list_tables

    data = comparison.data
    where = printable(data.dataset.name) + (f", {data.split}" if data.split else "")
    click.echo(f"{where}: {comparison.n_images:,} images, {len(data.queries):,} queries. {comparison.machine}")
    for heading, (headings, rows) in list_tables(comparison):
        _print_heading(heading)
        print_table(headings, rows)
    _print_published(data.dataset.name)


def _print_published(address: str) -> None:
    """What others measured of well-known models on the same set, where it is one that they used."""
    from sightline.lab.evaluation.comparison_data import load_published, pull_commands
    from sightline.lab.evaluation.comparison_report import percent

    kind = address.partition(":")[0]
    tables = [table for table in load_published() if table.data.partition(":")[0] == kind]
    if not tables:
        return
    models = list(tables[0].metrics)
    rows = [
        [f"{table.title}, {name}", *(percent(table.metrics[model][name]) for model in models)]
        for table in tables
        for name in table.headlines
    ]
    _print_heading("Published by others; nothing of this was measured here")
    print_table(["", *models], rows)
    click.echo()
    for table in tables:
        click.echo(f"{table.title}: {table.source}. {table.note}")
    _print_heading("To repeat it with the real weights")
    for command in (*pull_commands(tables), *(table.command(address) for table in tables)):
        click.echo(command)


def _print_heading(text: str) -> None:
    click.echo(f"\n{click.style(text, bold=True)}")

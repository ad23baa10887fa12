"""`search`, `similar` and `duplicates`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import (
    json_option,
    library_option,
    model_option,
    notice,
    precision_option,
    print_json,
    print_table,
    top_option,
    where_option,
)
from sightline.faces.cli.write import chat_url_option
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.library import Library
    from sightline.core.types import Hit

_filepath_option = click.option("-f", "--filepath-only", is_flag=True, help="Print paths only.")


@click.command()
@click.argument("query", nargs=-1, metavar="QUERY...")
@click.option("-a", "--add", multiple=True, metavar="PART", help="A further part to look for; the same as + PART.")
@click.option("-s", "--subtract", multiple=True, metavar="PART", help="A part to look away from; the same as - PART.")
@top_option(10)
@_filepath_option
@json_option
@click.option("--min-similarity", type=click.FloatRange(-1, 1), help="Leave out results below this cosine.")
@where_option
@click.option(
    "--match",
    type=click.Choice(["pictures", "captions", "both"]),
    default="pictures",
    show_default=True,
    help="Rank by what pictures show, by words in captions and file names, or by both.",
)
@click.option("--expand", "writer", metavar="NAME", help="Search for what this text model writes of the words, too.")
@click.option("--expansions", metavar="FILE", help="... or for these lines, with {} for the words; or: standard.")
@chat_url_option
@model_option
@precision_option
@library_option
def search(
    query: tuple[str, ...],
    *,
    writer: str | None,
    expansions: str | None,
    chat_url: str | None,
    filepath_only: bool,
    as_json: bool,
    model: str | None,
    library_dir: Path | None,
    **how: Any,
) -> None:
    """Find images by words, by a picture, or by both.

    \b
    sightline search two dogs in the snow
    sightline search ./photo.jpg
    sightline search ./beach.jpg + 2:sunset - people
    """
    from sightline.core.library import Library

    if filepath_only and as_json:
        raise click.UsageError("--filepath-only and --json exclude each other.")
    if writer and expansions:
        raise click.UsageError("--expand and --expansions exclude each other.")
    with Library.open(library_dir, model=model, create=False) as library:
        if writer or expansions:
            from sightline.faces.integrations.expanded_search import expand_queries

            expand_queries(library, writer=writer, expansions=expansions, chat_url=chat_url, tell=notice)
        _show(library, library.search(*query, **how), filepath_only=filepath_only, as_json=as_json)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@top_option(10)
@_filepath_option
@json_option
@where_option
@model_option
@precision_option
@library_option
def similar(
    photo: Path, *, filepath_only: bool, as_json: bool, model: str | None, library_dir: Path | None, **how: Any
) -> None:
    """Find the images most like PHOTO, which need not be in the library."""
    from sightline.core.library import Library

    if filepath_only and as_json:
        raise click.UsageError("--filepath-only and --json exclude each other.")
    with Library.open(library_dir, model=model, create=False) as library:
        _show(library, library.similar(photo, **how), filepath_only=filepath_only, as_json=as_json)


@click.command()
@click.option(
    "--near",
    "min_similarity",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Near duplicates too, from this similarity on; 0.95 is a good start.",
)
@json_option
@model_option
@library_option
def duplicates(*, min_similarity: float | None, as_json: bool, model: str | None, library_dir: Path | None) -> None:
    """List pictures that are there more than once: exact copies, or near ones. Nothing is deleted."""
    from sightline.core.library import Library

    with Library.open(library_dir, model=model, create=False) as library:
        groups = library.duplicates(min_similarity=min_similarity)
    for group in groups:
        if as_json:
            images = [{"id": i.id, "path": str(i.path), "size_bytes": i.size_bytes} for i in group.images]
            print_json({"kind": group.kind, "similarity": round(group.similarity, 4), "images": images})
            continue
        click.echo(click.style(f"{group.kind}  {group.similarity:.3f}", bold=True))
        for image in group.images:
            click.echo(f"  {image.info.width} x {image.info.height}  {printable(str(image.path))}")
    if not groups and not as_json:
        notice("No duplicates.")


def _show(library: Library, hits: Sequence[Hit], *, filepath_only: bool, as_json: bool) -> None:
    if not hits and not as_json:
        empty = library.store.stats().images == 0
        notice("The library is empty: sightline index FOLDER" if empty else "Nothing here matches.")
    elif filepath_only:
        for hit in hits:
            click.echo(str(hit.image.path))
    elif as_json:
        for hit in hits:
            print_json(_hit_as_json(hit))
    else:
        rows = [(f"{hit.similarity:.3f}", str(hit.image.path), hit.caption or "") for hit in hits]
        captioned = any(caption for *_, caption in rows)
        print_table(["similarity", "path", *(["caption"] * captioned)], [row[: 2 + captioned] for row in rows])


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.image.id,
        "path": str(hit.image.path),
        "similarity": round(hit.similarity, 6),
        "caption": hit.caption,
        **asdict(hit.image.info),
    }

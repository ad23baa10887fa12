"""`write`: words by a language model that the user chose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline.faces.cli.options import json_option, library_option, model_option, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.faces.integrations.text_generation import TextGenerator

_PROBLEMS_SHOWN = 3

writer_option = click.option(
    "--writer",
    metavar="NAME",
    help="The text model: dir:PATH, hf:ORG/NAME or chat:NAME. Without one, the plain result is shown.",
)
chat_url_option = click.option(
    "--chat-url", metavar="URL", help="Of a chat endpoint, as in https://host/v1 [default: $SIGHTLINE_CHAT_URL]."
)


@click.group()
def write() -> None:
    """Let a language model write: searches in other words, merged captions, names of albums, candidates.

    Off unless --writer names a model. What it changed is shown; where it fails, the plain result stands. Captions and
    queries are sent to a chat endpoint as they are; a model of a folder keeps them on this machine.
    """


@write.command()
@click.argument("query", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1, 16), default=4, show_default=True, help="Descriptions.")
@writer_option
@chat_url_option
@json_option
def expand(*, query: tuple[str, ...], count: int, writer: str | None, chat_url: str | None, as_json: bool) -> None:
    """Describe QUERY in other words, one line each: a file for `search --expansions`."""
    from sightline.faces.integrations.query_expansion import WrittenExpander

    generator = _load(writer, chat_url)
    if generator is None:
        raise click.UsageError("--writer names the text model that writes.")
    expansion = WrittenExpander(generator, count=count)(" ".join(query))
    _tell_problems([expansion.problem])
    if as_json:
        problem = expansion.problem
        print_json({"query": expansion.query, "descriptions": list(expansion.descriptions), "problem": problem})
        return
    for line in expansion.descriptions or (expansion.query,):
        click.echo(line)


@write.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option("--max-chars", type=click.IntRange(20, 1000), default=125, show_default=True, help="Longest text.")
@click.option(
    "--style",
    type=click.Choice(["sentence", "alt"]),
    default="sentence",
    show_default=True,
    help="A sentence, or a text for people who can't see the picture.",
)
@click.option("--keep", is_flag=True, help="Keep changed texts as your captions; those you have stay.")
@writer_option
@chat_url_option
@json_option
@library_option
def merge(
    *,
    paths: tuple[Path, ...],
    max_chars: int,
    style: Literal["sentence", "alt"],
    keep: bool,
    writer: str | None,
    chat_url: str | None,
    as_json: bool,
    library_dir: Path | None,
) -> None:
    """Merge the captions of pictures into one text each; without PATHs, of all pictures that have captions."""
    from sightline.core.library import Library
    from sightline.faces.integrations.library_writing import merge_in_library

    generator = _load(writer, chat_url)
    problems: list[str | None] = []
    kept = done = 0
    with Library.open(library_dir, create=False) as library:
        how: dict[str, Any] = {"paths": paths, "max_chars": max_chars, "style": style, "keep": keep}
        for one in merge_in_library(library, generator, **how):
            written, path = one.written, str(one.image.path)
            problems.append(written.problem)
            kept, done = kept + one.kept, done + 1
            if as_json:
                print_json({"path": path, "captions": list(one.captions), **_as_json(written), "kept": one.kept})
                continue
            click.echo(click.style(printable(path), bold=True))
            for caption in one.captions:
                click.echo(f"    {printable(caption)}")
            click.echo(f"  {'*' if written.changed else ' '} {printable(written.text)}")
    if not done:
        notice("No picture of this library has captions: sightline caption")
    _tell_problems(problems)
    if keep:
        notice(f"{kept:,} texts are kept as your captions.")


@write.command()
@click.option(
    "--clusters", type=click.IntRange(min=1), metavar="N", help="N groups of like pictures [default: folders]."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the clusters.")
@writer_option
@chat_url_option
@model_option
@json_option
@library_option
def name(
    *,
    clusters: int | None,
    seed: int,
    writer: str | None,
    chat_url: str | None,
    model: str | None,
    as_json: bool,
    library_dir: Path | None,
) -> None:
    """Name the library's folders, or clusters of like pictures, from their captions."""
    from sightline.core.library import Library
    from sightline.faces.integrations.library_writing import name_albums

    generator = _load(writer, chat_url)
    with Library.open(library_dir, model=model, create=False) as library:
        albums = name_albums(library, generator, clusters=clusters, seed=seed)
    _tell_problems(album.written.problem for album in albums)
    if as_json:
        for album in albums:
            paths = [str(image.path) for image in album.images]
            print_json({"album": album.key, **_as_json(album.written), "captioned": album.captioned, "images": paths})
        return
    rows = [(a.written.text, a.written.plain if a.written.changed else "", len(a.images), a.key) for a in albums]
    print_table(
        ["name", "without the model", "images", "album"],
        [(text, plain, f"{images:,}", key) for text, plain, images, key in rows],
    )


@write.command()
@click.argument("subject", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1, 200), default=20, show_default=True, help="Captions.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write them here."
)
@writer_option
@chat_url_option
def candidates(
    *, subject: tuple[str, ...], count: int, output: Path | None, writer: str | None, chat_url: str | None
) -> None:
    """Write candidate captions that show SUBJECT, one a line: a file for `caption --candidates`."""
    from sightline.faces.integrations.candidate_writing import save_candidates, write_candidates

    written = write_candidates(" ".join(subject), _load(writer, chat_url), count=count)
    _tell_problems([written.problem])
    if output is not None:
        save_candidates(output, written)
        notice(f"{len(written.captions)} captions are in {output}, {written.written} of them by the text model.")
        return
    for caption in written.captions:
        click.echo(caption)


def _load(writer: str | None, chat_url: str | None) -> TextGenerator | None:
    if writer is None:
        if chat_url is not None:
            raise click.UsageError("--chat-url goes with --writer chat:NAME.")
        return None
    from sightline.faces.integrations.text_generation import load_writer

    return load_writer(writer, url=chat_url)


def _as_json(written: Any) -> dict[str, Any]:
    names = ("text", "plain", "changed", "problem")
    return {name: getattr(written, name) for name in names}


def _tell_problems(problems: Iterable[str | None]) -> None:
    """Say once for each kind of problem, how often the plain result stands, and why."""
    told = [problem for problem in problems if problem is not None]
    for problem in list(dict.fromkeys(told))[:_PROBLEMS_SHOWN]:
        notice(f"The plain result stands ({told.count(problem)} of {len(told)}): {printable(problem)}")
    if len(set(told)) > _PROBLEMS_SHOWN:
        notice(f"... and {len(set(told)) - _PROBLEMS_SHOWN} other reasons.")

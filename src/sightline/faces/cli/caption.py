"""Captions: `caption`, and `write`, words by a language model that the user chose."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sightline.core.library import Library, list_images
from sightline.core.models.base import GenerationConfig
from sightline.faces.cli.options import (
    COUNT,
    FILE,
    NUMBER,
    PATH,
    CommandGroup,
    chat_url_option,
    choice_option,
    default_option,
    json_option,
    library_option,
    model_option,
    precision_option,
    with_options,
)
from sightline.faces.cli.printing import ProgressBar, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.core.captioning.writers import CaptionWriter, Existing, Format
    from sightline.faces.integrations.text_generation import TextGenerator

_PROBLEMS_SHOWN = 3


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path, exists=True))
@click.option("--candidates", type=PATH, metavar="FILE", help="Choose from these, one a line.")
@default_option("-t", "--top", type=COUNT, default=3, help="Ranked candidates shown.")
@click.option(
    "--captioner",
    metavar="NAME",
    help="Who writes; none to only rank. [default: blip-base or the starter; with --candidates: none]",
)
@default_option("--num-candidates", type=COUNT, default=1, help="Sentences generated.")
@default_option("--beams", type=COUNT, default=3, help="Width of the beam; 1 is greedy.")
@click.option("--sample", is_flag=True, help="Sample sentences instead of searching for the most probable.")
@click.option("--prompt", default="", metavar="TEXT", help="How generated sentences begin.")
@default_option("--seed", type=int, default=0, help="Seed of sampling.")
@default_option("--max-tokens", type=click.IntRange(min=4), default=30, help="Longest sentence.")
@default_option("--batch-size", type=COUNT, default=16, help="Pictures at once.")
@click.option("--write", "format_", type=click.Choice(["txt", "jsonl", "csv"]), help="Keep captions in files, too.")
@click.option("-o", "--output", type=PATH, metavar="PATH", help="The file, or a folder for txt.")
@click.option("--skip-existing", is_flag=True, help="Pass over pictures that have their captions.")
@click.option("--overwrite", is_flag=True, help="Write captions anew where there are some.")
@model_option
@precision_option
@json_option
@library_option
def caption(
    *,
    paths: tuple[Path, ...],
    format_: Format | None,
    output: Path | None,
    skip_existing: bool,
    overwrite: bool,
    captioner: str | None,
    model: str | None,
    as_json: bool,
    library_dir: Path | None,
    **how: Any,
) -> None:
    """Caption pictures both ways: candidates ranked by CLIP, sentences written by a captioner, and the fused best.

    PATHs are pictures and folders; without any, the whole library is captioned. Captions of pictures in the library
    are kept there and found by `search --match captions`. For each caption the cosine to the picture and the
    captioner's mean log-probability for each token are shown, and a star marks the fused best.

    With --candidates the best is one of them, unless --captioner names who shall write, too; pictures that have
    captions in the library keep these.
    """
    from sightline.core.captioning.writers import open_writer
    from sightline.core.library import caption

    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing and --overwrite exclude each other.")
    if format_ is None and (output or overwrite):
        raise click.UsageError("--output and --overwrite go with --write.")
    existing: Existing = "skip" if skip_existing else "replace" if overwrite else "refuse"
    config = _make_caption_config(**how)
    in_library = not paths or Library.exists(library_dir)
    with (
        Library.open(library_dir, model=model, create=False) if in_library else nullcontext() as library,
        open_writer(format_, output, roots=paths, existing=existing) if format_ else nullcontext() as writer,
    ):
        images = list_images(paths) if library is None or paths else library.images()
        if not images:
            notice("There is no picture to caption.")
        todo, failed = _plan(writer, images) if writer else (images, 0)
        if library is None:
            results = caption(todo, model=model, captioner=captioner, config=config)
        else:
            skip = skip_existing and writer is None
            results = library.caption(todo, captioner=captioner, config=config, skip_existing=skip)
        unreadable = _show_captions(results, writer=writer, total=len(todo), as_json=as_json)
        if writer:
            notice(f"{len(todo) - unreadable:,} captions written.")
        failed += unreadable
    if failed:
        notice(f"{failed:,} of {len(images):,} pictures could not be captioned.")
        raise SystemExit(1)


def _make_caption_config(*, candidates: Path | None, top: int, batch_size: int, **generation: Any) -> CaptionConfig:
    from sightline.core.captioning.dual import CaptionConfig

    generated = GenerationConfig(**{**generation, "beams": max(generation["beams"], generation["num_candidates"])})
    return CaptionConfig(top_k=top, candidates=candidates, generation=generated, batch_size=batch_size)


def _plan(writer: CaptionWriter, images: Sequence[Path]) -> tuple[Sequence[Path], int]:
    """The pictures that are left to caption, and how many the format can't hold."""
    plan = writer.plan(images)
    if plan.existing:
        notice(f"{plan.existing:,} pictures have their captions and are passed over.")
    for refused in plan.refused:
        notice(f"{printable(str(refused.path))}: {refused.reason}")
    return plan.todo, len(plan.refused)


def _show_captions(
    results: Iterable[DualCaption | CaptionFailure], *, writer: CaptionWriter | None, total: int, as_json: bool
) -> int:
    """Show and keep results as they come; the number of failures."""
    from sightline.core.captioning.dual import CaptionFailure
    from sightline.core.captioning.writers import make_record

    failed = 0
    with ProgressBar("captioning") as bar:
        for done, result in enumerate(results, start=1):
            if writer or not sys.stdout.isatty():  # captions and a bar don't share a terminal
                bar.show(done, total)
            if isinstance(result, CaptionFailure):
                failed += 1
                notice(f"{printable(str(result.path))}: {result.reason}")
                continue
            if writer:
                writer.write(result)
            if as_json:
                print_json(make_record(result))
            elif not writer:
                _print_caption(result)
    return failed


def _print_caption(result: DualCaption) -> None:
    click.echo(click.style(printable(str(result.path)), bold=True))
    captions = [(one, printable(one.author)) for one in (*result.clip, *result.generated)]
    width = max(len(author) for _, author in captions)
    for one, author in captions:
        similarity = f"{one.similarity:.3f}" if one.similarity is not None else ""
        log_prob = f"{one.log_prob:.2f}" if one.log_prob is not None else ""
        mark = "*" if one.best else " "
        click.echo(f"  {mark} {author:<{width}}  {similarity:>6}  {log_prob:>6}  {printable(one.text)}")


_writer_options = with_options(
    click.option(
        "--writer",
        metavar="NAME",
        help="The text model: dir:PATH, hf:ORG/NAME or chat:NAME. Without one, the plain result is shown.",
    ),
    chat_url_option,
)


@click.group(cls=CommandGroup)
def write() -> None:
    """Let a language model write: searches in other words, merged captions, names of albums, candidates.

    Off unless --writer names a model. What it changed is shown; where it fails, the plain result stands. Captions and
    queries are sent to a chat endpoint as they are; a model of a folder keeps them on this machine.
    """


@write.command()
@click.argument("query", nargs=-1, required=True)
@default_option("--count", type=click.IntRange(1, 16), default=4, help="Descriptions.")
@_writer_options
@json_option
def expand(*, query: tuple[str, ...], count: int, writer: str | None, chat_url: str | None, as_json: bool) -> None:
    """Describe QUERY in other words, one line each: a file for `search --expansions`."""
    from sightline.faces.integrations.query_expansion import WrittenExpander

    generator = _load_writer(writer, chat_url)
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
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=PATH)
@default_option("--max-chars", type=click.IntRange(20, 1000), default=125, help="Longest text.")
@choice_option("--style", "sentence", "alt", help="A sentence, or a text for people who can't see the picture.")
@click.option("--keep", is_flag=True, help="Keep changed texts as your captions; those you have stay.")
@_writer_options
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
    from sightline.faces.integrations.library_writing import merge_in_library

    generator = _load_writer(writer, chat_url)
    problems: list[str | None] = []
    kept = done = 0
    with Library.open(library_dir, create=False) as library:
        how: dict[str, Any] = {"paths": paths, "max_chars": max_chars, "style": style, "keep": keep}
        for one in merge_in_library(library, generator, **how):
            written, path = one.written, str(one.image.path)
            problems.append(written.problem)
            kept, done = kept + one.kept, done + 1
            if as_json:
                print_json(
                    {"path": path, "captions": list(one.captions), **_written_as_json(written), "kept": one.kept}
                )
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
@click.option("--clusters", type=COUNT, metavar="N", help="N groups of like pictures [default: folders].")
@default_option("--seed", type=NUMBER, default=0, help="Of the clusters.")
@_writer_options
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
    from sightline.faces.integrations.library_writing import name_albums

    generator = _load_writer(writer, chat_url)
    with Library.open(library_dir, model=model, create=False) as library:
        albums = name_albums(library, generator, clusters=clusters, seed=seed)
    _tell_problems(album.written.problem for album in albums)
    if as_json:
        for album in albums:
            paths = [str(image.path) for image in album.images]
            print_json(
                {"album": album.key, **_written_as_json(album.written), "captioned": album.captioned, "images": paths}
            )
        return
    rows = [(a.written.text, a.written.plain if a.written.changed else "", f"{len(a.images):,}", a.key) for a in albums]
    print_table(["name", "without the model", "images", "album"], rows)


@write.command()
@click.argument("subject", nargs=-1, required=True)
@default_option("--count", type=click.IntRange(1, 200), default=20, help="Captions.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write them here.")
@_writer_options
def candidates(
    *, subject: tuple[str, ...], count: int, output: Path | None, writer: str | None, chat_url: str | None
) -> None:
    """Write candidate captions that show SUBJECT, one a line: a file for `caption --candidates`."""
    from sightline.faces.integrations.rewriting import save_candidates, write_candidates

    written = write_candidates(" ".join(subject), _load_writer(writer, chat_url), count=count)
    _tell_problems([written.problem])
    if output is not None:
        save_candidates(output, written)
        notice(f"{len(written.captions)} captions are in {output}, {written.written} of them by the text model.")
        return
    for caption in written.captions:
        click.echo(caption)


def _load_writer(writer: str | None, chat_url: str | None) -> TextGenerator | None:
    if writer is None:
        if chat_url is not None:
            raise click.UsageError("--chat-url goes with --writer chat:NAME.")
        return None
    from sightline.faces.integrations.text_generation import load_writer

    return load_writer(writer, url=chat_url)


def _written_as_json(written: Any) -> dict[str, Any]:
    return {name: getattr(written, name) for name in ("text", "plain", "changed", "problem")}


def _tell_problems(problems: Iterable[str | None]) -> None:
    """Say once for each kind of problem, how often the plain result stands, and why."""
    told = [problem for problem in problems if problem is not None]
    for problem in list(dict.fromkeys(told))[:_PROBLEMS_SHOWN]:
        notice(f"The plain result stands ({told.count(problem)} of {len(told)}): {printable(problem)}")
    if len(set(told)) > _PROBLEMS_SHOWN:
        notice(f"... and {len(set(told)) - _PROBLEMS_SHOWN} other reasons.")

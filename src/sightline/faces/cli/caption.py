"""`caption`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, library_option, model_option, notice, precision_option, print_json
from sightline.faces.cli.progress import ProgressBar
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.core.captioning.writers import CaptionWriter, Existing, Format


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path, exists=True))
@click.option("--candidates", type=click.Path(path_type=Path), metavar="FILE", help="Choose from these, one a line.")
@click.option("-t", "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Ranked candidates shown.")
@click.option(
    "--captioner",
    metavar="NAME",
    help="Who writes; none to only rank. [default: blip-base or the starter; with --candidates: none]",
)
@click.option("--num-candidates", type=click.IntRange(min=1), default=1, show_default=True, help="Sentences generated.")
@click.option(
    "--beams", type=click.IntRange(min=1), default=3, show_default=True, help="Width of the beam; 1 is greedy."
)
@click.option("--sample", is_flag=True, help="Sample sentences instead of searching for the most probable.")
@click.option("--prompt", default="", metavar="TEXT", help="How generated sentences begin.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampling.")
@click.option("--max-tokens", type=click.IntRange(min=4), default=30, show_default=True, help="Longest sentence.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures at once.")
@click.option("--write", "format_", type=click.Choice(["txt", "jsonl", "csv"]), help="Keep captions in files, too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="The file, or a folder for txt.")
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
    from sightline.core.library import Library, caption, list_pictures

    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing and --overwrite exclude each other.")
    if format_ is None and (output or overwrite):
        raise click.UsageError("--output and --overwrite go with --write.")
    existing: Existing = "skip" if skip_existing else "replace" if overwrite else "refuse"
    config = _make_config(**how)
    in_library = not paths or Library.exists(library_dir)
    with (
        Library.open(library_dir, model=model, create=False) if in_library else nullcontext() as library,
        open_writer(format_, output, roots=paths, existing=existing) if format_ else nullcontext() as writer,
    ):
        pictures = list_pictures(paths) if library is None or paths else library.pictures()
        if not pictures:
            notice("There is no picture to caption.")
        todo, failed = _plan(writer, pictures) if writer else (pictures, 0)
        if library is None:
            results = caption(todo, model=model, captioner=captioner, config=config)
        else:
            skip = skip_existing and writer is None
            results = library.caption(todo, captioner=captioner, config=config, skip_existing=skip)
        unreadable = _run(results, writer=writer, total=len(todo), as_json=as_json)
        if writer:
            notice(f"{len(todo) - unreadable:,} captions written.")
        failed += unreadable
    if failed:
        notice(f"{failed:,} of {len(pictures):,} pictures could not be captioned.")
        raise SystemExit(1)


def _make_config(*, candidates: Path | None, top: int, batch_size: int, **generation: Any) -> CaptionConfig:
    from sightline.core.captioning.dual import CaptionConfig
    from sightline.core.models.base import GenerationConfig

    generated = GenerationConfig(**{**generation, "beams": max(generation["beams"], generation["num_candidates"])})
    return CaptionConfig(top_k=top, candidates=candidates, generation=generated, batch_size=batch_size)


def _plan(writer: CaptionWriter, pictures: Sequence[Path]) -> tuple[Sequence[Path], int]:
    """What is left to caption, and how many pictures the format can't hold."""
    plan = writer.plan(pictures)
    if plan.existing:
        notice(f"{plan.existing:,} pictures have their captions and are passed over.")
    for refused in plan.refused:
        notice(f"{printable(str(refused.path))}: {refused.reason}")
    return plan.todo, len(plan.refused)


def _run(
    results: Iterable[DualCaption | CaptionFailure], *, writer: CaptionWriter | None, total: int, as_json: bool
) -> int:
    """Show and keep results as they come; the number of failures."""
    from sightline.core.captioning.dual import CaptionFailure
    from sightline.core.captioning.writers import make_record

    failed = 0
    with ProgressBar("captioning") as bar:
        for done, result in enumerate(results, start=1):
            if writer or not sys.stdout.isatty():  # captions and a bar don't share a terminal
                bar.show(done, total=total)
            if isinstance(result, CaptionFailure):
                failed += 1
                notice(f"{printable(str(result.path))}: {result.reason}")
                continue
            if writer:
                writer.write(result)
            if as_json:
                print_json(make_record(result))
            elif not writer:
                _print(result)
    return failed


def _print(result: DualCaption) -> None:
    click.echo(click.style(printable(str(result.path)), bold=True))
    captions = [(one, printable(one.author)) for one in (*result.clip, *result.generated)]
    width = max(len(author) for _, author in captions)
    for one, author in captions:
        similarity = f"{one.similarity:.3f}" if one.similarity is not None else ""
        log_prob = f"{one.log_prob:.2f}" if one.log_prob is not None else ""
        mark = "*" if one.best else " "
        click.echo(f"  {mark} {author:<{width}}  {similarity:>6}  {log_prob:>6}  {printable(one.text)}")

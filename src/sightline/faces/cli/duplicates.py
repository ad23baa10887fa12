"""Images that are there more than once: `duplicates`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.core.library import Library
from sightline.faces.cli.options import FILE, json_option, library_option, model_option
from sightline.faces.cli.printing import ProgressBar, notice, print_json
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.search.duplicates import DuplicateGroup
    from sightline.core.search.set_aside import MoveReport
    from sightline.core.types import ImageRecord

_NAMED = 20
"""Files that were left where they are and are named one by one."""
_TITLES = {"exact": "exact copies", "copy": "copies", "alike": "alike, no copies"}


@click.command()
@click.option("--exact", "exact_only", is_flag=True, help="Only files with the same bytes; no pixels are compared.")
@click.option(
    "--alike",
    "--near",
    "min_similarity",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Also shots of one scene that are no copies, from this similarity on; 0.9 is a good start.",
)
@click.option(
    "--move-to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Move all copies but the one to keep there, with a log. Links and what is alike stay.",
)
@click.option("--undo", "log", type=FILE, metavar="LOG", help="Move what a log of --move-to names back.")
@json_option
@model_option
@library_option
def duplicates(
    *,
    exact_only: bool,
    min_similarity: float | None,
    folder: Path | None,
    log: Path | None,
    as_json: bool,
    model: str | None,
    library_dir: Path | None,
) -> None:
    """List pictures that are there more than once: exact copies and others, by their pixels. Nothing is deleted.

    Copies may be cut, smaller, brighter, mirrored, turned or without colour. Of each group the file to keep comes
    first, with the reason.
    """
    if exact_only and min_similarity is not None:
        raise click.UsageError("--exact and --alike exclude each other.")
    if log is not None and (exact_only or min_similarity is not None or folder is not None):
        raise click.UsageError("--undo moves back what a log names and goes without other options.")
    with Library.open(library_dir, model=model, create=False) as library:
        if log is not None:
            _show_moves(library.undo_set_aside(log), as_json=as_json, back=True)
            return
        groups = _find(library, exact_only=exact_only, min_similarity=min_similarity)
        for group in groups:
            _show(group, as_json=as_json)
        if not groups and not as_json:
            notice("No duplicates.")
        if not exact_only and (left_out := len(library.store.missing_sketches())):
            notice(
                f"{left_out:,} images were compared by their bytes alone: their files are gone, changed or unreadable."
            )
        if folder is not None:
            _show_moves(library.set_aside(groups, folder), as_json=as_json)


def _find(library: Library, *, exact_only: bool, min_similarity: float | None) -> Sequence[DuplicateGroup]:
    with ProgressBar("comparing pixels") as bar:

        def tell(done: int, total: int | None, what: str) -> None:
            bar.begin(what)
            bar.show(done, total)

        return library.duplicates(exact_only=exact_only, min_similarity=min_similarity, on_progress=tell)


def _show(group: DuplicateGroup, *, as_json: bool) -> None:
    if as_json:
        images = [_as_json(group, image) for image in group.images]
        similarity = round(group.similarity, 4)
        print_json({"kind": group.kind, "similarity": similarity, "reason": group.reason, "images": images})
        return
    kind = _TITLES[group.kind] + (f", similarity from {group.similarity:.3f}" if group.kind != "exact" else "")
    click.echo(click.style(f"{len(group.images) - len(group.links)} {kind}", bold=True))
    for image in group.images:
        size = f"{image.info.width} x {image.info.height}"
        click.echo(
            f"  {_mark(group, image):4}  {size:>11}  {image.size_bytes:>11,} bytes  {printable(str(image.path))}"
        )
    click.echo(f"        kept for: {group.reason}")


def _mark(group: DuplicateGroup, image: ImageRecord) -> str:
    if image is group.images[0]:
        return "keep"
    return "link" if image.id in group.links else ""


def _as_json(group: DuplicateGroup, image: ImageRecord) -> dict[str, Any]:
    return {
        "id": image.id,
        "path": str(image.path),
        "keep": image is group.images[0],
        "link": image.id in group.links,
        "width": image.info.width,
        "height": image.info.height,
        "size_bytes": image.size_bytes,
    }


def _show_moves(report: MoveReport, *, as_json: bool, back: bool = False) -> None:
    """What was moved, and what not; the exit code is 1 where something was left or it was interrupted."""
    for source, to in report.moved:
        if as_json:
            print_json({"kind": "moved", "from": str(source), "to": str(to)})
    for path, reason in report.left[:_NAMED]:
        notice(f"left {printable(str(path))}: {reason}")
    if len(report.left) > _NAMED:
        notice(f"... and {len(report.left) - _NAMED:,} more")
    files = f"{len(report.moved):,} file{'s' * (len(report.moved) != 1)}{' back' * back}"
    notice(f"{'Interrupted: moved' if report.interrupted else 'Moved'} {files}.")
    if report.moved and not back:
        notice(f"To undo: sightline duplicates --undo {printable(str(report.log))}")
    if report.moved and back:
        notice("`sightline index` computes the vectors that their rows may lack.")
    if report.left or report.interrupted:
        raise SystemExit(1)

"""The library: `index`, `search`, `similar`, `info` and `remove`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.core.library import Library
from sightline.faces.cli.options import (
    COUNT,
    PATH,
    QueryCommand,
    chat_url_option,
    choice_option,
    default_option,
    json_option,
    library_option,
    model_option,
    precision_option,
    where_options,
)
from sightline.faces.cli.printing import ProgressBar, notice, print_json, print_table
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.core.indexing.report import IndexProgress, IndexReport
    from sightline.core.indexing.text import TextReport
    from sightline.core.search.engine import Hits
    from sightline.core.types import Hit

MIN_EXAMPLES = 3
"""As many show what they have in common."""

_top_option = default_option("-t", "--top", type=COUNT, default=10, help="Number of results.")
_filepath_option = click.option("-f", "--filepath-only", is_flag=True, help="Print paths only.")


@click.command()
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=PATH)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave out files or folders, as in: --exclude '*/raw'"
)
@click.option("--prune", is_flag=True, help="Forget images even where a whole folder is missing or empty.")
@click.option("--retry", is_flag=True, help="Try unchanged files again that could not be read before.")
@click.option("--second-look", is_flag=True, help="Keep what search --rerank sees of each image, so that it is quick.")
@click.option("--ocr", is_flag=True, help="Read the words in images, too, as read-text does.")
@model_option
@precision_option
@json_option
@library_option
def index(
    *,
    folders: tuple[Path, ...],
    exclude: tuple[str, ...],
    prune: bool,
    retry: bool,
    second_look: bool,
    ocr: bool,
    model: str | None,
    as_json: bool,
    library_dir: Path | None,
) -> None:
    """Bring the library up to date with folders; without any, with those it knows.

    Only what is new or changed is read. It can be interrupted, or killed, at any moment: run it again to go on.
    With --model, another model's vectors are added beside those that are there. The exit code is 1 if files could
    not be read; they are named with the reason.
    """
    from sightline.core.indexing.report import IndexConfig

    config = IndexConfig(exclude=exclude, remove_missing="always" if prune else "safe", retry_failures=retry)
    with Library.open(library_dir, model=model) as library:
        with ProgressBar("indexing") as bar:
            ask = partial(click.confirm, err=True) if sys.stdin.isatty() else None
            if reason := library.choose_model(confirm=ask):
                notice(reason)
            default = library.default_model
            report = library.index(*folders, config=config, on_progress=lambda event: _show_progress(bar, event))
            if default not in (None, library.model):
                notice(f"Searches use {default} as before; to change that: sightline models use {library.model}")
        if second_look and not report.interrupted:
            with ProgressBar("second look") as bar:
                library.look_ahead(on_progress=bar.show)
        if ocr and not report.interrupted:
            _read_text(library, *folders)
    if as_json:
        print_json(_report_as_json(report))
    else:
        click.echo(report.summary())
    if report.skipped or report.interrupted:
        raise SystemExit(1)


@click.command("read-text")
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=PATH)
@json_option
@library_option
def read_text(folders: tuple[Path, ...], as_json: bool, library_dir: Path | None) -> None:
    """Read the words in images, so that searches find them.

    Takes about a second or more an image, and the extra ocr. Each content is read once; Ctrl-C keeps what was read, and
    the next run goes on. Without DIR all images of the library are read.
    """
    with Library.open(library_dir, create=False) as library:
        report = _read_text(library, *folders)
    if as_json:
        counts = {"read": report.read, "with_text": report.with_text, "skipped": len(report.skipped)}
        print_json(counts | {"interrupted": report.interrupted})
    if report.skipped or report.interrupted:
        raise SystemExit(1)


def _read_text(library: Library, *folders: Path) -> TextReport:
    """Read, and say on stderr what came of it."""
    with ProgressBar("reading text") as bar:
        report = library.read_text(*folders, on_progress=bar.show)
    for skipped in report.skipped:
        notice(f"{printable(str(skipped.path))}: {skipped.reason}")
    notice(f"{report.read:,} images read, {report.with_text:,} with text; {len(report.skipped):,} could not be read.")
    if report.interrupted:
        notice("Interrupted: what was read is kept; read-text goes on.")
    return report


def _show_progress(bar: ProgressBar, event: IndexProgress) -> None:
    if event.total is None:
        bar.show(event.seen, note="files found")
        return
    parts = [f"{event.images_per_s:,.0f} images/s"] if event.images_per_s else []
    if event.seconds_left is not None:
        minutes, seconds = divmod(round(event.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    if event.skipped:
        parts.append(f"{event.skipped:,} unreadable")
    bar.show(event.done, event.total, ", ".join(parts))


def _report_as_json(report: IndexReport) -> dict[str, Any]:
    return {
        **report.counts,
        "unreadable": [{"path": str(file.path), "reason": file.reason} for file in report.skipped],
        "warnings": report.warnings,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in report.stage_seconds.items()},
    }


@click.command(cls=QueryCommand)
@click.argument("query", nargs=-1, metavar="QUERY...")
@click.option("-a", "--add", multiple=True, metavar="PART", help="A further part to look for; the same as + PART.")
@click.option("-s", "--subtract", multiple=True, metavar="PART", help="A part to look away from; the same as - PART.")
@click.option("--like", multiple=True, type=PATH, metavar="PATH", help="An image that is right, such as a hit; repeat.")
@click.option("--unlike", multiple=True, type=PATH, metavar="PATH", help="An image that is wrong; repeat.")
@_top_option
@_filepath_option
@json_option
@click.option("--min-similarity", type=click.FloatRange(-1, 1), help="Leave out results below this cosine.")
@click.option("--min-probability", type=click.FloatRange(0, 1), help="Leave out results that are less likely right.")
@click.option(
    "--no-hub-correction",
    "hub_correction",
    flag_value=False,
    default=True,
    help="Rank by cosine alone, also images that lie near to everything.",
)
@where_options
@choice_option(
    "--match",
    "both",
    "pictures",
    "captions",
    help="Go by what pictures show and what is written about them (names, folders, captions, keywords, text in them), "
    "by what they show alone, or find only those about which a word of the query is written.",
)
@choice_option("--sort", "relevance", "date", help="Best first, or the newest first of those that are likely right.")
@click.option("--plain", is_flag=True, help="Take dates and places among the words as words, not as filters.")
@click.option("--copies", "each_copy", is_flag=True, help="Give exact copies places of their own.")
@default_option(
    "--rerank",
    type=int,
    default=0,
    metavar="N",
    help="Read the first N again, image and words together; 20 are enough.",
)
@click.option(
    "--reranker", metavar="NAME", help="... with this matcher or captioner [default: blip-itm-base, if here]."
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

    Words are looked for in what images show, in their names, folders, captions and keywords, and in text in them; the
    column `why` says where they were found.

    \b
    sightline search two dogs in the snow
    sightline search ./photo.jpg
    sightline search ./beach.jpg + 2:sunset - people
    sightline search dogs -snow -"deep water"
    sightline search IMG_2041.jpg
    """
    _require_one_format(filepath_only=filepath_only, as_json=as_json)
    if writer and expansions:
        raise click.UsageError("--expand and --expansions exclude each other.")
    with Library.open(library_dir, model=model, create=False) as library:
        if writer or expansions:
            from sightline.faces.integrations.query_expansion import expand_queries

            expand_queries(library, writer=writer, expansions=expansions, chat_url=chat_url, tell=notice)
        _show_hits(library, library.search(*query, **how), filepath_only=filepath_only, as_json=as_json)


@click.command()
@click.argument("photo", type=PATH)
@_top_option
@_filepath_option
@json_option
@where_options
@model_option
@precision_option
@library_option
def similar(
    photo: Path, *, filepath_only: bool, as_json: bool, model: str | None, library_dir: Path | None, **how: Any
) -> None:
    """Find the images most like PHOTO, which need not be in the library."""
    _require_one_format(filepath_only=filepath_only, as_json=as_json)
    with Library.open(library_dir, model=model, create=False) as library:
        _show_hits(library, library.similar(photo, **how), filepath_only=filepath_only, as_json=as_json)


def _require_one_format(*, filepath_only: bool, as_json: bool) -> None:
    if filepath_only and as_json:
        raise click.UsageError("--filepath-only and --json exclude each other.")


def _show_hits(library: Library, hits: Hits, *, filepath_only: bool, as_json: bool) -> None:
    from sightline.core.search.when_where import tell_readings

    for line in (*tell_readings(hits.read_as, hits.offered), *hits.verdict.notices):
        notice(line)
    if hits.read_as:
        notice("With --plain these are words, too.")
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
        _print_hits(hits)


def _print_hits(hits: Hits) -> None:
    """A table, with a line above those that are less likely right, if there are others."""
    from sightline.core.search.relevance import count_likely

    rated = any(hit.probability is not None for hit in hits)
    captioned = any(hit.caption for hit in hits)
    explained = any(hit.why not in ((), ("picture",)) for hit in hits)
    head = ["similarity", *(["likely"] * rated), *(["why"] * explained), "path", *(["caption"] * captioned)]
    rows = []
    for hit in hits:
        likely = [] if hit.probability is None else [f"{hit.probability:.0%}"]
        rows.append(
            [
                f"{hit.similarity:.3f}",
                *likely,
                *([" ".join(hit.why)] * explained),
                _place(hit),
                *([hit.caption or ""] * captioned),
            ]
        )
    likely_count = count_likely([hit.probability for hit in hits])
    if not likely_count and hits.verdict.matches:
        notice("None of these is likely to show it.")
    print_table(head, rows, line=("less likely below", likely_count) if 0 < likely_count < len(rows) else None)


def _place(hit: Hit) -> str:
    copies = f"  (+{hit.copies} {'copy' if hit.copies == 1 else 'copies'})" if hit.copies else ""
    return f"{hit.image.path}{copies}"


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.image.id,
        "path": str(hit.image.path),
        "similarity": round(hit.similarity, 6),
        "probability": None if hit.probability is None else round(hit.probability, 4),
        "why": list(hit.why),
        "caption": hit.caption,
        "copies": hit.copies,
        **{name: value for name, value in asdict(hit.image.info).items() if name != "pixels_version"},
        "facts": hit.image.info.facts.told,
    }


@click.command()
@click.argument("name", required=False)
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE]...")
@click.option("--as", "kind", metavar="WORD", help="What it is, such as dog: it stands for NAME inside of sentences.")
@click.option("--list", "listing", is_flag=True, help="List the words that were taught.")
@click.option("--forget", metavar="NAME", help="Forget a word. Images stay.")
@json_option
@model_option
@precision_option
@library_option
def teach(
    *,
    name: str | None,
    images: tuple[Path, ...],
    kind: str | None,
    listing: bool,
    forget: str | None,
    as_json: bool,
    model: str | None,
    library_dir: Path | None,
) -> None:
    """Teach a word of your own, NAME, by three to ten images; queries use it like any other.

    \b
    sightline teach Rex a.jpg b.jpg c.jpg --as dog
    sightline search Rex on the beach
    sightline search Rex -snow

    A word that is known gets further examples. It is kept with the library, for each of its models.
    """
    if (name is not None) + listing + (forget is not None) != 1:
        raise click.UsageError("Give a NAME with images, or --list, or --forget NAME.")
    with Library.open(library_dir, model=model, create=False, read_only=listing) as library:
        if forget is not None:
            library.forget(forget)
            notice(f"Forgot {printable(forget)}.")
            return
        words = library.words() if listing else [library.teach(name or "", images, kind=kind)]
    if not words and not as_json:
        notice("No words yet: sightline teach NAME IMAGE IMAGE IMAGE")
    for word in words:
        if as_json:
            paths = [str(example.path) for example in word.examples]
            print_json({"name": word.name, "kind": word.kind, "examples": paths})
            continue
        what = f", {printable(word.kind)}" if word.kind else ""
        click.echo(f"{printable(word.name)}{what}  {len(word.examples)} example{'s' * (len(word.examples) != 1)}")
    if not listing and len(words[0].examples) < MIN_EXAMPLES:
        notice(f"Three to ten examples tell it better apart: sightline teach {printable(words[0].name)} IMAGE ...")


@click.command()
@click.argument("image", required=False, type=PATH)
@json_option
@library_option
def info(*, image: Path | None, as_json: bool, library_dir: Path | None) -> None:
    """Show what a library holds, or what it knows of an IMAGE: facts, captions, text that was read in it."""
    with Library.open(library_dir, create=False, read_only=True) as library:
        facts = library.info(image)
    if as_json:
        print_json(facts)
        return
    if image is not None:
        _show_image(facts)
        return
    models = ", ".join(f"{name} ({count:,} images)" for name, count in facts["models"].items())
    click.echo(f"library     {printable(facts['library'])}  ({facts['size_bytes'] / 1e6:,.1f} MB)")
    click.echo(f"images      {facts['images']:,}")
    click.echo(f"captions    {facts['captions']:,}")
    click.echo(f"models      {models or 'none yet'}")
    click.echo(f"default     {facts['model'] or 'none yet'}")
    click.echo(f"unreadable  {facts['unreadable']:,}")
    for folder in facts["folders"]:
        click.echo(f"folder      {printable(folder)}")


def _show_image(known: dict[str, Any]) -> None:
    told = {"size": f"{known['width']} x {known['height']}", "taken": known["taken_at"], "camera": known["camera"]}
    for name, value in {"image": known["path"], **told, **known["facts"]}.items():
        if value is not None:
            click.echo(f"{name:<12}{printable(', '.join(value) if isinstance(value, list) else str(value))}")
    lines = [("caption", caption["text"]) for caption in known["captions"]]
    for name, line in [*lines, *(("text", line["text"]) for line in known["text"] or ())]:
        click.echo(f"{name:<12}{printable(line)}")
    if known["text"] is None:
        notice("Its text was never read: sightline read-text")


@click.command()
@click.argument("paths", nargs=-1, type=PATH)
@where_options
@click.option("--model", metavar="NAME", help="Drop this model's vectors instead; the images stay.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@library_option
def remove(
    *, paths: tuple[Path, ...], where: str | None, model: str | None, yes: bool, library_dir: Path | None
) -> None:
    """Forget images, by path or filter, or a model's vectors. Files on disk are never touched."""
    if model and (paths or where):
        raise click.UsageError("--model drops vectors and goes without paths or --where.")
    with Library.open(library_dir, create=False) as library:
        if model:
            _confirm(f"Drop the vectors of {model}?", yes)
            notice(f"Dropped {library.remove_model(model):,} vectors of {model}.")
            return
        if where and not yes:
            count = sum(1 for _ in library.store.scan(where=where))
            _confirm(f"Forget {count:,} images?", yes)
        notice(f"Forgot {library.remove(paths=paths, where=where):,} images. The files are where they were.")


def _confirm(question: str, yes: bool) -> None:
    """Ask at a terminal; elsewhere the flag is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes to do it without being asked.")
    click.confirm(question, abort=True, err=True)

"""`data get`, `info`, `check` and `convert`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.data_get import get
from sightline.faces.cli.options import json_option, notice, print_json, print_table
from sightline.faces.cli.progress import ProgressBar
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.lab.data.base import Dataset
    from sightline.lab.data.checks import CheckReport
    from sightline.lab.data.facts import SplitFacts

_CASES_SHOWN = 5
_PLACES_SHOWN = 3

split_option = click.option("--split", metavar="SPLIT", help="train, val or test [default: all that there are].")
limit_option = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only N pairs of each split.")
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of --limit.")
page_option = click.option(
    "--page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html", help="Write a page of samples too."
)


@click.group()
def data() -> None:
    """Get, describe, check and convert sets of image-caption pairs.

    DATA is scenes[:SEED] or KIND:PATH, with KIND one of flickr8k, flickr30k, coco, cc, folder, csv, webdataset,
    tiny-imagenet and hf; a bare path where only one kind fits.
    """


data.add_command(get)


@data.command("info")
@click.argument("address", metavar="DATA")
@split_option
@limit_option
@seed_option
@page_option
@json_option
def show_info(
    *, address: str, split: str | None, limit: int | None, seed: int, page: Path | None, as_json: bool
) -> None:
    """Describe DATA: pictures, captions, their lengths and words, sizes of a sample, fingerprint."""
    from sightline.lab.data.addressing import parse_address
    from sightline.lab.data.facts import describe_split

    kind = parse_address(address).kind
    datasets = _load(address, split, limit=limit, seed=seed)
    facts = [describe_split(dataset, seed=seed) for dataset in datasets]
    for one in facts:
        if as_json:
            print_json({"data": address, "kind": kind, **one.to_dict()})
    if not as_json:
        click.echo(f"{printable(address)} ({kind})")
        _print_facts(facts)
    _write_page(page, address, datasets, facts=facts, seed=seed)


@data.command("check")
@click.argument("address", metavar="DATA")
@split_option
@limit_option
@seed_option
@page_option
@json_option
def check(*, address: str, split: str | None, limit: int | None, seed: int, page: Path | None, as_json: bool) -> None:
    """Read all pictures and captions of DATA, and name what is wrong with them.

    The exit code is 1 for what spoils training or its figures: pictures that can't be read or are in several splits,
    and missing captions. What is only worth knowing, such as captions that many pictures share, leaves it 0.
    """
    from sightline.lab.data.checks import check_datasets

    datasets = _load(address, split, limit=limit, seed=seed)
    with ProgressBar("checking") as bar:
        report = check_datasets(datasets, on_progress=_counting(bar))
    if as_json:
        print_json(_report_as_json(address, report))
    else:
        _print_report(report)
    _write_page(page, address, datasets, report=report, seed=seed)
    if report.has_problems:
        raise SystemExit(1)


@data.command("convert")
@click.argument("address", metavar="DATA")
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@click.option(
    "--to", "to", type=click.Choice(["folder", "csv", "coco", "webdataset"]), required=True, help="Format to write."
)
@split_option
@limit_option
@seed_option
@json_option
def convert(
    *, address: str, target: Path, to: str, split: str | None, limit: int | None, seed: int, as_json: bool
) -> None:
    """Write DATA to the new folder TARGET in another format.

    Pictures keep their bytes where DATA has them as files; others become PNG. TARGET has its name only once it is
    complete. The exit code is 1 if pairs were left out; they are named with the reason.
    """
    from sightline.lab.data.writing import convert_datasets

    datasets = _load(address, split, limit=limit, seed=seed)
    with ProgressBar("converting") as bar:
        report = convert_datasets(datasets, target, to=to, on_progress=_counting(bar))
    for lost in report.lost:
        notice(f"{to} can't hold {lost}: they are not in {target}")
    if as_json:
        skipped = [{"split": pair.split, "id": pair.id, "reason": pair.reason} for pair in report.skipped]
        print_json(
            {"data": f"{to}:{target}", "pictures": report.pictures, "captions": report.captions, "skipped": skipped}
        )
    else:
        counts = ", ".join(f"{count:,} pictures in {name}" for name, count in report.pictures.items())
        click.echo(f"{counts}, {report.captions:,} captions: {to}:{target}")
        for pair in report.skipped:
            notice(f"left out: {printable(f'{pair.split}/{pair.id}')}: {pair.reason}")
    if report.skipped:
        raise SystemExit(1)


def _load(address: str, split: str | None, *, limit: int | None, seed: int) -> list[Dataset]:
    from sightline.lab.data.addressing import available_splits, load_dataset

    splits = (split,) if split is not None else available_splits(address)
    return [load_dataset(address, split=name, limit=limit, seed=seed) for name in splits]


def _counting(bar: ProgressBar) -> Callable[[int, int, str], None]:
    """Shows how many pictures are done, with rate and time left."""
    begun_s = time.monotonic()

    def show(done: int, total: int, words: str) -> None:
        rate = done / max(time.monotonic() - begun_s, 1e-9)
        minutes, seconds = divmod(round((total - done) / rate), 60)
        bar.show(done, total=total, note=f"{rate:,.0f} pictures/s, {minutes}:{seconds:02d} left, {words}")

    return show


def _write_page(page: Path | None, address: str, datasets: list[Dataset], **content: Any) -> None:
    if page is None:
        return
    from sightline.lab.data.samples_page import PageContent, write_samples_page

    write_samples_page(page, PageContent(title=address, datasets=datasets, **content))
    notice(f"The page is {page}")


def _print_facts(facts: list[SplitFacts]) -> None:
    rows = [
        ("pictures", [f"{one.pictures:,}" for one in facts]),
        ("captions", [f"{one.captions:,}" for one in facts]),
        ("captions a picture", [str(one.captions_per_picture) for one in facts]),
        ("words a caption", [str(one.words_per_caption or "-") for one in facts]),
        ("vocabulary", [f"{one.vocabulary:,}" for one in facts]),
        ("classes", [f"{one.classes:,}" if one.classes else "-" for one in facts]),
        ("hard negatives", [_join_counts(one.hard_negatives) for one in facts]),
        ("pictures looked at", [f"{one.sampled:,}" for one in facts]),
        ("  unreadable", [_join_counts(one.unreadable) for one in facts]),
        ("  width, pixels", [str(one.width_px or "-") for one in facts]),
        ("  height, pixels", [str(one.height_px or "-") for one in facts]),
        ("fingerprint", [one.fingerprint for one in facts]),
    ]
    print_table(["split", *(one.split for one in facts)], [(name, *cells) for name, cells in rows])


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "-"


def _print_report(report: CheckReport) -> None:
    click.echo(f"{report.pictures:,} pictures and {report.captions:,} captions read")
    for finding in report.findings:
        click.echo(click.style(f"{len(finding.cases):,} {finding.title}", bold=finding.serious))
        for case in finding.cases[:_CASES_SHOWN]:
            places = ", ".join(str(place) for place in case.places[:_PLACES_SHOWN])
            more = len(case.places) - _PLACES_SHOWN
            rest = f" and {more:,} more" if more > 0 else ""
            click.echo(printable(f"    {places}{rest}{': ' if case.detail else ''}{case.detail}"))
        if len(finding.cases) > _CASES_SHOWN:
            click.echo(f"    and {len(finding.cases) - _CASES_SHOWN:,} more (all with --json)")
    if not report.has_problems:
        click.echo("No problems." if not report.findings else "No problems; the above is worth knowing.")


def _report_as_json(address: str, report: CheckReport) -> dict[str, Any]:
    return {
        "data": address,
        "pictures": report.pictures,
        "captions": report.captions,
        "problems": report.has_problems,
        "findings": [
            {
                "kind": finding.kind,
                "title": finding.title,
                "serious": finding.serious,
                "count": len(finding.cases),
                "cases": [case.to_dict() for case in finding.cases],
            }
            for finding in report.findings
        ],
    }

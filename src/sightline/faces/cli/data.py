"""Sets of image-caption pairs: `data get`, `info`, `check` and `convert`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.errors import InputError
from sightline.faces.cli.options import (
    COUNT,
    FILE,
    PATH,
    CommandGroup,
    default_option,
    json_option,
    take_fields,
    with_options,
)
from sightline.faces.cli.printing import ProgressBar, notice, print_json, print_table
from sightline.kit.pages import write_page
from sightline.kit.text import printable

if TYPE_CHECKING:
    from sightline.kit.work import Progress
    from sightline.lab.data.base import Dataset
    from sightline.lab.data.checks import CheckReport
    from sightline.lab.data.download.archives import ArchiveOptions, FetchProgress, Phase, Publisher
    from sightline.lab.data.download.lists import ListOptions, ListReport

_CASES_SHOWN = 5
_PLACES_SHOWN = 3
_seconds = click.FloatRange(min=0, min_open=True)

_choice_options = with_options(
    click.option(
        "--split",
        metavar="SPLIT",
        help="train, val (held out of train where there is none) or test [default: all that there are].",
    ),
    click.option("--limit", type=COUNT, metavar="N", help="Only N pairs of each split."),
    default_option("--seed", type=int, default=0, help="Of the choice of --limit."),
)
_page_option = click.option("--page", type=FILE, metavar="FILE.html", help="Write a page of samples too.")


@click.group(cls=CommandGroup)
def data() -> None:
    """Get, describe, check and convert sets of image-caption pairs.

    DATA is scenes[:SEED] or KIND:PATH, with KIND one of flickr8k, flickr30k, coco, cc, folder, csv, webdataset,
    tiny-imagenet and hf; a bare path where only one kind fits.
    """


@data.command()
@click.argument("name")
@click.argument("target", required=False, type=PATH)
@click.option(
    "--what", "parts", multiple=True, metavar="PART", help="Of coco: train, val or annotations [default: all]."
)
@click.option("--images", type=COUNT, metavar="N", help="Of coco: its captions and N images of train and of val only.")
@click.option("--mirror", metavar="URL", help="Fetch archives from here instead of their publisher's site.")
@click.option("--keep-archives", is_flag=True, help="Keep the archives once they are unpacked.")
@click.option(
    "--list",
    "list_file",
    type=PATH,
    metavar="FILE",
    help="A list of addresses and captions: TSV, or CSV with a heading.",
)
@click.option("--limit", type=COUNT, metavar="N", help="Only the list's first N rows.")
@default_option("--shard-size", type=COUNT, default=10_000, help="Rows of the list a shard.")
@default_option("--connections", type=COUNT, default=64, help="Fetched at the same time.")
@default_option("--tries", type=COUNT, default=3, help="For each address.")
@default_option("--connect-timeout", "connect_timeout_s", type=_seconds, default=10.0, help="Seconds until connected.")
@default_option("--read-timeout", "read_timeout_s", type=_seconds, default=10.0, help="Seconds without a byte.")
@default_option("--total-timeout", "total_timeout_s", type=_seconds, default=60.0, help="Seconds a picture, each try.")
@default_option("--max-bytes", type=COUNT, default=20_000_000, help="Largest picture in bytes.")
@default_option("--max-pixels", type=COUNT, default=50_000_000, help="Largest picture in pixels.")
@default_option("--min-side", "min_side_px", type=COUNT, default=32, help="Smallest side of a picture in pixels.")
@click.option(
    "--max-side",
    "max_side_px",
    type=COUNT,
    metavar="PX",
    help="Make larger pictures smaller [default: keep the bytes].",
)
@default_option("--quality", type=click.IntRange(1, 100), default=90, help="JPEG, with --max-side.")
@click.option("--allow-loopback", is_flag=True, help="Allow addresses of this machine in lists, for tests.")
@json_option
def get(
    *, name: str, target: Path | None, list_file: Path | None, images: int | None, as_json: bool, **options: Any
) -> None:
    """Download the data set NAME from its publisher to the folder TARGET [default: NAME].

    NAME is coco, cc12m, cc3m, flickr8k or flickr30k; of the last three you are told what to fetch by hand. With --list,
    the pictures of any list of addresses are fetched into webdataset shards, and NAME only names the folder. Addresses
    that aren't public, dead links and what is no picture are counted in the end and logged in failures.jsonl.

    It can be interrupted, or killed, at any moment: run it again to go on. A run that finds all done does nothing.
    """
    from sightline.lab.data.download.archives import ArchiveOptions, explain_unknown, load_publishers

    archives = take_fields(ArchiveOptions, options)
    publisher = load_publishers().get(name)
    folder = target or Path(name)
    if list_file is None:
        if publisher is None:
            raise explain_unknown(name)
        if publisher.by_hand is not None:
            raise InputError(publisher.explain_by_hand())
        notice(f"{publisher.title}, {publisher.page} ({publisher.licence})")
        if images is not None:
            _get_subset(publisher, folder, archives, count=images, options=_list_options(options), as_json=as_json)
            return
        if publisher.archives:
            _get_archives(publisher, folder, archives, as_json=as_json)
            return
    if options["parts"] or images is not None:
        raise InputError(
            "--what and --images choose parts of a data set that comes in archives, such as coco; a list has none."
        )
    if list_file is None:
        assert publisher is not None
        list_file = _get_publishers_list(publisher, folder, archives)
    _get_list(list_file, folder, _list_options(options), as_json=as_json)


def _list_options(options: dict[str, Any]) -> ListOptions:
    from sightline.lab.data.download.fetching import FetchLimits, ImageLimits
    from sightline.lab.data.download.lists import ListOptions

    limits = {"fetch": take_fields(FetchLimits, options), "image": take_fields(ImageLimits, options)}
    return take_fields(ListOptions, {**options, **limits})


@contextmanager
def _fetching() -> Iterator[FetchProgress]:
    """Shows what is done in turn, each on a bar of its own; bytes in megabytes. Ctrl-C ends with how to go on."""

    def show(phase: Phase, done: int, total: int | None, words: str) -> None:
        if str(phase) != bar.what:
            bar.begin(str(phase))
            notice(str(phase))
        if phase.doing == "fetching":
            done, total = done // 1_000_000, None if total is None else total // 1_000_000
            words = f"MB, {words}"
        bar.show(done, total, words)

    try:
        with ProgressBar() as bar:
            yield show
    except KeyboardInterrupt:
        raise _interrupted() from None


def _get_archives(publisher: Publisher, folder: Path, options: ArchiveOptions, *, as_json: bool) -> None:
    from sightline.lab.data.download.archives import get_archives

    with _fetching() as show:
        receipts = get_archives(publisher, folder, options, on_progress=show)
    if as_json:
        archives = {name: asdict(receipt) for name, receipt in receipts.items()}
        print_json({"data": f"{publisher.name}:{folder}", "archives": archives})
        return
    for name, receipt in receipts.items():
        click.echo(f"{name}: {receipt.files:,} files, sha256 {receipt.sha256}")
    click.echo(f"Ready: {publisher.name}:{folder}")


def _get_subset(
    publisher: Publisher, folder: Path, archives: ArchiveOptions, *, count: int, options: ListOptions, as_json: bool
) -> None:
    from sightline.lab.data.download.subset import get_subset

    with _fetching() as show:
        reports = get_subset(publisher, folder, archives, count=count, options=options, on_progress=show)
    if as_json:
        print_json({"data": f"{publisher.name}:{folder}", "parts": [asdict(report) for report in reports]})
    else:
        for report in reports:
            click.echo(f"{report.part}: {report.images:,} of {report.wanted:,} images")
            for reason, number in report.reasons.items():
                click.echo(f"    {number:,} failed: {reason}")
        click.echo(f"Ready: {publisher.name}:{folder}")
    if any(report.wanted and not report.images for report in reports):
        raise SystemExit(1)


def _get_publishers_list(publisher: Publisher, folder: Path, options: ArchiveOptions) -> Path:
    from sightline.lab.data.download.archives import get_list

    with _fetching() as show:
        return get_list(publisher, folder, options, on_progress=show)


def _get_list(list_file: Path, folder: Path, options: ListOptions, *, as_json: bool) -> None:
    from sightline.lab.data.download.lists import download_list

    with ProgressBar("fetching") as bar:
        report = download_list(list_file, folder, options, on_progress=bar.show)
    if as_json:
        print_json({"data": f"webdataset:{folder}", **report.to_dict()})
    else:
        _print_list_report(report)
    if report.interrupted:
        raise _interrupted()
    if not report.pictures:
        notice(f"No picture came. Why, row by row: {folder / 'failures.jsonl'}")
        raise SystemExit(1)


def _print_list_report(report: ListReport) -> None:
    click.echo(
        f"{report.pictures:,} pictures of {report.rows_wanted:,} rows in {report.shards:,} shards, "
        f"{report.size_bytes / 1e6:,.1f} MB: webdataset:{report.folder}"
    )
    for reason, rows in report.reasons.items():
        click.echo(f"    {rows:,} failed: {reason}")


def _interrupted() -> SystemExit:
    notice("Interrupted. What is finished is kept: run the same command again to go on.")
    return SystemExit(1)


@data.command("info")
@click.argument("address", metavar="DATA")
@_choice_options
@_page_option
@json_option
def show_info(
    *, address: str, split: str | None, limit: int | None, seed: int, page: Path | None, as_json: bool
) -> None:
    """Describe DATA: pictures, captions, their lengths and words, sizes of a sample, fingerprint."""
    from sightline.lab.data.addressing import parse_address
    from sightline.lab.data.facts import describe_split, tabulate_facts

    kind = parse_address(address).kind
    datasets = _load(address, split, limit=limit, seed=seed)
    facts = [describe_split(dataset, seed=seed) for dataset in datasets]
    for one in facts:
        if as_json:
            print_json({"data": address, "kind": kind, **one.to_dict()})
    if not as_json:
        click.echo(f"{printable(address)} ({kind})")
        print_table(["split", *(one.split for one in facts)], tabulate_facts(facts))
    _write_page(page, address, datasets, facts=facts, seed=seed)


@data.command("check")
@click.argument("address", metavar="DATA")
@_choice_options
@_page_option
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
        print_json({"data": address, **report.to_dict()})
    else:
        _print_report(report)
    _write_page(page, address, datasets, report=report, seed=seed)
    if report.has_problems:
        raise SystemExit(1)


@data.command("convert")
@click.argument("address", metavar="DATA")
@click.argument("target", metavar="TARGET", type=PATH)
@click.option(
    "--to", type=click.Choice(["folder", "csv", "coco", "webdataset"]), required=True, help="Format to write."
)
@_choice_options
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
    named = split is not None  # else a source is taken as it is, undivided where it has no val split
    return [load_dataset(address, split=name, limit=limit, seed=seed, hold_out=named) for name in splits]


def _counting(bar: ProgressBar) -> Progress:
    """Shows how many pictures are done, with rate and time left."""
    begun_s = time.monotonic()

    def show(done: int, total: int | None, words: str) -> None:
        rate = done / max(time.monotonic() - begun_s, 1e-9)
        minutes, seconds = divmod(round(((total or done) - done) / rate), 60)
        bar.show(done, total, f"{rate:,.0f} pictures/s, {minutes}:{seconds:02d} left, {words}")

    return show


def _write_page(page: Path | None, address: str, datasets: list[Dataset], **content: Any) -> None:
    if page is None:
        return
    from sightline.lab.data.facts import format_page

    write_page(page, format_page(address, datasets, **content))
    notice(f"The page is {page}")


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

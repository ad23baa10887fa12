"""`data get`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.faces.cli.options import json_option, notice, print_json
from sightline.faces.cli.progress import ProgressBar

if TYPE_CHECKING:
    from sightline.lab.data.download.archives import ArchiveOptions, Publisher
    from sightline.lab.data.download.lists import ListOptions, ListReport

_count = click.IntRange(min=1)
_seconds = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("name")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--what", multiple=True, metavar="PART", help="Of coco: train, val or annotations [default: all].")
@click.option("--mirror", metavar="URL", help="Fetch archives from here instead of their publisher's site.")
@click.option("--keep-archives", is_flag=True, help="Keep the archives once they are unpacked.")
@click.option(
    "--list",
    "list_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A list of addresses and captions: TSV, or CSV with a heading.",
)
@click.option("--limit", type=_count, metavar="N", help="Only the list's first N rows.")
@click.option("--shard-size", type=_count, default=10_000, show_default=True, help="Rows of the list a shard.")
@click.option("--connections", type=_count, default=64, show_default=True, help="Fetched at the same time.")
@click.option("--tries", type=_count, default=3, show_default=True, help="For each address.")
@click.option("--connect-timeout", type=_seconds, default=10.0, show_default=True, help="Seconds until connected.")
@click.option("--read-timeout", type=_seconds, default=10.0, show_default=True, help="Seconds without a byte.")
@click.option("--total-timeout", type=_seconds, default=60.0, show_default=True, help="Seconds a picture, each try.")
@click.option("--max-bytes", type=_count, default=20_000_000, show_default=True, help="Largest picture in bytes.")
@click.option("--max-pixels", type=_count, default=50_000_000, show_default=True, help="Largest picture in pixels.")
@click.option("--min-side", type=_count, default=32, show_default=True, help="Smallest side of a picture in pixels.")
@click.option("--max-side", type=_count, metavar="PX", help="Make larger pictures smaller [default: keep the bytes].")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG, with --max-side.")
@click.option("--allow-loopback", is_flag=True, help="Allow addresses of this machine in lists, for tests.")
@json_option
def get(*, name: str, target: Path | None, list_file: Path | None, as_json: bool, **options: Any) -> None:
    """Download the data set NAME from its publisher to the folder TARGET [default: NAME].

    NAME is coco, cc12m, cc3m, flickr8k or flickr30k; of the last three you are told what to fetch by hand. With --list,
    the pictures of any list of addresses are fetched into webdataset shards, and NAME only names the folder. Addresses
    that aren't public, dead links and what is no picture are counted in the end and logged in failures.jsonl.

    It can be interrupted, or killed, at any moment: run it again to go on. A run that finds all done does nothing.
    """
    from sightline.errors import InputError
    from sightline.lab.data.download.archives import explain_unknown, find_publisher

    publisher = find_publisher(name)
    folder = target or Path(name)
    if list_file is None:
        if publisher is None:
            raise explain_unknown(name)
        if publisher.by_hand is not None:
            raise InputError(publisher.explain_by_hand())
        notice(f"{publisher.title}, {publisher.page} ({publisher.licence})")
        if publisher.archives:
            _get_archives(publisher, folder, _archive_options(options), as_json=as_json)
            return
    if options["what"]:
        raise InputError("--what chooses parts of a data set that comes in archives, such as coco; a list has none.")
    if list_file is None:
        assert publisher is not None
        list_file = _get_publishers_list(publisher, folder, _archive_options(options))
    _get_list(list_file, folder, _list_options(options), as_json=as_json)


def _archive_options(options: dict[str, Any]) -> ArchiveOptions:
    from sightline.lab.data.download.archives import ArchiveOptions

    return ArchiveOptions(parts=options["what"], mirror=options["mirror"], keep_archives=options["keep_archives"])


def _list_options(options: dict[str, Any]) -> ListOptions:
    from sightline.lab.data.download.fetching import FetchLimits, PictureLimits
    from sightline.lab.data.download.lists import ListOptions

    return ListOptions(
        fetch=FetchLimits(
            connect_timeout_s=options["connect_timeout"],
            read_timeout_s=options["read_timeout"],
            total_timeout_s=options["total_timeout"],
            max_bytes=options["max_bytes"],
            tries=options["tries"],
            allow_loopback=options["allow_loopback"],
        ),
        picture=PictureLimits(
            max_pixels=options["max_pixels"],
            min_side_px=options["min_side"],
            max_side_px=options["max_side"],
            quality=options["quality"],
        ),
        connections=options["connections"],
        shard_size=options["shard_size"],
        limit=options["limit"],
    )


class _Phases:
    """A bar for each thing that is done in turn. Bytes are shown in megabytes."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _Phases:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def show(self, what: str, done: int, total: int | None, words: str) -> None:
        if what != self._what or self._bar is None:
            self.__exit__()
            self._what, self._bar = what, ProgressBar(what)
            notice(what)
        if what.startswith("fetching"):
            done, total = done // 1_000_000, None if total is None else total // 1_000_000
            words = f"MB, {words}"
        self._bar.show(done, total=total, note=words)


def _get_archives(publisher: Publisher, folder: Path, options: ArchiveOptions, *, as_json: bool) -> None:
    from sightline.lab.data.download.archives import get_archives

    try:
        with _Phases() as phases:
            receipts = get_archives(publisher, folder, options, on_progress=phases.show)
    except KeyboardInterrupt:
        raise _interrupted() from None
    if as_json:
        archives = {name: asdict(receipt) for name, receipt in receipts.items()}
        print_json({"data": f"{publisher.name}:{folder}", "archives": archives})
        return
    for name, receipt in receipts.items():
        click.echo(f"{name}: {receipt.files:,} files, sha256 {receipt.sha256}")
    click.echo(f"Ready: {publisher.name}:{folder}")


def _get_publishers_list(publisher: Publisher, folder: Path, options: ArchiveOptions) -> Path:
    from sightline.lab.data.download.archives import get_list

    try:
        with _Phases() as phases:
            return get_list(publisher, folder, options, on_progress=phases.show)
    except KeyboardInterrupt:
        raise _interrupted() from None


def _get_list(list_file: Path, folder: Path, options: ListOptions, *, as_json: bool) -> None:
    from sightline.lab.data.download.lists import download_list

    with ProgressBar("fetching") as bar:
        report = download_list(
            list_file, folder, options, on_progress=lambda done, total, words: bar.show(done, total=total, note=words)
        )
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

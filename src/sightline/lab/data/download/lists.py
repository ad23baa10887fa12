"""A list of addresses downloaded into webdataset shards: many connections, a few decoding threads, one log.

Shard k holds what could be had of rows k * shard_size up to the next shard's first. A few shards are open at a time, so
that slow servers at a shard's end don't leave the other connections idle. A shard counts once its line is in
`progress.jsonl`, written after its lines in `failures.jsonl` and its tar: whatever else a killed run left is taken back
when the next one begins.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sightline.errors import DataError, ImageError, InputError
from sightline.kit.files import explained, replacing, write_text
from sightline.kit.work import Progress, usable_cpus
from sightline.lab.data.conceptual import UrlList, UrlRow
from sightline.lab.data.download.fetching import (
    Fetcher,
    FetchLimits,
    ImageLimits,
    KeptImage,
    check_at_least_one,
    keep_image,
    run_apart,
)
from sightline.lab.data.writing import ShardWriter, encode_json, name_shard

PLAN = "download.json"
PROGRESS = "progress.jsonl"
FAILURES = "failures.jsonl"
_IMAGE_FACTS = ("width", "height", "original_width", "original_height", "sha256")
"""Fields of a KeptImage that a sample's JSON has."""


Get = Callable[[str], Awaitable[KeptImage]]
"""Fetches, checks and makes smaller the image of an address. Raises ImageError where it can't be had."""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Settings of a list's download."""

    fetch: FetchLimits = field(default_factory=FetchLimits)
    image: ImageLimits = field(default_factory=ImageLimits)
    connections: int = 64
    shard_size: int = 10_000
    """Rows of the list a shard."""
    limit: int | None = None
    """Only the list's first rows."""

    def __post_init__(self) -> None:
        """Raises InputError for numbers below 1."""
        check_at_least_one(self, "connections", "shard_size", "limit")


@dataclass(frozen=True, kw_only=True)
class ListReport:
    """All that lies in the folder after a run, earlier runs included."""

    folder: Path
    rows: int
    """Rows of finished shards."""
    rows_wanted: int
    pictures: int
    size_bytes: int
    """All images together."""
    shards: int
    reasons: dict[str, int]
    """Kind of failure -> rows, the most frequent first."""
    seconds: float
    interrupted: bool

    @property
    def failed(self) -> int:
        """Rows without an image."""
        return self.rows - self.pictures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "folder": str(self.folder), "failed": self.failed, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A finished shard."""

    shard: int
    rows: int
    """Rows of the list that it covers."""
    pictures: int
    size_bytes: int
    reasons: Mapping[str, int] = field(default_factory=dict)


def download_list(
    list_file: Path, folder: Path, options: ListOptions, *, on_progress: Progress | None = None
) -> ListReport:
    """Download what a list names into `folder`; what is finished there already is left alone.

    Ctrl-C ends it early: finished shards stay, and the report says so. Raises InputError for a list that can't be read
    or a folder that holds something else, DataError where the folder can't be written, as on a full disk.
    """
    begun_s = time.monotonic()
    urls = UrlList(list_file)
    n_rows = min(urls.n_rows, options.limit or urls.n_rows)
    interrupted = False
    advice = "Finished shards are complete; free space or choose another folder, then run the same command again."
    with explained(folder, advice, error=DataError):
        log = ListLog(folder, _plan(urls, options), n_rows=n_rows)
        try:
            run_apart(partial(_Run(log, options, n_rows, on_progress).finish, urls))
        except KeyboardInterrupt:
            interrupted = True
    shards = log.finished.values()
    reasons = sum((Counter(shard.reasons) for shard in shards), Counter[str]())
    return ListReport(
        folder=folder,
        rows=sum(shard.rows for shard in shards),
        rows_wanted=n_rows,
        pictures=sum(shard.pictures for shard in shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
        shards=len(shards),
        reasons=dict(reasons.most_common()),
        seconds=time.monotonic() - begun_s,
        interrupted=interrupted,
    )


def _plan(urls: UrlList, options: ListOptions) -> dict[str, Any]:
    """All that must stay the same from one run to the next."""
    return {
        "list": urls.path.name,
        "list_sha256": urls.sha256,
        "shard_size": options.shard_size,
        "max_side_px": options.image.max_side_px,
        "quality": options.image.quality,
    }


class ListLog:
    """The log of one target folder. Raises InputError where the folder holds something else, or another download."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, n_rows: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._begin(plan)
        self._shard_size = int(plan["shard_size"])
        self.finished: dict[int, ShardRecord] = {}
        self._resume(n_rows)

    def add_shard(self, record: ShardRecord) -> None:
        """Say that a shard is complete."""
        _append(self.folder / PROGRESS, [asdict(record)])
        self.finished[record.shard] = record

    def _begin(self, plan: Mapping[str, Any]) -> None:
        file = self.folder / PLAN
        if not file.is_file():
            if any(not entry.name.startswith(".") and entry.name != plan["list"] for entry in self.folder.iterdir()):
                raise InputError(f"{self.folder} is not empty and no download was begun in it. Choose another folder.")
            write_text(file, json.dumps(plan, indent=1) + "\n", durable=True)
        try:
            begun = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file} is no plan of a download; delete the folder, or choose another.") from error
        if changed := next((key for key, wanted in plan.items() if begun.get(key) != wanted), None):
            raise InputError(
                f"{self.folder} holds a download with {changed} {begun.get(changed)}, not {plan[changed]}. Go on with "
                "the same list and options, or choose another folder."
            )

    def _resume(self, n_rows: int) -> None:
        """Keep what is finished; take back the failures of other shards, and half-written files."""
        progress, failures = self.folder / PROGRESS, self.folder / FAILURES
        for record in _read_records(progress):
            shard = ShardRecord(**record)
            # a shard is whole where its file is there and covers all its rows: that of a limited run may be cut short
            wanted = min(self._shard_size, n_rows - shard.shard * self._shard_size)
            if shard.rows >= wanted and (self.folder / name_shard(shard.shard)).is_file():
                self.finished[shard.shard] = shard
        _replace(progress, map(asdict, self.finished.values()))
        told = _read_records(failures)
        _replace(failures, (one for one in told if int(one["row"]) // self._shard_size in self.finished))
        for left in self.folder.glob(".*.tar.partial"):
            left.unlink()


def _read_records(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log; a line that a kill cut short is none."""
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with suppress(ValueError):
                    yield json.loads(line)


def _replace(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with replacing(file, durable=True) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)


def _append(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
        stream.flush()
        os.fsync(stream.fileno())


@asynccontextmanager
async def fetching(options: ListOptions) -> AsyncIterator[tuple[asyncio.TaskGroup, Get]]:
    """Tasks, and what gets one checked image for them. What one task meets, such as a full disk, ends all alike."""
    decoders = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
    try:
        async with Fetcher(options.fetch, connections=options.connections) as fetcher, asyncio.TaskGroup() as group:

            async def get(url: str) -> KeptImage:
                data = await fetcher.fetch(url)
                return await asyncio.get_running_loop().run_in_executor(decoders, keep_image, data, options.image)

            yield group, get
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        decoders.shutdown(cancel_futures=True)


class _OpenShard:
    """A shard whose rows are on their way."""

    def __init__(self, number: int, rows: int, path: Path) -> None:
        self.number = number
        self.rows = rows
        self.left = rows
        self.writer = ShardWriter(path)
        self.failures: list[tuple[UrlRow, str, str]] = []
        """With reason, and reason without figures, which is fit for counting."""
        self.size_bytes = 0


class _Run:
    """The state of one run; only the event loop's thread touches it."""

    def __init__(self, log: ListLog, options: ListOptions, n_rows: int, on_progress: Progress | None) -> None:
        self._log = log
        self._options = options
        self._n_rows = n_rows
        self._on_progress = on_progress
        self._open: dict[int, _OpenShard] = {}
        self._rows_done = 0
        self._failed = 0
        self._fetched_bytes = 0
        self._begun_s = time.monotonic()
        self._rows_before = 0
        """Done by earlier runs."""
        self._shard_closed = asyncio.Event()

    async def finish(self, urls: UrlList) -> None:
        """All rows of all shards that are not finished yet."""
        queue: asyncio.Queue[UrlRow | None] = asyncio.Queue(self._options.connections)
        try:
            async with fetching(self._options) as (group, get):
                for _ in range(self._options.connections):
                    group.create_task(self._work(queue, get))
                await self._feed(queue, urls)
        finally:
            for shard in self._open.values():
                shard.writer.abandon()

    async def _feed(self, queue: asyncio.Queue[UrlRow | None], urls: UrlList) -> None:
        remaining = islice(urls, self._n_rows)
        number = 0
        while rows := list(islice(remaining, self._options.shard_size)):
            if number in self._log.finished:
                self._rows_done += len(rows)
                self._rows_before += len(rows)
            else:
                while len(self._open) >= 3:
                    self._shard_closed.clear()
                    await self._shard_closed.wait()
                self._open[number] = _OpenShard(number, len(rows), self._log.folder / name_shard(number))
                for row in rows:
                    await queue.put(row)
            number += 1
        for _ in range(self._options.connections):
            await queue.put(None)

    async def _work(self, queue: asyncio.Queue[UrlRow | None], get: Get) -> None:
        while (row := await queue.get()) is not None:
            number, index = divmod(row.row, self._options.shard_size)
            shard = self._open[number]
            try:
                if row.problem is not None:
                    raise ImageError(row.problem)
                image = await get(row.url)
            except ImageError as error:
                shard.failures.append((row, str(error), error.reason))
                self._failed += 1
            else:
                self._fetched_bytes += image.fetched_bytes
                key = f"{number:05d}{index:0{len(str(self._options.shard_size - 1))}d}"  # unique in the whole set
                facts = {"key": key, "row": row.row, "url": row.url, "caption": row.caption}
                facts |= {name: getattr(image, name) for name in _IMAGE_FACTS}
                members = {image.suffix: image.data, "txt": row.caption.encode(), "json": encode_json(facts)}
                shard.writer.add(key, members)
                shard.size_bytes += len(image.data)
            shard.left -= 1
            if shard.left == 0:
                self._close(shard)
            self._rows_done += 1
            self._tell()

    def _close(self, shard: _OpenShard) -> None:
        failures = sorted(shard.failures, key=lambda failure: failure[0].row)
        told = ({"row": row.row, "url": row.url, "reason": reason} for row, reason, _ in failures)
        _append(self._log.folder / FAILURES, told)
        shard.writer.finish()
        self._log.add_shard(
            ShardRecord(
                shard=shard.number,
                rows=shard.rows,
                pictures=shard.rows - len(failures),
                size_bytes=shard.size_bytes,
                reasons=dict(Counter(kind for _, _, kind in failures)),
            )
        )
        del self._open[shard.number]
        self._shard_closed.set()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        seconds = max(time.monotonic() - self._begun_s, 1e-9)
        rate = (self._rows_done - self._rows_before) / seconds
        minutes, left_s = divmod(round((self._n_rows - self._rows_done) / rate), 60)
        words = f"{rate:,.0f} rows/s, {self._fetched_bytes / seconds / 1e6:.1f} MB/s, {minutes}:{left_s:02d} left"
        self._on_progress(self._rows_done, self._n_rows, f"{words}, {self._failed:,} failed")

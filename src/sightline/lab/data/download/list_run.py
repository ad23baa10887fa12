"""Downloading a list of addresses into webdataset shards: many connections, a few decoding threads, one log.

Shard k holds what could be had of rows k * shard_size up to the next shard's first. A few shards are open at a time, so
that slow servers at a shard's end don't leave the other connections idle.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sightline.errors import DataError, ImageError, InputError
from sightline.lab.data.download.fetching import Fetcher, FetchLimits
from sightline.lab.data.download.list_log import Failure, ListLog, ShardRecord
from sightline.lab.data.download.pictures import KeptPicture, PictureLimits, keep_picture
from sightline.lab.data.download.shards import ShardWriter, encode_json, name_key, name_shard
from sightline.lab.data.download.url_lists import UrlList, UrlRow, open_url_list

_OPEN_SHARDS = 3

OnProgress = Callable[[int, int, str], None]
"""Takes rows done, rows in all, and a few words."""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How a list is downloaded."""

    fetch: FetchLimits = field(default_factory=FetchLimits)
    picture: PictureLimits = field(default_factory=PictureLimits)
    connections: int = 64
    shard_size: int = 10_000
    """Rows of the list a shard."""
    limit: int | None = None
    """Only the list's first rows."""

    def __post_init__(self) -> None:
        """Raises InputError for numbers below 1."""
        for name in ("connections", "shard_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1; it is {value}.")


@dataclass(frozen=True, kw_only=True)
class ListReport:
    """What lies in the folder after a run, earlier runs included."""

    folder: Path
    rows: int
    """Rows of finished shards."""
    rows_wanted: int
    pictures: int
    size_bytes: int
    """Of the pictures."""
    shards: int
    reasons: dict[str, int]
    """Kind of failure -> rows, the most frequent first."""
    seconds: float
    interrupted: bool

    @property
    def failed(self) -> int:
        """Rows without a picture."""
        return self.rows - self.pictures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "folder": str(self.folder), "failed": self.failed, "seconds": round(self.seconds, 3)}


def download_list(
    list_file: Path, folder: Path, options: ListOptions, *, on_progress: OnProgress | None = None
) -> ListReport:
    """Download what a list names into `folder`; what is finished there already is left alone.

    Ctrl-C ends it early: finished shards stay, and the report says so. Raises InputError for a list that can't be read
    or a folder that holds something else, DataError where the folder can't be written, as on a full disk.
    """
    begun_s = time.monotonic()
    urls = open_url_list(list_file)
    n_rows = min(urls.n_rows, options.limit or urls.n_rows)
    log = _open_log(folder, urls, options, n_rows)
    run = _Run(log, options, n_rows, on_progress)
    interrupted = False
    try:
        asyncio.run(run.finish(urls))
    except KeyboardInterrupt:
        interrupted = True
    except OSError as error:
        raise _cant_write(folder, error) from error
    shards = log.finished.values()
    return ListReport(
        folder=folder,
        rows=sum(shard.rows for shard in shards),
        rows_wanted=n_rows,
        pictures=sum(shard.pictures for shard in shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
        shards=len(shards),
        reasons=dict(log.count_reasons().most_common()),
        seconds=time.monotonic() - begun_s,
        interrupted=interrupted,
    )


def _open_log(folder: Path, urls: UrlList, options: ListOptions, n_rows: int) -> ListLog:
    plan = {
        "list": urls.path.name,
        "list_sha256": urls.sha256,
        "shard_size": options.shard_size,
        "max_side_px": options.picture.max_side_px,
        "quality": options.picture.quality,
    }
    try:
        return ListLog(folder, plan, n_rows=n_rows)
    except OSError as error:
        raise _cant_write(folder, error) from error


def _cant_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder} can't be written: {error.strerror or error}. Finished shards are complete; free space or choose "
        "another folder, then run the same command again to go on."
    )


class _OpenShard:
    """A shard whose rows are on their way."""

    def __init__(self, number: int, rows: int, path: Path) -> None:
        self.number = number
        self.rows = rows
        self.left = rows
        self.writer = ShardWriter(path)
        self.failures: list[Failure] = []
        self.pictures = 0
        self.size_bytes = 0


class _Run:
    """The state of one run; only the event loop's thread touches it."""

    def __init__(self, log: ListLog, options: ListOptions, n_rows: int, on_progress: OnProgress | None) -> None:
        self._log = log
        self._options = options
        self._n_rows = n_rows
        self._on_progress = on_progress
        self._open: dict[int, _OpenShard] = {}
        self._rows_done = 0
        self._failed = 0
        self._fetched_bytes = 0
        self._begun_s = time.monotonic()
        self._rows_begun = 0
        self._shard_closed = asyncio.Event()

    async def finish(self, urls: UrlList) -> None:
        """All rows of all shards that are not finished yet."""
        queue: asyncio.Queue[UrlRow | None] = asyncio.Queue(self._options.connections)
        decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        try:
            async with (
                Fetcher(self._options.fetch, connections=self._options.connections) as fetcher,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(self._options.connections):
                    group.create_task(self._work(queue, fetcher, decoders))
                await self._feed(queue, urls)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # what one worker met, such as a full disk, ends all alike
        finally:
            decoders.shutdown(cancel_futures=True)
            for shard in self._open.values():
                shard.writer.abandon()

    async def _feed(self, queue: asyncio.Queue[UrlRow | None], urls: UrlList) -> None:
        for number, rows in self._shards(urls):
            while len(self._open) >= _OPEN_SHARDS:
                self._shard_closed.clear()
                await self._shard_closed.wait()
            self._open[number] = _OpenShard(number, len(rows), self._log.folder / name_shard(number))
            for row in rows:
                await queue.put(row)
        for _ in range(self._options.connections):
            await queue.put(None)

    def _shards(self, urls: UrlList) -> Iterator[tuple[int, list[UrlRow]]]:
        rows = islice(urls, self._n_rows)
        number = 0
        while block := list(islice(rows, self._options.shard_size)):
            if number in self._log.finished:
                self._rows_done += len(block)
                self._rows_begun += len(block)
            else:
                yield number, block
            number += 1

    async def _work(self, queue: asyncio.Queue[UrlRow | None], fetcher: Fetcher, decoders: ThreadPoolExecutor) -> None:
        while (row := await queue.get()) is not None:
            outcome: KeptPicture | Failure
            try:
                if row.problem is not None:
                    raise ImageError(row.problem)
                data = await fetcher.fetch(row.url)
                self._fetched_bytes += len(data)
                loop = asyncio.get_running_loop()
                outcome = await loop.run_in_executor(decoders, keep_picture, data, self._options.picture)
            except ImageError as error:
                outcome = Failure(row=row.row, url=row.url, reason=error.reason)
            self._take(row, outcome)

    def _take(self, row: UrlRow, outcome: KeptPicture | Failure) -> None:
        number, index = divmod(row.row, self._options.shard_size)
        shard = self._open[number]
        if isinstance(outcome, Failure):
            shard.failures.append(outcome)
            self._failed += 1
        else:
            key = name_key(number, index, shard_size=self._options.shard_size)
            shard.writer.add(key, _members(row, outcome, key))
            shard.pictures += 1
            shard.size_bytes += len(outcome.data)
        shard.left -= 1
        if shard.left == 0:
            self._close(shard)
        self._rows_done += 1
        self._tell()

    def _close(self, shard: _OpenShard) -> None:
        failures = sorted(shard.failures, key=lambda failure: failure.row)
        self._log.add_failures(failures)
        shard.writer.finish()
        self._log.add_shard(
            ShardRecord(
                shard=shard.number,
                rows=shard.rows,
                pictures=shard.pictures,
                size_bytes=shard.size_bytes,
                reasons=dict(Counter(failure.kind for failure in failures)),
            )
        )
        del self._open[shard.number]
        self._shard_closed.set()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        seconds = max(time.monotonic() - self._begun_s, 1e-9)
        rate = (self._rows_done - self._rows_begun) / seconds
        minutes, left_s = divmod(round((self._n_rows - self._rows_done) / rate), 60)
        words = f"{rate:,.0f} rows/s, {self._fetched_bytes / seconds / 1e6:.1f} MB/s, {minutes}:{left_s:02d} left"
        self._on_progress(self._rows_done, self._n_rows, f"{words}, {self._failed:,} failed")


def _members(row: UrlRow, picture: KeptPicture, key: str) -> dict[str, bytes]:
    facts = {
        "key": key,
        "row": row.row,
        "url": row.url,
        "caption": row.caption,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "sha256": picture.sha256,
    }
    return {picture.suffix: picture.data, "txt": row.caption.encode(), "json": encode_json(facts)}

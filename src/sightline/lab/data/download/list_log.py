"""What a download of a list has finished: `progress.jsonl`, a line a shard, and `failures.jsonl`, a line a lost row.

A shard counts once its line is in `progress.jsonl`, written after its failures and its tar: whatever else a killed run
left is taken back when the next one begins.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.lab.data.download.shards import name_shard

PLAN = "download.json"
PROGRESS = "progress.jsonl"
FAILURES = "failures.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A row without a picture."""

    row: int
    url: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without its figures, fit for counting."""
        return self.reason.partition(":")[0] if self.reason.startswith("too ") else self.reason


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A finished shard."""

    shard: int
    rows: int
    """Rows of the list that it covers."""
    pictures: int
    size_bytes: int
    reasons: Mapping[str, int] = field(default_factory=dict)


class ListLog:
    """The log of one target folder. Raises InputError where the folder holds something else, or another download."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, n_rows: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._begin(plan)
        self._shard_size = int(plan["shard_size"])
        self.finished: dict[int, ShardRecord] = {}
        self._resume(n_rows)

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Append rows that failed, on disk when this returns."""
        _append(self.folder / FAILURES, [json.dumps(asdict(failure)) for failure in failures])

    def add_shard(self, record: ShardRecord) -> None:
        """Say that a shard is complete."""
        _append(self.folder / PROGRESS, [json.dumps(asdict(record))])
        self.finished[record.shard] = record

    def count_reasons(self) -> Counter[str]:
        """Kinds of failures of all finished shards."""
        counts: Counter[str] = Counter()
        for record in self.finished.values():
            counts.update(record.reasons)
        return counts

    def _begin(self, plan: Mapping[str, Any]) -> None:
        file = self.folder / PLAN
        if file.is_file():
            _compare(file, plan)
        elif any(not entry.name.startswith(".") and entry.name != plan["list"] for entry in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and no download was begun in it. Choose another folder.")
        else:
            _replace(file, [json.dumps(plan, indent=1)])

    def _resume(self, n_rows: int) -> None:
        """Keep what is finished; take back the failures of other shards, and half-written files."""
        progress, failures = self.folder / PROGRESS, self.folder / FAILURES
        records = [record for line in _read_lines(progress) if (record := _parse_record(line)) is not None]
        self.finished = {record.shard: record for record in records if self._is_whole(record, n_rows)}
        _replace(progress, [json.dumps(asdict(record)) for record in self.finished.values()])
        _replace(failures, [line for line in _read_lines(failures) if self._is_of_finished(line)])
        for partial in self.folder.glob(".*.tar.partial"):
            partial.unlink()

    def _is_whole(self, record: ShardRecord, n_rows: int) -> bool:
        """Whether the shard's file is there and covers all its rows: that of a limited run may be cut short."""
        wanted = min(self._shard_size, n_rows - record.shard * self._shard_size)
        return record.rows >= wanted and (self.folder / name_shard(record.shard)).is_file()

    def _is_of_finished(self, line: str) -> bool:
        try:
            return int(json.loads(line)["row"]) // self._shard_size in self.finished
        except (ValueError, TypeError, KeyError):
            return False


def _parse_record(line: str) -> ShardRecord | None:
    """None for a line that a kill cut short."""
    try:
        return ShardRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _compare(file: Path, plan: Mapping[str, Any]) -> None:
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is no JSON; delete the folder, or choose another.") from error
    differing = [key for key in plan if not isinstance(begun, dict) or begun.get(key) != plan[key]]
    if differing:
        key = differing[0]
        was = begun.get(key) if isinstance(begun, dict) else None
        raise InputError(
            f"{file.parent} holds a download with {key} {was}, not {plan[key]}. Go on with the same list and options, "
            "or choose another folder."
        )


def _read_lines(file: Path) -> Iterator[str]:
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from (line.rstrip("\n") for line in stream)


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")


def _replace(file: Path, lines: Iterable[str]) -> None:
    with _partial(file).open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())
    _partial(file).replace(file)


def _append(file: Path, lines: Iterable[str]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())

"""Webdataset shards: a tar of `key.jpg`, `key.txt` and `key.json`, which has its name only once it is complete."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_MODE = 0o644


class ShardWriter:
    """Writes one shard beside its name, as `.00000.tar.partial`, and gives it its name at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Add one sample: suffix without a dot -> content. Raises OSError, as on a full disk."""
        for suffix, content in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mode = len(content), _MODE
            self._tar.addfile(member, io.BytesIO(content))

    def finish(self) -> None:
        """Flush to disk and take the name. Raises OSError."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)

    def abandon(self) -> None:
        """Leave nothing behind. On a full disk closing fails too, for what is still in the buffer."""
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)


def encode_json(facts: Mapping[str, Any]) -> bytes:
    """A JSON object as UTF-8."""
    return json.dumps(facts, ensure_ascii=False).encode()


def name_shard(number: int) -> str:
    """`00000.tar`."""
    return f"{number:05d}.tar"


def name_key(shard: int, index: int, *, shard_size: int) -> str:
    """The key of a shard's sample, unique in the whole set: the shard's number, then as many digits as indexes need."""
    return f"{shard:05d}{index:0{len(str(shard_size - 1))}d}"

"""What lies where in a tar of samples: read once, kept in the cache, so that thousands of shards open quickly.

Members of one sample share their key, the path up to the first dot of the file's name, as webdataset has it.
"""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sightline.core.images.files import explain_os_error, format_of
from sightline.errors import ImageError, InputError
from sightline.kit.config import cache_dir
from sightline.lab.data.base import fingerprint_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_VERSION = 1
_BLOCK = tarfile.BLOCKSIZE
_MAX_TEXT_BYTES = 2**20
"""Of a caption or its JSON: a shard from anywhere must not fill the memory."""

_CAPTION_KEYS = ("caption", "text", "captions")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}

_Stretch = tuple[int, int]
"""Offset and size in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarImage:
    """A picture in a tar: a stretch of its bytes."""

    path: Path
    offset: int
    size_bytes: int

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the stretch can't be read or decoded."""
        from sightline.core.images.decode import read_picture

        return read_picture(self.read_bytes(), min_side_px=min_side_px).rgb

    def read_bytes(self) -> bytes:
        """The picture's file as it lies in the tar. Raises ImageError where it can't be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size_bytes)
        except OSError as error:
            raise ImageError(explain_os_error(error)) from error
        if len(data) < self.size_bytes:
            raise ImageError("cut off (its tar is shorter than when it was indexed)")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class TarSample:
    """One picture of a tar with its captions."""

    key: str
    offset: int
    size_bytes: int
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The samples of one tar in its order, and those that can't be used."""

    samples: tuple[TarSample, ...]
    left_out: tuple[tuple[str, str], ...]
    """Key and reason: `no picture`, `no text`, ..."""

    @property
    def fingerprint(self) -> str:
        """Of keys, places and captions; the same wherever the tar lies."""
        return fingerprint_of(
            part for s in self.samples for part in (s.key, f"{s.offset}:{s.size_bytes}:{len(s.captions)}", *s.captions)
        )


def index_tar(path: Path) -> TarIndex:
    """The index of an uncompressed tar, from the cache where the file has kept its size and time.

    Raises InputError for a file that is missing, no tar, compressed, damaged or cut off: it says at which byte, and
    how many samples lie before it.
    """
    kept = cache_dir() / "tar-index" / f"{fingerprint_of([str(path.absolute())])}.json"
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} can't be read: {explain_os_error(error)}.") from error
    stamp = [_VERSION, status.st_size, status.st_mtime_ns]
    index = _load(kept, stamp)
    if index is None:
        index = _read_tar(path)
        _save(kept, stamp, index)
    return index


def _load(kept: Path, stamp: list[int]) -> TarIndex | None:
    try:
        content = json.loads(kept.read_bytes())
        if content["stamp"] != stamp:
            return None
        return TarIndex(
            samples=tuple(
                TarSample(key=key, offset=offset, size_bytes=size_bytes, captions=tuple(captions))
                for key, offset, size_bytes, captions in content["samples"]
            ),
            left_out=tuple((key, reason) for key, reason in content["left_out"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: it can be made again
        return None


def _save(kept: Path, stamp: list[int], index: TarIndex) -> None:
    content = {
        "stamp": stamp,
        "samples": [[s.key, s.offset, s.size_bytes, s.captions] for s in index.samples],
        "left_out": index.left_out,
    }
    ours = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        ours.write_text(json.dumps(content), encoding="utf-8")
        ours.replace(kept)
    except OSError as error:
        _LOG.warning("The index of a tar can't be kept in %s: %s.", kept.parent, explain_os_error(error))


def _read_tar(path: Path) -> TarIndex:
    with path.open("rb") as file:
        parts: dict[str, dict[str, _Stretch]] = {}
        damage: _DamagedTarError | None = None
        try:
            for name, stretch in _members(file):
                key, extension = _split_name(name)
                if key:
                    parts.setdefault(key, {})[extension] = stretch  # a later member replaces, as when unpacked
        except _DamagedTarError as error:
            damage = error
        index = _gather(file, parts)
    if damage is not None:
        raise InputError(
            f"{path} {damage}. Up to there {_count(len(index.samples), 'whole sample')} can be read. "
            "Download or write the tar again, or take it out to load the others."
        )
    return index


class _DamagedTarError(Exception):
    """Where a tar can't be read on, as the rest of a sentence about it."""


def _members(file: IO[bytes]) -> Iterator[tuple[str, _Stretch]]:
    """Name and place of each regular file; raises where the tar doesn't go on to its end mark.

    tarfile passes over a broken header in the middle and a missing end in silence; here both are damage.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    here = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as opened:
            tar: Any = opened  # `members` is not in its type
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= here:
                    raise _DamagedTarError(f"is damaged at byte {here:,} (a header with an impossible size)")
                if member.offset_data + member.size > size_bytes:
                    raise _DamagedTarError(
                        f"is cut off: {member.name} should reach to byte {member.offset_data + member.size:,}, "
                        f"the file ends at {size_bytes:,}"
                    )
                here = tar.offset
                tar.members.clear()  # else all of them are kept
                if member.isreg() and not member.issparse():
                    yield member.name, (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, IndexError, OverflowError) as error:
        raise _DamagedTarError(_explain(file, here, error)) from error
    file.seek(here)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _DamagedTarError(f"is cut off at byte {size_bytes:,} (a tar ends with blocks of zeros)")
    if block.strip(b"\0"):
        raise _DamagedTarError(f"is damaged at byte {here:,} (no tar header)")


def _explain(file: IO[bytes], here: int, error: Exception) -> str:
    if here:
        return f"is damaged at byte {here:,} ({error})"
    file.seek(0)
    head = file.read(2)
    if not head:
        return "is an empty file, not a tar"
    if head in _COMPRESSED:
        return f"is compressed ({_COMPRESSED[head]}), so single pictures can't be reached: unpack it to a plain tar"
    return f"is not a tar ({error})"


def _split_name(name: str) -> tuple[str, str]:
    """Key and lower-case extension of a member; an empty key where it belongs to no sample."""
    folder, slash, file_name = name.removeprefix("./").rpartition("/")
    stem, dot, extension = file_name.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and dot else ("", "")


def _gather(file: IO[bytes], parts: dict[str, dict[str, _Stretch]]) -> TarIndex:
    samples, left_out = [], []
    for key, by_extension in parts.items():
        picture = next((by_extension[e] for e in by_extension if format_of(f"picture.{e}") and "." not in e), None)
        captions = _read_captions(file, by_extension)
        if picture is None:
            left_out.append((key, "no picture"))
        elif not captions:
            left_out.append((key, "no text" if by_extension.keys().isdisjoint({"txt", "json"}) else "no usable text"))
        else:
            samples.append(TarSample(key=key, offset=picture[0], size_bytes=picture[1], captions=captions))
    return TarIndex(samples=tuple(samples), left_out=tuple(left_out))


def _read_captions(file: IO[bytes], by_extension: dict[str, _Stretch]) -> tuple[str, ...]:
    """Of the `.txt`, one; else what the `.json` has. Empty where there is none that can be read."""
    name = "txt" if "txt" in by_extension else "json"
    offset, size_bytes = by_extension.get(name, (0, 0))
    if size_bytes > _MAX_TEXT_BYTES:
        return ()
    file.seek(offset)
    try:
        text = file.read(size_bytes).decode("utf-8-sig")
        found = [text] if name == "txt" else _texts_of(json.loads(text or "null"))
    except (ValueError, RecursionError):
        return ()
    return tuple(caption for text in found if (caption := " ".join(text.split())))


def _texts_of(content: Any) -> list[str]:
    for key in _CAPTION_KEYS if isinstance(content, dict) else ():
        value = content.get(key)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return texts
    return []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

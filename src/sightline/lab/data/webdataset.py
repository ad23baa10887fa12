"""webdataset: pairs in tar shards, the images read straight from them.

What lies where in a tar is read once and kept in the cache, so that thousands of shards open quickly. Members of one
sample share their key, the path up to the first dot of the file's name, as webdataset has it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from sightline.core.images.files import explain_os_error, format_of
from sightline.errors import InputError
from sightline.kit.config import cache_dir
from sightline.kit.files import write_json
from sightline.lab.data.base import Dataset, FilePart, Pair, Split, fingerprint_of, in_order
from sightline.lab.data.captioned_files import list_some, require_split, split_named, split_within

_LOG = logging.getLogger(__name__)
_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_VERSION = 2
_BLOCK = tarfile.BLOCKSIZE
_MAX_TEXT_BYTES = 2**20
"""Longest caption or JSON of one: a shard from anywhere must not fill the memory."""

_CAPTION_KEYS = ("caption", "text", "captions")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}

_Stretch = tuple[int, int]
"""Offset and size in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar, with the name that its samples carry before their keys."""

    path: Path
    name: str
    split: Split


class WebdatasetReader:
    """Reads a tar, a folder of tars, or a brace range of them."""

    kind = "webdataset"

    def recognises(self, path: Path) -> bool:
        """True where `path` is a tar, a folder that has some (or its folders have), or a range of tars."""
        try:
            if path.is_dir():
                return any(path.glob("*.tar")) or any(path.glob("*/*.tar"))
            return path.suffix == ".tar" and (path.is_file() or bool(_BRACES.search(str(path))))
        except (OSError, ValueError):
            return False

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that names of shards and folders tell. Raises InputError where there are no shards."""
        return in_order({shard.split for shard in find_shards(path)})

    def load(self, path: Path, *, split: Split) -> Dataset:
        """The samples of the shards of one split, in the order of shards and members.

        A shard belongs to the split whose word its name or its folder's has, else to train. Samples without an image
        or text are left out with a warning. Raises InputError for a missing, damaged or compressed shard, and for a
        split that there is not.
        """
        shards = find_shards(path)
        require_split(split, {shard.split for shard in shards}, source=path)
        chosen = [shard for shard in shards if shard.split == split]
        indexes = [index_tar(shard.path) for shard in chosen]
        pairs: list[Pair] = []
        left_out: list[str] = []
        for shard, index in zip(chosen, indexes, strict=True):
            left_out += (f"{shard.name}/{key} ({reason})" for key, reason in index.left_out)
            for key, offset, size_bytes, captions in index.samples:
                image = FilePart(path=shard.path, offset=offset, size_bytes=size_bytes)
                pairs.append(Pair(id=f"{shard.name}/{key}", image=image, captions=captions))
        if left_out:
            total, named = len(pairs) + len(left_out), list_some(left_out)
            _LOG.warning("webdataset:%s: %d of %d samples are left out: %s.", path, len(left_out), total, named)
        if not pairs:
            raise InputError(
                f"webdataset:{path} has no sample with a picture and a text among {len(chosen)} shards. A sample is "
                "two members of one name, such as 0001.jpg and 0001.txt (or 0001.json with a caption)."
            )
        fingerprint = fingerprint_of(
            part for shard, index in zip(chosen, indexes, strict=True) for part in (shard.name, index.fingerprint)
        )
        return Dataset(name=f"webdataset:{path}", split=split, pairs=pairs, fingerprint=fingerprint)


def find_shards(path: Path) -> list[Shard]:
    """The tars that a path means, in order. Raises InputError where there is none, or one of a range is missing."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, absolute() keeps ..
    if path.is_dir():
        files = sorted(path.rglob("*.tar"))
        if not files:
            raise InputError(f"{path} holds no .tar files; give a folder of webdataset shards, a tar or a range.")
        return [_make_shard(file, root=path) for file in files]
    if not _BRACES.search(str(path)):
        if not path.is_file():
            raise InputError(f"{path} doesn't exist; give a tar, a folder of tars, or a range like {{0000..0009}}.tar.")
        return [_make_shard(path, root=path.parent)]
    files = [Path(name) for name in expand_braces(str(path))]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{path} names {len(files)} shards, of which {len(missing)} are missing: {list_some(missing)}. "
            "Download them, or make the range smaller."
        )
    root = Path(str(path).partition("{")[0] + "x").parent  # what lies before the first brace is common to all
    return [_make_shard(file, root=root) for file in files]


def expand_braces(pattern: str) -> list[str]:
    """The names that a shell makes of `{0000..0009}` and `{a,b}`, in order; zeros in front are kept.

    Raises InputError for braces that hold neither, and for more than a million names.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    tails = expand_braces(pattern[found.end() :])
    choices = _choices(found[1], pattern)
    if len(choices) * len(tails) > _MAX_SHARDS:
        raise InputError(f"{pattern} means more than {_MAX_SHARDS:,} files; make the range smaller.")
    return [f"{pattern[: found.start()]}{choice}{tail}" for choice in choices for tail in tails]


def _choices(inside: str, pattern: str) -> Sequence[str]:
    if bounds := _RANGE.fullmatch(inside):
        first, last = int(bounds[1]), int(bounds[2])
        if first > last or last - first >= _MAX_SHARDS:
            raise InputError(f"The range {{{inside}}} of {pattern} must go upwards, to at most {_MAX_SHARDS:,} names.")
        return [str(number).zfill(len(bounds[1])) for number in range(first, last + 1)]
    if "," in inside:
        return inside.split(",")
    raise InputError(f"The braces {{{inside}}} of {pattern} must hold a range like 0000..0009 or a list like a,b.")


def _make_shard(file: Path, *, root: Path) -> Shard:
    """Its split by the words of its name, then of its folders below the root; the root's name counts as a whole."""
    relative = file.relative_to(root)
    words = map(split_within, (relative.stem, *reversed(relative.parts[:-1])))
    found: Split | None = next(filter(None, words), split_named(root.name))
    return Shard(path=file, name=relative.with_suffix("").as_posix(), split=found or "train")


class TarSample(NamedTuple):
    """One image of a tar with its captions."""

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
        """A hash of keys, places and captions; the same wherever the tar lies."""
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
        samples = tuple(TarSample(key, start, size, tuple(texts)) for key, start, size, texts in content["samples"])
        return TarIndex(samples=samples, left_out=tuple((key, reason) for key, reason in content["left_out"]))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: it can be made again
        return None


def _save(kept: Path, stamp: list[int], index: TarIndex) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"stamp": stamp, "samples": index.samples, "left_out": index.left_out})
    except OSError as error:
        _LOG.warning("The index of a tar can't be kept in %s: %s.", kept.parent, explain_os_error(error))


def _read_tar(path: Path) -> TarIndex:
    with path.open("rb") as file:
        parts: dict[str, dict[str, _Stretch]] = {}
        repeated: set[str] = set()
        damage: _DamagedTarError | None = None
        try:
            for name, stretch in _members(file):
                key, extension = _split_name(name)
                if key and extension in parts.setdefault(key, {}) and _is_image_extension(extension):
                    repeated.add(key)
                elif key:
                    parts[key][extension] = stretch  # a later text replaces, as when unpacked
        except _DamagedTarError as error:
            damage = error
        index = _gather(file, parts, repeated)
    if damage is not None:
        number = len(index.samples)
        raise InputError(
            f"{path} {damage}. Up to there {number:,} whole sample{'' if number == 1 else 's'} can be read. "
            "Download or write the tar again, or take it out to load the others."
        )
    return index


class _DamagedTarError(Exception):
    """The place where a tar can't be read on, as the rest of a sentence about it."""


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


def _is_image_extension(extension: str) -> bool:
    return bool(format_of(f"picture.{extension}")) and "." not in extension


def _gather(file: IO[bytes], parts: dict[str, dict[str, _Stretch]], repeated: set[str]) -> TarIndex:
    samples, left_out = [], []
    for key, by_extension in parts.items():
        if key in repeated:  # which text is which image's nobody knows
            left_out.append((key, "a name that occurs twice"))
            continue
        image = next((by_extension[e] for e in by_extension if _is_image_extension(e)), None)
        captions = _read_captions(file, by_extension)
        if image is None:
            left_out.append((key, "no picture"))
        elif not captions:
            left_out.append((key, "no text" if by_extension.keys().isdisjoint({"txt", "json"}) else "no usable text"))
        else:
            samples.append(TarSample(key=key, offset=image[0], size_bytes=image[1], captions=captions))
    return TarIndex(samples=tuple(samples), left_out=tuple(left_out))


def _read_captions(file: IO[bytes], by_extension: dict[str, _Stretch]) -> tuple[str, ...]:
    """The `.txt` as one caption, else those of the `.json`. Empty where neither has one that can be read."""
    for name in ("txt", "json"):
        offset, size_bytes = by_extension.get(name, (0, 0))
        if size_bytes > _MAX_TEXT_BYTES:
            continue
        file.seek(offset)
        try:
            text = file.read(size_bytes).decode("utf-8-sig")
            found = [text] if name == "txt" else _texts_of(json.loads(text or "null"))
        except (ValueError, RecursionError):
            continue
        if captions := tuple(caption for text in found if (caption := " ".join(text.split()))):
            return captions
    return ()


def _texts_of(content: Any) -> list[str]:
    for key in _CAPTION_KEYS if isinstance(content, dict) else ():
        value = content.get(key)
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return texts
    return []


READER = WebdatasetReader()

"""webdataset: pairs in tar shards, the pictures read straight from them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError
from sightline.lab.data.base import SPLITS, Dataset, Pair, Split, fingerprint_of
from sightline.lab.data.captioned_files import list_some
from sightline.lab.data.split_names import require_split, split_named
from sightline.lab.data.tar_index import TarImage, TarIndex, index_tar

_LOG = logging.getLogger(__name__)
_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


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
        """Whether `path` is a tar, a folder that has some (or its folders have), or a range of tars."""
        try:
            if path.is_dir():
                return any(path.glob("*.tar")) or any(path.glob("*/*.tar"))
            return path.suffix == ".tar" and (path.is_file() or bool(_BRACES.search(str(path))))
        except (OSError, ValueError):
            return False

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that names of shards and folders tell. Raises InputError where there are no shards."""
        found = {shard.split for shard in find_shards(path)}
        return tuple(split for split in SPLITS if split in found)

    def load(self, path: Path, *, split: Split) -> Dataset:
        """The samples of the shards of one split, in the order of shards and members.

        A shard belongs to the split whose word its name or its folder's has, else to train. Samples without a picture
        or text are left out with a warning. Raises InputError for a missing, damaged or compressed shard, and for a
        split that there is not.
        """
        shards = find_shards(path)
        require_split(split, {shard.split for shard in shards}, source=path)
        chosen = [shard for shard in shards if shard.split == split]
        indexes = [index_tar(shard.path) for shard in chosen]
        _warn_of_left_out(path, chosen, indexes)
        pairs = list(_pairs_of(chosen, indexes))
        if not pairs:
            raise InputError(
                f"webdataset:{path} has no sample with a picture and a text among {len(chosen)} shards. A sample is "
                "two members of one name, such as 0001.jpg and 0001.txt (or 0001.json with a caption)."
            )
        fingerprint = fingerprint_of(
            part for shard, index in zip(chosen, indexes, strict=True) for part in (shard.name, index.fingerprint)
        )
        return Dataset(name=f"webdataset:{path}", split=split, pairs=pairs, fingerprint=fingerprint)


READER = WebdatasetReader()


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
    """What a shell makes of `{0000..0009}` and `{a,b}`, in order; zeros in front are kept.

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
    relative = file.relative_to(root)
    return Shard(path=file, name=relative.with_suffix("").as_posix(), split=_split_of(relative, root))


def _split_of(relative: Path, root: Path) -> Split:
    """By the words of the file's name, then of its folders below the root; the root's name counts only as a whole."""
    for name in (relative.stem, *reversed(relative.parts[:-1])):
        for word in re.findall(r"[a-z]+", name.lower()):
            if split := split_named(word):
                return split
    return split_named(root.name) or "train"


def _pairs_of(shards: Iterable[Shard], indexes: Iterable[TarIndex]) -> Iterator[Pair]:
    for shard, index in zip(shards, indexes, strict=True):
        for sample in index.samples:
            image = TarImage(path=shard.path, offset=sample.offset, size_bytes=sample.size_bytes)
            yield Pair(id=f"{shard.name}/{sample.key}", image=image, captions=sample.captions)


def _warn_of_left_out(path: Path, shards: Sequence[Shard], indexes: Sequence[TarIndex]) -> None:
    left_out = [
        f"{shard.name}/{key} ({reason})"
        for shard, index in zip(shards, indexes, strict=True)
        for key, reason in index.left_out
    ]
    if left_out:
        total = sum(len(index.samples) for index in indexes) + len(left_out)
        named = list_some(left_out)
        _LOG.warning("webdataset:%s: %d of %d samples are left out: %s.", path, len(left_out), total, named)

"""Unpacking an archive that came over the network: nothing outside the target, no links, no more than was announced."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sightline.errors import DataError

MAX_FILES = 2_000_000
MAX_BYTES = 500_000_000_000
_PIECE_BYTES = 1 << 20


def unpack_zip(
    archive: Path, target: Path, *, members: str = "*", on_files: Callable[[int, int], None] | None = None
) -> list[str]:
    """Unpack the members that match a pattern into `target`; their names. Every byte is checked against its CRC.

    All is unpacked beside its place first, so that a folder that is there is complete. Raises DataError for an
    archive that is damaged or that holds what an honest one doesn't; OSError where the disk refuses it.
    """
    staging = target / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = _choose(archive, opened, members)
            _check_space(target, sum(member.file_size for member in chosen))
            for done, member in enumerate(chosen, start=1):
                _unpack_member(opened, member, staging)
                if on_files is not None:
                    on_files(done, len(chosen))
        _move(staging, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged: {error}. Delete it and run the same command again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [member.filename for member in chosen]


def _choose(archive: Path, opened: zipfile.ZipFile, pattern: str) -> list[zipfile.ZipInfo]:
    files = [member for member in opened.infolist() if not member.is_dir()]
    for member in files:
        if problem := _problem(member):
            raise DataError(f"{archive} is not unpacked: its member {member.filename!r} {problem}.")
    names = [member.filename for member in files]
    if len(set(names)) != len(names):
        raise DataError(f"{archive} is not unpacked: it holds two members of one name.")
    total = sum(member.file_size for member in files)
    if len(files) > MAX_FILES or total > MAX_BYTES:
        raise DataError(
            f"{archive} is not unpacked: {len(files)} files of {total} bytes; at most {MAX_FILES} of {MAX_BYTES} are."
        )
    chosen = [member for member in files if fnmatchcase(member.filename, pattern)]
    if not chosen:
        raise DataError(f"{archive} holds no {pattern}: it is not the archive that was expected.")
    return chosen


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = PurePosixPath(member.filename)
    mode = member.external_attr >> 16
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
        return "leads out of the folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is no regular file"
    return "is encrypted" if member.flag_bits & 1 else None


def _check_space(target: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target).free
    if size_bytes > free_bytes:
        raise DataError(
            f"{target} has {free_bytes / 1e9:.1f} GB free; unpacking needs {size_bytes / 1e9:.1f} GB. The archive is "
            "kept: free space and run the same command again."
        )


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, staging: Path) -> None:
    """`zipfile` stops at the announced size and raises BadZipFile where the CRC differs."""
    path = staging / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, path.open("xb") as file:
        shutil.copyfileobj(source, file, _PIECE_BYTES)


def _move(staging: Path, target: Path) -> None:
    """A whole folder at once where there is none yet, else file by file."""
    for entry in sorted(staging.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            entry.replace(place)

"""A publisher's archives: fetched, checked, unpacked, with a receipt, so that a second run does nothing.

The publishers that `data get` knows are in `publishers.toml`. An archive came over the network: nothing of it is
unpacked outside the target, no links, no more than was announced.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from sightline.errors import DataError, InputError
from sightline.kit.files import explained, write_json
from sightline.lab.data.download.resuming import ResumeOptions, download_file

RECEIPTS = "receipts.json"
GO_ON = "What was fetched is kept; free space or choose another folder, then run the same command again to go on."


class Phase(NamedTuple):
    """What is done to a file, or to files; how far it is counts bytes where one is fetched, else files."""

    doing: Literal["fetching", "checking", "unpacking", "getting"]
    file: str

    def __str__(self) -> str:
        return f"{self.doing} {self.file}"


FetchProgress = Callable[[Phase, int, int | None, str], None]
"""Takes what is done, how far it is, of how much, and a few words."""


MAX_FILES = 2_000_000
MAX_BYTES = 500_000_000_000


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One zip file of a publisher."""

    part: str
    """The word by which it is asked for."""
    path: str
    """Below the publisher's site."""
    members: str
    """Pattern of what is unpacked."""
    size_bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """A data set and how it can be had: as archives, as a list of addresses, or by hand."""

    name: str
    title: str
    page: str
    licence: str
    site: str = ""
    archives: tuple[Archive, ...] = ()
    list_path: str | None = None
    """The list of addresses, below the site."""
    by_hand: str | None = None
    """The steps for a person, where no program may."""

    def choose(self, parts: tuple[str, ...]) -> tuple[Archive, ...]:
        """The archives of some parts; all without any. Raises InputError for an unknown part."""
        known = [archive.part for archive in self.archives]
        for part in parts:
            if part not in known:
                raise InputError(f"{self.name} has no part {part!r}; its parts are {', '.join(known)}.")
        return tuple(archive for archive in self.archives if not parts or archive.part in parts)

    def explain_by_hand(self) -> str:
        """Advice for a person: what to fetch, from where, and how to lay it out."""
        return f"{self.title} can't be fetched by a program.\nFrom: {self.page} ({self.licence})\n{self.by_hand}"


def explain_unknown(name: str) -> InputError:
    """The error for a name that no publisher has, where no list was given either."""
    known = sorted(load_publishers())
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return InputError(
        f"There is no data set {name!r} to get; known: {', '.join(known)}.{hint} "
        "Pictures of any other list of addresses: sightline data get NAME --list FILE.tsv"
    )


@cache
def load_publishers() -> dict[str, Publisher]:
    """All publishers of `publishers.toml` by name."""
    text = (resources.files("sightline.lab.data.download") / "publishers.toml").read_text(encoding="utf-8")
    publishers = {}
    for name, entry in tomllib.loads(text).items():
        archives = tuple(Archive(**archive) for archive in entry.pop("archives", ()))
        publishers[name] = Publisher(name=name, archives=archives, **entry)
    return publishers


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A file that came from a publisher."""

    url: str
    size_bytes: int
    sha256: str
    files: int
    """Unpacked from it."""


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """Settings of fetching archives."""

    parts: tuple[str, ...] = ()
    """Which; all without any."""
    mirror: str | None = None
    """Address used in place of the publisher's site."""
    keep_archives: bool = False
    resume: ResumeOptions = field(default_factory=ResumeOptions)


def get_archives(
    publisher: Publisher, folder: Path, options: ArchiveOptions, *, on_progress: FetchProgress = lambda *_: None
) -> dict[str, Receipt]:
    """Bring a publisher's archives into `folder`, unpacked; the receipts of those that were asked for, by file name.

    Raises InputError for an unknown part, DataError where an archive can't be fetched, differs from what is known
    of it, is damaged, or can't be written.
    """
    chosen = publisher.choose(options.parts)
    site = (options.mirror or publisher.site).rstrip("/")
    with explained(folder, GO_ON, error=DataError):
        folder.mkdir(parents=True, exist_ok=True)
        for archive in chosen:
            _get_archive(archive, f"{site}/{archive.path}", folder, options, on_progress)
    receipts = read_receipts(folder)
    return {archive.name: receipts[archive.name] for archive in chosen}


def get_list(
    publisher: Publisher, folder: Path, options: ArchiveOptions, *, on_progress: FetchProgress = lambda *_: None
) -> Path:
    """Fetch a publisher's list of addresses into `folder`, unless it is there. Raises as `get_archives` does."""
    assert publisher.list_path is not None
    site = (options.mirror or publisher.site).rstrip("/")
    file = folder / publisher.list_path.rpartition("/")[2]
    with explained(folder, GO_ON, error=DataError):
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(f"{site}/{publisher.list_path}", file, options, on_progress)
    return file


def _fetch(url: str, file: Path, options: ArchiveOptions, tell: FetchProgress) -> bool:
    """Fetch a file unless it is there; True where it was fetched."""
    if file.is_file():
        return False
    download_file(url, file, options=options.resume, on_bytes=partial(tell, Phase("fetching", file.name)))
    return True


def _get_archive(archive: Archive, url: str, folder: Path, options: ArchiveOptions, tell: FetchProgress) -> None:
    receipts = read_receipts(folder)
    known = receipts.get(archive.name)
    if known is not None and _count_files(folder, archive) >= known.files:
        return
    file = folder / archive.name
    fetched = _fetch(url, file, options, tell)
    tell(Phase("checking", archive.name), 0, 1, "")
    size_bytes, sums = _measure_file(file)
    for name, wanted, found in (
        ("size", archive.size_bytes, size_bytes),
        ("md5", archive.md5, sums["md5"]),
        ("sha256", archive.sha256, sums["sha256"]),
        ("sha256", known and known.sha256, sums["sha256"]),
    ):
        if wanted is not None and wanted != found:
            before = f" as when it was fetched before ({RECEIPTS})" if known and wanted == known.sha256 else ""
            if fetched:  # a file that somebody laid there is theirs
                file.unlink()
            raise DataError(
                f"{file} has the {name} {found}; {wanted} was expected{before}. Delete it if it is still there, and "
                "run the same command again; if that changes nothing, its publisher, or the mirror, gives another file."
            )
    names = unpack_zip(
        file,
        folder,
        members=archive.members,
        on_files=lambda done, total: tell(Phase("unpacking", archive.name), done, total, "files"),
    )
    receipts[archive.name] = Receipt(url=url, size_bytes=size_bytes, sha256=sums["sha256"], files=len(names))
    write_json(folder / RECEIPTS, {name: asdict(one) for name, one in receipts.items()}, indent=1)
    if not options.keep_archives:
        file.unlink()


def _measure_file(file: Path) -> tuple[int, dict[str, str]]:
    """Size in bytes, and check sums by name."""
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with file.open("rb") as stream:
        while piece := stream.read(1 << 22):
            for digest in digests.values():
                digest.update(piece)
    return file.stat().st_size, {name: digest.hexdigest() for name, digest in digests.items()}


def _count_files(folder: Path, archive: Archive) -> int:
    """Files that are there of those that an archive unpacks to; its pattern names them one folder deep."""
    inside, _, pattern = archive.members.rpartition("/")
    if not (folder / inside).is_dir():
        return 0
    return sum(1 for entry in (folder / inside).iterdir() if fnmatchcase(entry.name, pattern))


def read_receipts(folder: Path) -> dict[str, Receipt]:
    """The receipts of earlier runs into a folder, by archive. Raises InputError for a file that isn't ours."""
    file = folder / RECEIPTS
    if not file.is_file():
        return {}
    try:
        return {name: Receipt(**entry) for name, entry in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged: {error}. Delete it to fetch everything anew.") from error


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
                path = staging / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                # `zipfile` stops at the announced size and raises BadZipFile where the CRC differs
                with opened.open(member) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if on_files is not None:
                    on_files(done, len(chosen))
        _move(staging, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged: {error}. Delete it and run the same command again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [member.filename for member in chosen]


def _choose(archive: Path, opened: zipfile.ZipFile, pattern: str) -> list[zipfile.ZipInfo]:
    """The members to unpack. Raises DataError for an archive that holds what an honest one doesn't."""
    files = [member for member in opened.infolist() if not member.is_dir()]
    problems = (f"its member {member.filename!r} {problem}" for member in files if (problem := _problem(member)))
    total = sum(member.file_size for member in files)
    problem = next(problems, None)
    if len({member.filename for member in files}) != len(files):
        problem = problem or "it holds two members of one name"
    if len(files) > MAX_FILES or total > MAX_BYTES:
        problem = problem or f"{len(files)} files of {total} bytes; at most {MAX_FILES} of {MAX_BYTES} are"
    if problem is not None:
        raise DataError(f"{archive} is not unpacked: {problem}.")
    chosen = [member for member in files if fnmatchcase(member.filename, pattern)]
    if not chosen:
        raise DataError(f"{archive} holds no {pattern}: it is not the archive that was expected.")
    return chosen


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
        return "leads out of the folder"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is no regular file"
    return "is encrypted" if member.flag_bits & 1 else None


def _check_space(target: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(target).free
    if size_bytes > free_bytes:
        raise DataError(
            f"{target} has {free_bytes / 1e9:.1f} GB free; unpacking needs {size_bytes / 1e9:.1f} GB. The archive is "
            "kept: free space and run the same command again."
        )


def _move(staging: Path, target: Path) -> None:
    """A whole folder at once where there is none yet, else file by file."""
    for entry in sorted(staging.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move(entry, place)
        else:
            entry.replace(place)

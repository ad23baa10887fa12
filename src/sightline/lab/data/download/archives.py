"""A publisher's archives: fetched, checked, unpacked, with a receipt, so that a second run does nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sightline.errors import DataError, InputError
from sightline.lab.data.download.publishers import Archive, Publisher
from sightline.lab.data.download.resuming import ResumeOptions, download_file
from sightline.lab.data.download.unzipping import unpack_zip

RECEIPTS = "receipts.json"

OnProgress = Callable[[str, int, int | None, str], None]
"""Takes what is done (`fetching val2017.zip`), how far it is, of how much, and a few words."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What came from a publisher."""

    url: str
    size_bytes: int
    sha256: str
    files: int
    """Unpacked from it."""


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """How archives are fetched."""

    parts: tuple[str, ...] = ()
    """Which; all without any."""
    mirror: str | None = None
    """Address used in place of the publisher's site."""
    keep_archives: bool = False
    resume: ResumeOptions = field(default_factory=ResumeOptions)


def get_archives(
    publisher: Publisher, folder: Path, options: ArchiveOptions, *, on_progress: OnProgress | None = None
) -> dict[str, Receipt]:
    """Bring a publisher's archives into `folder`, unpacked; the receipts of those that were asked for, by file name.

    Raises InputError for an unknown part, DataError where an archive can't be fetched, differs from what is known
    of it, is damaged, or can't be written.
    """
    chosen = publisher.choose(options.parts)
    site = (options.mirror or publisher.site).rstrip("/")
    tell = on_progress or (lambda *_: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for archive in chosen:
            _get_archive(archive, f"{site}/{archive.path}", folder, options, tell)
    except OSError as error:
        raise _cant_write(folder, error) from error
    receipts = read_receipts(folder)
    return {archive.name: receipts[archive.name] for archive in chosen}


def get_list(
    publisher: Publisher, folder: Path, options: ArchiveOptions, *, on_progress: OnProgress | None = None
) -> Path:
    """Fetch a publisher's list of addresses into `folder`, unless it is there. Raises as `get_archives` does."""
    assert publisher.list_path is not None
    site = (options.mirror or publisher.site).rstrip("/")
    tell = on_progress or (lambda *_: None)
    file = folder / publisher.list_path.rpartition("/")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            download_file(
                f"{site}/{publisher.list_path}",
                file,
                options=options.resume,
                on_bytes=lambda done, total, words: tell(f"fetching {file.name}", done, total, words),
            )
    except OSError as error:
        raise _cant_write(folder, error) from error
    return file


def _cant_write(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder} can't be written: {error.strerror or error}. What was fetched is kept; free space or choose "
        "another folder, then run the same command again to go on."
    )


def _get_archive(archive: Archive, url: str, folder: Path, options: ArchiveOptions, tell: OnProgress) -> None:
    receipts = read_receipts(folder)
    known = receipts.get(archive.name)
    if known is not None and _count_files(folder, archive) >= known.files:
        return
    file = folder / archive.name
    fetched = not file.is_file()
    if fetched:
        download_file(
            url,
            file,
            options=options.resume,
            on_bytes=lambda done, total, words: tell(f"fetching {archive.name}", done, total, words),
        )
    tell(f"checking {archive.name}", 0, 1, "")
    try:
        sha256 = _check_file(file, archive, known)
    except DataError:
        if fetched:  # a file that somebody laid there is theirs
            file.unlink()
        raise
    names = unpack_zip(
        file,
        folder,
        members=archive.members,
        on_files=lambda done, total: tell(f"unpacking {archive.name}", done, total, "files"),
    )
    size_bytes = file.stat().st_size
    receipts[archive.name] = Receipt(url=url, size_bytes=size_bytes, sha256=sha256, files=len(names))
    _write_receipts(folder, receipts)
    if not options.keep_archives:
        file.unlink()


def _check_file(file: Path, archive: Archive, known: Receipt | None) -> str:
    """The file's SHA-256. Raises DataError where it isn't what it should be."""
    size_bytes = file.stat().st_size
    if archive.size_bytes is not None and size_bytes != archive.size_bytes:
        raise _refuse(file, f"has {size_bytes} bytes; {archive.size_bytes} were expected")
    sums = {"sha256": hashlib.sha256()}
    if archive.md5 is not None:
        sums["md5"] = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(1 << 22):
            for digest in sums.values():
                digest.update(piece)
    for name, wanted in (("md5", archive.md5), ("sha256", archive.sha256)):
        if wanted is not None and sums[name].hexdigest() != wanted:
            raise _refuse(file, f"has the {name} {sums[name].hexdigest()}; {wanted} was expected")
    sha256 = sums["sha256"].hexdigest()
    if known is not None and known.sha256 != sha256:
        raise _refuse(file, f"has the sha256 {sha256}; when it was fetched before ({RECEIPTS}) it had {known.sha256}")
    return sha256


def _refuse(file: Path, problem: str) -> DataError:
    return DataError(
        f"{file} {problem}. Delete it if it is still there, and run the same command again; if that changes nothing, "
        "its publisher, or the mirror, gives another file."
    )


def _count_files(folder: Path, archive: Archive) -> int:
    """Files that are there of those that an archive unpacks to; its pattern names them one folder deep."""
    inside, _, pattern = archive.members.rpartition("/")
    if not (folder / inside).is_dir():
        return 0
    return sum(1 for entry in (folder / inside).iterdir() if fnmatchcase(entry.name, pattern))


def read_receipts(folder: Path) -> dict[str, Receipt]:
    """What earlier runs fetched into a folder, by archive. Raises InputError for a file that isn't ours."""
    file = folder / RECEIPTS
    if not file.is_file():
        return {}
    try:
        return {name: Receipt(**entry) for name, entry in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged: {error}. Delete it to fetch everything anew.") from error


def _write_receipts(folder: Path, receipts: dict[str, Receipt]) -> None:
    partial = folder / f".{RECEIPTS}.partial"
    partial.write_text(json.dumps({name: asdict(one) for name, one in receipts.items()}, indent=1), encoding="utf-8")
    partial.replace(folder / RECEIPTS)

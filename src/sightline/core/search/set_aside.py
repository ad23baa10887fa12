"""Copies set aside: files moved to a folder with a log by which they can be moved back. Nothing is ever deleted.

Each line of the log is written before its file moves, so whatever cuts a run short, the log names every file that has
moved. A file is moved within its disk by renaming, to another one by copying, comparing, and only then removing it
where it was. Where it goes, nothing is overwritten: a taken name gets a number.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.core.images.files import explain_os_error, file_stamp, hash_file
from sightline.core.store.base import Entry
from sightline.core.types import Caption, Facts, ImageInfo, ImageRecord
from sightline.errors import ImageError, InputError
from sightline.kit.config import expand
from sightline.kit.work import uninterrupted

if TYPE_CHECKING:
    from sightline.core.search.duplicates import DuplicateGroup
    from sightline.core.store.base import Store

_LOG = {"sightline": "files set aside", "version": 1}
_MOVED_KINDS = ("exact", "copy")


@dataclass(kw_only=True)
class MoveReport:
    """Outcome of moving files."""

    log: Path
    moved: list[tuple[Path, Path]] = field(default_factory=list)
    """From where and where to."""
    left: list[tuple[Path, str]] = field(default_factory=list)
    """Files that stayed where they are, and why."""
    interrupted: bool = False


def set_aside(store: Store, groups: Iterable[DuplicateGroup], folder: Path) -> MoveReport:
    """Move all files but the one to keep of each group of copies below a folder, made where it is missing.

    Links are never moved, nor what is merely alike, nor a file that changed since it was indexed, nor any of a group
    whose file to keep isn't as it was. Rows follow: within an indexed folder to the new place, elsewhere out of the
    library, their captions kept in the log (and given to the kept image where the user wrote them and it has none of
    the user's). Ctrl-C ends it after the file that is being moved. Raises InputError for a folder that can't be used.
    """
    folder = expand(folder).resolve()
    report = MoveReport(log=_begin_log(folder))
    library = _Library(store)
    try:
        for kept, image in _chosen(groups, folder, report):
            with uninterrupted():
                _set_one_aside(library, report, kept=kept, image=image, folder=folder)
    except KeyboardInterrupt:
        report.interrupted = True
    if not report.log.read_text(encoding="ascii").count("\n") > 1:
        report.log.unlink()  # ours, and it names nothing
    return report


def undo(store: Store, log: Path) -> MoveReport:
    """Move the files of a log back to where they were, the last one first; their rows and captions follow.

    What isn't as it was set aside, or whose former place is taken, stays. Raises InputError for what is no log.
    """
    lines = _read_log(log)
    report = MoveReport(log=log)
    library = _Library(store)
    try:
        for line in reversed(lines):
            with uninterrupted():
                _put_one_back(library, report, line)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


# --- files ------------------------------------------------------------------------------------------------------


def _chosen(
    groups: Iterable[DuplicateGroup], folder: Path, report: MoveReport
) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """The image that is kept and one that goes, for each that goes."""
    for group in groups:
        if group.kind not in _MOVED_KINDS:
            continue
        kept, named = group.images[0], _names_of_files(group.images)
        for image in group.rest:
            if image.path.is_relative_to(folder):
                continue  # set aside before
            reason = _why_not(kept, image, folder)
            if reason is None and len(named.get(_inode(image.path), ())) > 1:
                reason = "the library has a link to it"
            if reason is None:
                yield kept, image
            else:
                report.left.append((image.path, reason))


def _names_of_files(images: Sequence[ImageRecord]) -> Mapping[tuple[int, int] | None, list[ImageRecord]]:
    names: dict[tuple[int, int] | None, list[ImageRecord]] = {}
    for image in images:
        names.setdefault(_inode(image.path), []).append(image)
    return names


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _why_not(kept: ImageRecord, image: ImageRecord, folder: Path) -> str | None:
    """The reason why an image can't be set aside beside another one that is kept; None where it can."""
    if kept.path.is_relative_to(folder):
        return "the one to keep was itself set aside"
    if not _is_as_indexed(kept):
        return "the one to keep isn't there, or has changed: index again"
    if image.path.resolve() != image.root.resolve() / image.relative or image.path.is_symlink():
        return "it is a link"
    if not _is_as_indexed(image):
        return "it isn't there, or has changed: index again"
    if _inode(kept.path) == _inode(image.path):
        return "it is the file to keep by another name"
    return None


def _is_as_indexed(image: ImageRecord) -> bool:
    try:
        return image.path.is_file() and file_stamp(image.path.stat()) == (image.size_bytes, image.mtime_ns)
    except OSError:
        return False


def _set_one_aside(
    library: _Library, report: MoveReport, *, kept: ImageRecord, image: ImageRecord, folder: Path
) -> None:
    try:
        to = _reserve(folder / image.relative)
        _append(report.log, _describe(library, kept, image, to))
        _move(image.path, to)
    except (OSError, ImageError) as error:
        report.left.append((image.path, _explain(error)))
        return
    report.moved.append((image.path, to))
    library.set_aside(image, kept=kept, to=to)


def _put_one_back(library: _Library, report: MoveReport, line: Mapping[str, Any]) -> None:
    source, to = Path(line["to"]), Path(line["from"])
    image = _read_record(line["image"])
    if not source.is_file() or source.stat().st_size != image.size_bytes:
        if not _is_as_indexed(image):
            report.left.append((source, "it isn't there, or has changed"))
        return  # else it never moved, or was put back before
    try:
        if hash_file(source) != image.content_hash:
            report.left.append((source, "it has changed"))
            return
        if os.path.lexists(to):
            report.left.append((source, f"something else lies at {to}"))
            return
        reserved = _reserve(to)
        _move(source, reserved)
    except (OSError, ImageError) as error:
        report.left.append((source, _explain(error)))
        return
    report.moved.append((source, reserved))
    library.put_back(replace(image, relative=reserved.relative_to(image.root).as_posix()), line, was=source)


def _reserve(path: Path) -> Path:
    """An empty file under this name, or the same with a number: from now on nobody else's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, free = 1, path
    while True:
        try:
            free.open("xb").close()
        except FileExistsError:
            number += 1
            free = path.with_name(f"{path.stem} ({number}){path.suffix}")
        else:
            return free


def _move(source: Path, reserved: Path) -> None:
    """Move a file onto an empty one. Raises OSError and ImageError with the file where it was and nothing reserved."""
    try:
        source.replace(reserved)
    except OSError as error:
        if error.errno != errno.EXDEV:
            reserved.unlink()  # empty, and ours
            raise
        try:
            _copy(source, reserved)
        except BaseException:
            reserved.unlink()  # a part of a copy
            raise
        source.unlink()


def _copy(source: Path, to: Path) -> None:
    """Copy a file to another disk and see that it arrived."""
    shutil.copyfile(source, to)
    shutil.copystat(source, to)
    with to.open("rb") as file:
        os.fsync(file.fileno())
    if hash_file(to) != hash_file(source):
        raise ImageError("the copy on the other disk isn't like it")


def _explain(error: OSError | ImageError) -> str:
    return error.reason if isinstance(error, ImageError) else explain_os_error(error)


# --- the log ----------------------------------------------------------------------------------------------------


def _begin_log(folder: Path) -> Path:
    name = time.strftime("set-aside-%Y%m%d-%H%M%S.jsonl")
    try:
        log = _reserve(folder / name)
        _append(log, _LOG)
    except OSError as error:
        raise InputError(
            f"Files can't be moved to {folder}: {explain_os_error(error)}. Name a folder that you may write."
        ) from error
    return log


def _append(log: Path, line: Mapping[str, Any]) -> None:
    """Write a line that survives a power cut."""
    with log.open("a", encoding="ascii") as file:
        file.write(json.dumps(line) + "\n")  # ASCII: names that are no UTF-8 come back
        file.flush()
        os.fsync(file.fileno())


def _read_log(log: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
        if lines and lines[0].get("sightline") == _LOG["sightline"] and lines[0].get("version") == _LOG["version"]:
            return lines[1:]
    except OSError as error:
        raise InputError(f"{log} can't be read: {explain_os_error(error)}.") from error
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{log} is no log of files that were set aside; `duplicates --move-to` writes set-aside-*.jsonl.")


def _describe(library: _Library, kept: ImageRecord, image: ImageRecord, to: Path) -> dict[str, Any]:
    return {
        "from": str(image.path),
        "to": str(to),
        "kept": str(kept.path),
        "image": {**asdict(image), "root": str(image.root), "id": None},
        "captions": [asdict(caption) for caption in library.captions(image)],
    }


def _read_record(fields: Mapping[str, Any]) -> ImageRecord:
    info = ImageInfo(**{**fields["info"], "facts": Facts(**fields["info"].get("facts", {}))})
    return ImageRecord(**{**fields, "root": Path(fields["root"]), "info": info})


# --- rows -------------------------------------------------------------------------------------------------------


class _Library:
    """The rows of files that move."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._roots = store.stats().roots

    def captions(self, image: ImageRecord) -> list[Caption]:
        return [] if image.id is None else self._store.captions([image.id])[image.id]

    def set_aside(self, image: ImageRecord, *, kept: ImageRecord, to: Path) -> None:
        """The row follows within the indexed folders, else it goes."""
        root = next((root for root in self._roots if to.is_relative_to(root)), None)
        if root is not None:
            self._store.upsert([Entry(image=replace(image, root=root, relative=to.relative_to(root).as_posix()))])
        elif image.id is not None and kept.id is not None:
            own = [caption for caption in self.captions(image) if caption.source == "user"]
            if own and not any(caption.source == "user" for caption in self.captions(kept)):
                self._store.put_captions({kept.id: own})
            self._store.delete([image.id])

    def put_back(self, image: ImageRecord, line: Mapping[str, Any], *, was: Path) -> None:
        """The row goes back to its place, or is made anew with its captions; a kept exact copy gives it vectors."""
        if (row := self._store.find_path(was)) is not None:
            self._store.upsert([Entry(image=replace(image, id=row.id))])
            return
        equal = self._store.find_hash(image.content_hash)
        (id_,) = self._store.upsert([Entry(image=image, same_pixels_as=equal[0].id if equal else None)])
        if captions := [Caption(**fields) for fields in line["captions"]]:
            self._store.put_captions({id_: captions})

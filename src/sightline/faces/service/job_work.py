"""The work of each kind of job: it calls the library, and tells how it goes.

The folders of this machine that a page may see and add are those below the roots that were allowed at the start.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.images.files import SYSTEM_FOLDERS
from sightline.core.library import Library
from sightline.core.models.cards import resolve_name
from sightline.errors import ForbiddenError, InputError
from sightline.faces.service.duplicates import folder_aside
from sightline.faces.service.library import OpenLibrary
from sightline.faces.service.models import require_captioner, require_here
from sightline.faces.service.schemas import FolderAnswer, FoldersAnswer, JobAnswer, JobProgress, SkippedFile
from sightline.kit.text import valid_text
from sightline.kit.work import RecentRate

if TYPE_CHECKING:
    from sightline.core.captioning.dual import CaptionFailure, DualCaption
    from sightline.core.indexing.report import IndexProgress, IndexReport

MAX_SKIPPED = 100
_BATCH_S = 1.0
"""Time that a batch of captions should take: a job ends between two."""

Tell = Callable[[JobProgress], None]
"""Takes a job's progress; raises to end the job at this point, with what was done kept."""


def perform(job: JobAnswer, served: OpenLibrary, tell: Tell) -> str:
    """Do a job from where it stopped, in this thread; what was done, in words.

    The library is opened anew, with sessions of its own for the models: searches of the same library never wait for a
    job's transactions or batches. Raises what `tell` raises, ForbiddenError for a folder that is not allowed (any
    more), and SightlineError where the work fails.
    """
    work = {"index": _index, "caption": _caption, "add_model": _add_model}[job.kind]
    with _open_library(job.model, served) as library:
        return work(job, library, served, tell)


def _open_library(model: str | None, served: OpenLibrary) -> Library:
    """The library with a job's model. Raises ModelError where the model could only be fetched."""
    if model is not None and served.shared.encoders.is_remote(model):
        model = served.config.model  # the endpoint's address, asked with a job's patience
    elif model is not None:
        require_here(model)
    return Library.open(served.path, model=model, create=False)


def _index(job: JobAnswer, library: Library, served: OpenLibrary, tell: Tell) -> str:
    from sightline.core.indexing.report import IndexConfig

    folders = [require_folder(folder, served) for folder in job.folders]
    config = IndexConfig(may_follow=links_of(served))
    report = library.index(*folders, config=config, on_progress=lambda event: tell(_describe(event, job)))
    return _summarise(report)


def _add_model(job: JobAnswer, library: Library, served: OpenLibrary, tell: Tell) -> str:
    from sightline.core.indexing.indexer import index

    # No folder is walked: exactly the known images get a vector, and the other models' index stays complete.
    report = index(library.store, library.encoder, [], on_progress=lambda event: tell(_describe(event, job)))
    return _summarise(report)


def _caption(job: JobAnswer, library: Library, served: OpenLibrary, tell: Tell) -> str:
    from sightline.core.captioning.dual import CaptionConfig

    # A job of an earlier start may name what this one didn't open.
    require_captioner(job.captioner, served.config.captioner)
    todo = list(_find_todo(job, library, served))
    meter = _CaptionMeter(total=len(todo), job=job)
    tell(meter.progress())
    if todo:
        results = library.caption(todo, captioner=job.captioner, config=CaptionConfig(batch_s=_BATCH_S))
        with closing(results):  # type: ignore[type-var]  # a generator, which is declared as its results
            for result in results:
                tell(meter.count(result))
    failed = f"; {meter.skipped_count:,} could not be read" if meter.skipped_count else ""
    return f"{meter.done - meter.skipped_count:,} captioned{failed}"


def _find_todo(job: JobAnswer, library: Library, served: OpenLibrary) -> Iterable[Path]:
    from sightline.core.captioning.editing import find_uncaptioned

    captioner = None if job.captioner in (None, "none") else resolve_name(job.captioner, kind="captioner")
    folders = [require_folder(folder, served) for folder in job.folders]
    roots: Sequence[Path | None] = folders or [None]
    found = (
        path
        for root in roots
        for path in find_uncaptioned(library.store, encoder=library.model, captioner=captioner, root=root)
    )
    return dict.fromkeys(found)


def _describe(event: IndexProgress, job: JobAnswer) -> JobProgress:
    """The progress of an index run; what earlier runs of the same job did counts too."""
    before = 0 if event.total is None else _done_before(job, event.total)
    return JobProgress(
        done=job.progress.done if event.total is None else before + event.done,
        total=job.progress.total if event.total is None else before + event.total,
        found=event.seen,
        rate_per_s=event.images_per_s or None,
        seconds_left=event.seconds_left,
        skipped=[skipped_file(file.path, file.reason) for file in event.unreadable[-MAX_SKIPPED:]],
        skipped_count=event.skipped,
    )


def _done_before(job: JobAnswer, total: int) -> int:
    """The part of a job's first total that is not left to do any more."""
    return max(0, (job.progress.total or 0) - total)


def _summarise(report: IndexReport) -> str:
    counts = [f"{count:,} {name}" for name, count in report.counts.items() if count]
    return "\n".join([", ".join(counts) or "no images found", *report.warnings])


def skipped_file(path: Path, reason: str) -> SkippedFile:
    """A file that was left out."""
    return SkippedFile(path=valid_text(path), reason=reason)


class _CaptionMeter:
    """Counts captioned pictures, with a rate over the last seconds."""

    def __init__(self, *, total: int, job: JobAnswer) -> None:
        self.done = 0
        self.skipped_count = 0
        self._skipped: deque[SkippedFile] = deque(maxlen=MAX_SKIPPED)
        self._total = total
        self._before = _done_before(job, total)
        self._rate = RecentRate()
        self._rate.at(time.monotonic(), 0)

    def count(self, result: DualCaption | CaptionFailure) -> JobProgress:
        """Take one result."""
        from sightline.core.captioning.dual import CaptionFailure

        self.done += 1
        if isinstance(result, CaptionFailure):
            self.skipped_count += 1
            self._skipped.append(skipped_file(result.path, result.reason))
        return self.progress()

    def progress(self) -> JobProgress:
        """State of the work now."""
        rate = self._rate.at(time.monotonic(), self.done)
        left = self._total - self.done
        return JobProgress(
            done=self._before + self.done,
            total=self._before + self._total,
            found=self._before + self._total,
            rate_per_s=rate or None,
            seconds_left=0.0 if left == 0 else left / rate if rate else None,
            skipped=list(self._skipped),
            skipped_count=self.skipped_count,
        )


# --- folders ----------------------------------------------------------------------------------------------------


def list_folders(library: OpenLibrary, path: str | None = None) -> FoldersAnswer:
    """The library's folders, the roots below which others may be added, and the folders inside one of those.

    Raises as `list_below` does.
    """
    answer = FoldersAnswer(
        roots=[valid_text(root) for root in library.store.stats().roots],
        allow_roots=[valid_text(root) for root in library.config.allow_roots],
        set_aside=valid_text(folder_aside(library)),
    )
    if path is None:
        return answer
    folder, found = list_below(path, library.config.allow_roots)
    answer.path = str(folder)
    answer.folders = [FolderAnswer(name=below.name, path=str(below)) for below in found if is_text(below)]
    return answer


def require_folder(text: str, library: OpenLibrary) -> Path:
    """The folder that a client names, with links followed, if it may be indexed.

    It has to lie below a root that was allowed, or to be one of the library's own. Raises ForbiddenError for any
    other, whether it exists or not, and InputError where there is no such folder.
    """
    folder = resolve(text)
    if folder not in _known_roots(library) and not is_allowed(folder, library.config.allow_roots):
        raise ForbiddenError(_refusal(text, library.config.allow_roots), kind="folder")
    if not folder.is_dir():
        raise InputError(f"There is no folder {text}. Name one that exists.", kind="folder")
    return folder


def is_allowed(folder: Path, allow_roots: tuple[Path, ...]) -> bool:
    """True where a folder, links followed, is one of the allowed roots or lies below one."""
    return any(folder.is_relative_to(root) for root in allow_roots)


def links_of(library: OpenLibrary) -> Callable[[Path], bool]:
    """Rule of the links that an index run may follow.

    A link below an allowed root has to stay within the allowed ones and the library's own; elsewhere only the command
    line added folders, and it follows all.
    """
    allow_roots = library.config.allow_roots
    known = (*_known_roots(library),)

    def may_follow(link: Path) -> bool:
        if not is_allowed(Path(os.path.realpath(link.parent)), allow_roots):
            return True
        return is_allowed(Path(os.path.realpath(link)), (*allow_roots, *known))

    return may_follow


def list_below(text: str, allow_roots: tuple[Path, ...]) -> tuple[Path, list[Path]]:
    """A folder below an allowed root, links followed, and the folders in it that may be added, by name.

    Hidden folders and those of the system, which indexing passes over, are left out. Raises ForbiddenError for a
    folder elsewhere, InputError for one that can't be read.
    """
    folder = resolve(text)
    if not is_allowed(folder, allow_roots):
        raise ForbiddenError(_refusal(text, allow_roots), kind="folder")
    try:
        with os.scandir(folder) as entries:
            found = sorted({*_folders_of(entries)}, key=lambda path: (path.name.casefold(), path))
    except OSError as error:
        raise InputError(f"{text} can't be read: {error.strerror}.", kind="folder") from error
    return folder, [path for path in found if is_allowed(path, allow_roots)]


def is_text(path: Path) -> bool:
    """True where JSON can hold the name of a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _known_roots(library: OpenLibrary) -> set[Path]:
    return {Path(os.path.realpath(root)) for root in library.store.stats().roots}


def _folders_of(entries: Iterator[os.DirEntry[str]]) -> Iterator[Path]:
    for entry in entries:
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
            continue
        try:
            if entry.is_dir() and is_text(Path(entry.path)):
                yield Path(os.path.realpath(entry.path))
        except OSError:  # a link in a loop, a network disk that is away: nothing that can be added
            continue


def resolve(text: str) -> Path:
    """A folder that a client names, with links followed. Raises InputError for what is no full path."""
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise InputError(f"{text!r} is no full path of a folder; it begins with a slash.", kind="folder")
    return Path(os.path.realpath(path))


def _refusal(text: str, allow_roots: tuple[Path, ...]) -> str:
    if not allow_roots:
        return "No folder can be added from here: start the server with --allow-root DIR to allow those below DIR."
    return f"{text} doesn't lie below a folder that the server was allowed: {', '.join(map(str, allow_roots))}."

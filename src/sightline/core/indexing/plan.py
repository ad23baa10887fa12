"""The plan of a run: the files of the folders compared with the rows of the store, by size and mtime alone.

Everything unchanged ends here, without a file opened and without a query for each file: the rows of a folder are read
once. The rest goes to a spool, which leaves memory for disk when it is long, so that the total is known before the
first image is read. Patterns leave out files and folders.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sightline.core.images.files import FoundFile, file_stamp, walk_images
from sightline.core.indexing.report import IndexConfig, IndexReport, SkippedFile
from sightline.core.store.base import Failure, Store
from sightline.core.types import ImageRecord
from sightline.errors import InputError, StoreError

_MEMORY_BYTES = 16 * 2**20
"""Size of the tasks in memory; more of them go to a temporary file."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A folder to index: a root of the store, or a part of one."""

    root: Path
    prefix: str = ""
    """The folder's path below the root; empty for the root itself."""

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.root / self.prefix

    def key_of(self, relative: str) -> str:
        """A path below the root as one below the folder."""
        return relative[len(self.prefix) + 1 :] if self.prefix else relative

    def relative_of(self, key: str) -> str:
        """The inverse of `key_of`."""
        return f"{self.prefix}/{key}" if self.prefix else key


@dataclass(frozen=True, slots=True)
class Task:
    """A file to read, with its size and mtime when it was found."""

    root: Path
    """A root of the store."""
    relative: str
    """Path below it."""
    size_bytes: int
    mtime_ns: int
    row_id: int | None
    """The row of this path, where there is one."""
    needs_pixels: bool = False
    """True where it is decoded even if the content is known."""
    has_sidecar: bool = True
    """False where no XMP file lay beside it."""
    facts_only: bool = False
    """True where nothing but its facts is read anew."""


class LostFile(NamedTuple):
    """A known file that a walk did not meet; millions of them may be held at once."""

    scope: Scope
    key: str
    """Path below the scope's folder."""
    certain: bool
    """True where it is forgotten without a second look: it was left out by pattern, say."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.scope.folder / self.key


class TaskSpool:
    """Tasks in order of arrival; the first 16 MiB of them in memory, more in a temporary file.

    All are added before the first is taken. Raises StoreError where the temporary folder is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, mode="w+", encoding="ascii")  # noqa: SIM115
        self._roots: dict[Path, int] = {}
        self.left = 0
        """Number of tasks that were not taken yet."""
        self._reading: Iterator[Task] | None = None

    def append(self, task: Task) -> None:
        """Add a task at the end."""
        root = self._roots.setdefault(task.root, len(self._roots))
        # JSON escapes what is not ASCII: file names with broken UTF-8 survive.
        line = json.dumps(
            [
                root,
                task.relative,
                task.size_bytes,
                task.mtime_ns,
                task.row_id,
                task.needs_pixels,
                task.has_sidecar,
                task.facts_only,
            ]
        )
        with _explained_errors():
            self._file.write(line + "\n")
        self.left += 1

    def take(self, count: int) -> list[Task]:
        """The next tasks, at most `count`."""
        if self._reading is None:
            self._reading = self._read()
        taken = list(islice(self._reading, count))
        self.left -= len(taken)
        return taken

    def _read(self) -> Iterator[Task]:
        roots = list(self._roots)
        with _explained_errors():
            self._file.seek(0)  # writes what is buffered
        for line in self._file:
            root, *rest = json.loads(line)
            yield Task(roots[root], *rest)

    def close(self) -> None:
        """Drop the temporary file."""
        with suppress(OSError):  # it writes what is buffered, for nobody
            self._file.close()


@dataclass(kw_only=True)
class Plan:
    """Work of a run."""

    tasks: TaskSpool
    later: TaskSpool = field(default_factory=TaskSpool)
    """Files whose new content would overwrite a row, put off until all others have been read."""
    first_added: int | None = None
    """The lowest id of a row that is new in this run."""
    seen: int = 0
    """Image files found."""
    lost: dict[int, LostFile] = field(default_factory=dict)
    """Rows whose files a complete walk did not find: to be claimed by renamed files, else forgotten."""
    lost_failures: list[LostFile] = field(default_factory=list)
    """Files that no longer need their remembered failure."""
    populated: dict[Scope, set[str]] = field(default_factory=dict)
    """Folders with an image in them or below, by path below the scope's folder (empty for that folder itself)."""
    known_hashes: set[str] = field(default_factory=set)
    """Contents that probably need no pixels. Only a hint for readers: the store decides."""
    missing_vectors: set[int] = field(default_factory=set)
    """Rows without a vector of this run's model, as far as that is committed."""
    repainted: set[int] = field(default_factory=set)
    """Rows whose vectors were made of pixels that are read otherwise now (`renew`)."""
    missing_sketches: set[int] = field(default_factory=set)
    """Rows without a sketch when the run began: those of a library that is older than sketches."""


class Planner:
    """Walks folders and fills a plan; counts what is unchanged or known to be unreadable in the report."""

    def __init__(self, store: Store, *, config: IndexConfig, report: IndexReport) -> None:
        self._store = store
        self._config = config
        self._report = report
        self.plan = Plan(tasks=TaskSpool())

    def scopes(self, folders: Sequence[Path]) -> list[Scope]:
        """Folders to walk, each once; one that lies below a known root belongs to that root.

        Raises InputError for what is no readable folder, unless the store knows it from before.
        """
        scopes = {scope.folder: scope for scope in (Scope(*self._store.resolve_root(folder)) for folder in folders)}
        for folder in scopes:
            try:
                walk_images(folder, on_problem=lambda path, reason: None)  # says at once what is wrong with a folder
            except InputError:
                if next(iter(self._store.scan(root=folder)), None) is None and not self._store.failures(folder):
                    raise
        # A scope whose root became part of another one lies in that one's folder, which was given too: it is left out.
        return [scopes[folder] for folder in sorted(scopes) if scopes.keys().isdisjoint(folder.parents)]

    def walk(self, scopes: Sequence[Scope], *, model: str, on_seen: Callable[[], None]) -> None:
        """Walk all scopes, then add known images elsewhere that lack a vector of this model."""
        self.plan.missing_vectors = self._store.missing_vectors(model) | self.plan.repainted
        self.plan.missing_sketches = self._store.missing_sketches()
        for scope in scopes:
            self._walk_one(scope, on_seen)
        walked = {scope.root for scope in scopes}
        for root in self._store.stats().roots:
            # Photos that were moved: their rows will be found again by content, so no need to decode the pictures.
            if root not in walked and not root.is_dir():
                self.plan.known_hashes.update(record.content_hash for record in self._store.scan(root=root))
        self._add_elsewhere(scopes)

    def _walk_one(self, scope: Scope, on_seen: Callable[[], None]) -> None:
        known = self._load_known(scope)
        problems: set[str] = set()
        populated = self.plan.populated[scope] = set()
        exclusion = Exclusion(self._config.exclude, scope.folder)

        def on_problem(path: Path, reason: str) -> None:
            if (key := _key(path, scope.folder)) not in exclusion:
                self._report.skipped.append(SkippedFile(path=path, reason=reason))
                problems.add(key)

        for file in self._files(scope.folder, on_problem):
            _add_folders(file.relative, populated)
            if file.relative not in exclusion:
                self.plan.seen += 1
                self._compare(scope, file, known)
            on_seen()

        def lost(keys: Iterable[str]) -> Iterator[LostFile]:
            return (LostFile(scope, key, key in exclusion) for key in keys if not _is_below(key, problems))

        self.plan.lost.update((known.rows[file.key].id, file) for file in lost(known.rows))
        self.plan.lost_failures += lost(known.failures)

    def _files(self, folder: Path, on_problem: Callable[[Path, str], None]) -> Iterable[FoundFile]:
        """The image files of a folder; none where it is missing or can't be read."""
        try:
            return walk_images(folder, on_problem=on_problem, may_follow=self._config.may_follow)
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                on_problem(folder, str(error))
            return ()

    def _load_known(self, scope: Scope) -> Known:
        known = Known()
        for record in self._store.scan(root=scope.folder):
            self.plan.known_hashes.add(record.content_hash)
            if record.id is not None:
                row = KnownRow(record.id, record.size_bytes, record.mtime_ns, record.info.facts.had_sidecar)
                known.rows[scope.key_of(record.relative)] = row
        for failure in self._store.failures(scope.folder):
            known.failures[scope.key_of(failure.relative)] = failure
        return known

    def _compare(self, scope: Scope, file: FoundFile, known: Known) -> None:
        row = known.rows.pop(file.relative, None)
        failure = known.failures.pop(file.relative, None)
        stat = (file.size_bytes, file.mtime_ns)
        if failure and (failure.size_bytes, failure.mtime_ns) == stat and not self._config.retry_failures:
            self._report.skipped.append(SkippedFile(path=file.path, reason=failure.reason))
            return
        lacks_pixels = row is not None and (row.id in self.plan.missing_vectors or row.id in self.plan.missing_sketches)
        facts_only = False
        if row is not None and (row.size_bytes, row.mtime_ns) == stat:
            self._report.unchanged += 1
            if failure:  # it passed without a change of the file
                self.plan.lost_failures.append(LostFile(scope, file.relative, certain=True))
            if not lacks_pixels and not (facts_only := self._has_other_sidecar(file, row)):
                return
        self.plan.tasks.append(
            Task(
                root=scope.root,
                relative=scope.relative_of(file.relative),
                size_bytes=file.size_bytes,
                mtime_ns=file.mtime_ns,
                row_id=row.id if row else None,
                needs_pixels=lacks_pixels,
                has_sidecar=file.sidecar_ns > 0,
                facts_only=facts_only,
            )
        )

    def _has_other_sidecar(self, file: FoundFile, row: KnownRow) -> bool:
        """True where the XMP file beside an image was changed, added or removed since its row was written."""
        return file.sidecar_ns > self._store.written_ns(row.id) if file.sidecar_ns else row.had_sidecar

    def _add_elsewhere(self, scopes: Sequence[Scope]) -> None:
        """Known images outside the walked folders that lack a vector: a model that is added covers them too.

        Those whose files can't be reached now stay as they are.
        """
        ids = sorted(self.plan.missing_vectors)
        if not ids:
            return
        walked = {scope.folder for scope in scopes}
        failures = {(failure.root, failure.relative): failure for failure in self._store.failures()}
        for start in range(0, len(ids), 1000):
            for record in self._store.get(ids[start : start + 1000]):
                if walked.isdisjoint((record.path, *record.path.parents)):
                    with suppress(OSError):
                        self._add_known(record, failures.get((record.root, record.relative)))

    def _add_known(self, record: ImageRecord, failure: Failure | None) -> None:
        stamp = size_bytes, mtime_ns = file_stamp(record.path.stat())
        if failure is None or (failure.size_bytes, failure.mtime_ns) != stamp:
            self.plan.tasks.append(
                Task(
                    root=record.root,
                    relative=record.relative,
                    size_bytes=size_bytes,
                    mtime_ns=mtime_ns,
                    row_id=record.id,
                    needs_pixels=True,
                )
            )


class KnownRow(NamedTuple):
    """The part of a row that the comparison needs; millions of them are held at once."""

    id: int
    size_bytes: int
    mtime_ns: int
    had_sidecar: bool


@dataclass(kw_only=True)
class Known:
    """Rows and failures below one folder, by path relative to it. What the walk meets is taken out."""

    rows: dict[str, KnownRow] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


class Exclusion:
    """Shell patterns against the path of a file and of each folder above it; `*` also stands for `/`.

    `raw` or `*/raw` leaves out every folder `raw`, `raw/*.png` the PNGs in it, `*.png` all PNGs, `/photos/2019` that
    folder. A pattern that begins with neither `/` nor `*` may begin at any folder below the one that is indexed.
    """

    def __init__(self, patterns: Sequence[str], folder: Path) -> None:
        self._folder = folder.as_posix()
        below = re.escape(f"{self._folder}/") + "(?s:.*/)?"
        self._matches = [
            re.compile(("" if pattern.startswith(("/", "*")) else below) + translate(pattern.rstrip("/"))).match
            for pattern in patterns
        ]
        self._excludes_folder = lru_cache(maxsize=4096)(self._find_match)

    def __contains__(self, relative: str) -> bool:
        """True for a file, by its path below the folder, that is left out."""
        return bool(self._matches) and self._find_match(relative)

    def _find_match(self, relative: str) -> bool:
        if any(matches(f"{self._folder}/{relative}") for matches in self._matches):
            return True
        above = relative.rpartition("/")[0]
        return above != "" and self._excludes_folder(above)


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The list of files to index can't be kept in {tempfile.gettempdir()}: {error.strerror}. "
            "Free some space there, or set TMPDIR to a folder with room."
        ) from error


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path != folder else ""


def _is_below(key: str, problems: set[str]) -> bool:
    """True where the file, or a folder above it, could not be looked at: then it is unknown whether it is gone."""
    if not problems:
        return False
    return key in problems or "" in problems or any(key[:i] in problems for i, c in enumerate(key) if c == "/")


def _add_folders(key: str, populated: set[str]) -> None:
    """Note the folders above a file."""
    folder = key.rpartition("/")[0]
    while folder not in populated:
        populated.add(folder)
        folder = folder.rpartition("/")[0]

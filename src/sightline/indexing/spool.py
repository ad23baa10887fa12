"""Files to read, in order, kept in little memory however many there are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import StoreError

_MEMORY_BYTES = 16 * 2**20


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A file to read, with its size and mtime when it was found."""

    scope: Scope
    key: str
    """Path below the scope's folder."""
    size_bytes: int
    mtime_ns: int
    row_id: int | None
    """The row of this path, where there is one."""
    needs_pixels: bool = False
    """Whether to decode even if the content is known."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.scope.folder / self.key

    @property
    def relative(self) -> str:
        """Path below the scope's root."""
        return self.scope.relative_of(self.key)


class TaskSpool:
    """Tasks in order of arrival; the first 16 MiB of them in memory, more in a temporary file.

    Raises StoreError where the temporary folder is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, mode="w+", encoding="ascii")  # noqa: SIM115
        self._scopes: dict[Scope, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, task: Task) -> None:
        """Add a task at the end."""
        scope = self._scopes.setdefault(task.scope, len(self._scopes))
        # JSON escapes what is not ASCII: file names with broken UTF-8 survive.
        line = json.dumps([scope, task.key, task.size_bytes, task.mtime_ns, task.row_id, task.needs_pixels])
        with _explained_errors():
            self._file.write(line + "\n")
        self._count += 1

    def __iter__(self) -> Iterator[Task]:
        scopes = list(self._scopes)
        with _explained_errors():
            self._file.seek(0)  # writes what is buffered
        for line in self._file:
            scope, key, size_bytes, mtime_ns, row_id, needs_pixels = json.loads(line)
            yield Task(
                scope=scopes[scope],
                key=key,
                size_bytes=size_bytes,
                mtime_ns=mtime_ns,
                row_id=row_id,
                needs_pixels=needs_pixels,
            )

    def close(self) -> None:
        """Drop the temporary file."""
        with suppress(OSError):  # it writes what is buffered, for nobody
            self._file.close()


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The list of files to index can't be kept in {tempfile.gettempdir()}: {error.strerror}. "
            "Free some space there, or set TMPDIR to a folder with room."
        ) from error

"""Captions in files: what every writer promises, and the door to them.

A run that was killed is continued: what is written stays, a line that was cut is taken back, and photos that have
their caption are passed over. Nothing that exists is overwritten unasked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sightline.core.captioning.dual import CaptionFailure, DualCaption
from sightline.core.types import Caption
from sightline.errors import InputError, StoreError

Format = Literal["txt", "jsonl", "csv"]
Existing = Literal["refuse", "skip", "replace"]
"""What to do about captions that are there already: raise InputError, keep them, or write them anew."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left to caption."""

    todo: tuple[Path, ...]
    existing: int
    """Photos passed over, because they have their caption."""
    refused: tuple[CaptionFailure, ...]
    """Photos whose captions this format can't hold."""


class CaptionWriter(ABC):
    """Keeps captions in files. A context manager; all errors are InputError or StoreError."""

    def plan(self, paths: Iterable[Path]) -> Plan:
        """Which photos are left to caption, each once, in the order given.

        Raises InputError where some have captions and neither to keep nor to replace them was asked.
        """
        todo: list[Path] = []
        refused: list[CaptionFailure] = []
        existing = 0
        for path in {path.absolute(): path for path in paths}.values():
            if reason := self.refusal(path):
                refused.append(CaptionFailure(path=path, reason=reason))
            elif self.has(path):
                existing += 1
            else:
                todo.append(path)
        return Plan(todo=tuple(todo), existing=existing, refused=tuple(refused))

    @abstractmethod
    def has(self, path: Path) -> bool:
        """Whether this photo's caption is there and stays."""

    def refusal(self, path: Path) -> str | None:
        """Why this photo's caption can't be kept in this format; None where it can."""
        return None

    @abstractmethod
    def write(self, caption: DualCaption) -> None:
        """Keep one image's captions. Raises StoreError where they can't be written, as on a full disk."""

    @abstractmethod
    def close(self) -> None:
        """Release the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_writer(
    format_: Format, output: Path | None = None, *, roots: Iterable[Path] = (), existing: Existing = "refuse"
) -> CaptionWriter:
    """A writer for `txt` (a file beside each photo, or in the folder `output`), `jsonl` or `csv` (the file `output`).

    `roots` are the folders that were given: inside `output`, sidecars keep the photos' paths from there. Raises
    InputError where `output` is missing or holds something else, StoreError where it can't be opened.
    """
    from sightline.core.captioning.line_files import CsvWriter, JsonlWriter
    from sightline.core.captioning.sidecars import SidecarWriter

    if format_ == "txt":
        return SidecarWriter(output, roots=tuple(roots), existing=existing)
    if output is None:
        raise InputError(f"The format {format_} is one file; name it with --output captions.{format_}")
    return (JsonlWriter if format_ == "jsonl" else CsvWriter)(output, existing=existing)


def make_record(caption: DualCaption) -> dict[str, Any]:
    """Everything about one image's captions as plain values for JSON; the path is absolute."""
    return {
        "path": str(caption.path.absolute()),
        "best": _plain(caption.best),
        "clip": [_plain(one) for one in caption.clip],
        "generated": [_plain(one) for one in caption.generated],
    }


def _plain(caption: Caption) -> dict[str, Any]:
    values = {name: value for name, value in asdict(caption).items() if name != "best" and value is not None}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a StoreError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Captions can't be written to {path}: {error.strerror or error}. Those written before are complete. "
            "Free space or choose another place, then go on with --skip-existing."
        ) from error

"""Files and folders that appear whole or not at all, and with the mode that the user's others have."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.errors import SightlineError


@contextlib.contextmanager
def replacing(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder at; it takes the target's name when the block ends well.

    Where the block fails, what was written goes and the target stays as it was. `durable` waits until a file's bytes
    are on the disk before it gets its name. The ending is the target's, since some writers look at it. Raises OSError.
    """
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    _remove(partial)  # of a process that died under the same number
    try:
        yield partial
        if durable:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        if partial.is_dir():
            _remove(target)
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)


def write_text(target: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file (UTF-8), whole or not at all. Raises OSError."""
    with replacing(target, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, values: Any, *, indent: int | None = None, durable: bool = False) -> None:
    """Write values as a JSON file with a newline at its end, whole or not at all. Raises OSError."""
    write_text(target, json.dumps(values, indent=indent) + "\n", durable=durable)


@contextlib.contextmanager
def explained(what: object, advice: str, *, error: type[SightlineError]) -> Iterator[None]:
    """The disk's refusal to write something as an error of ours: what, why, and what to do."""
    try:
        yield
    except OSError as refusal:
        raise error(f"{what} can't be written: {refusal.strerror or refusal}. {advice}") from refusal


def share_as_others(path: Path) -> None:
    """Give a file the mode that the umask gives new ones; safetensors makes its files for their owner alone."""
    probe = path.with_name(f".{path.name}.mode")
    try:
        probe.touch()
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

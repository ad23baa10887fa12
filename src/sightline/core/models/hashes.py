"""SHA-256 of model files, remembered by size and modification time, so that 600 MB aren't read at each start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sightline.errors import ModelError
from sightline.kit.config import cache_dir

_CACHE_FILE = "file-hashes.json"


def hash_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; read again only where its size or modification time changed."""
    status = path.stat()
    key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
    remembered = _read_cache()
    entry = remembered.get(key)
    if entry is not None and entry[:2] == stamp:
        return str(entry[2])
    digest = compute_hash(path)
    _write_cache({**_read_cache(), key: [*stamp, digest]})
    return digest


def compute_hash(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash over several files: the file's own for a single one, else of the sorted list of theirs."""
    digests = [hash_file(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(sorted(digests)).encode("ascii")).hexdigest()


def verify_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare the files that are there with the card's hashes. Raises ModelError naming each that differs."""
    changed = [
        relative
        for relative, digest in expected.items()
        if (folder / relative).is_file() and hash_file(folder / relative) != digest.lower()
    ]
    if changed:
        raise ModelError(
            f"{folder}: the content of {', '.join(sorted(changed))} is not what the model's card says (SHA-256). "
            "The file is damaged or was replaced; delete it and fetch the model again."
        )


def _read_cache() -> dict[str, list[int | str]]:
    try:
        values = json.loads((cache_dir() / _CACHE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a cache that is missing or damaged is made anew
    return values if isinstance(values, dict) else {}


def _write_cache(values: Mapping[str, list[int | str]]) -> None:
    path = cache_dir() / _CACHE_FILE
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # without a writable cache every start hashes again, and all still works
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(path)

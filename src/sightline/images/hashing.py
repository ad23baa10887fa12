"""The content hash: equal bytes, equal hash, whatever the file is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sightline.errors import ImageError
from sightline.images.reasons import explain_os_error

_DIGEST_BYTES = 16


def hash_bytes(data: bytes) -> str:
    """BLAKE2b of 16 bytes, as 32 hexadecimal digits."""
    return _new_hash(data).hexdigest()


def hash_file(path: Path) -> str:
    """`hash_bytes` of a file's content, read in pieces. Raises ImageError where it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _new_hash).hexdigest()
    except OSError as error:
        raise ImageError(explain_os_error(error)) from error


def _new_hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)

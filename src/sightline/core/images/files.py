"""A file before its pixels: is it an image, by name and first bytes; why it can't be read; its content hash."""

from __future__ import annotations

import errno
import hashlib
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sightline.errors import ImageError, install_advice

EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WEBP",
    ".gif": "GIF",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"), "JPEG2000"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), "HEIF"),
}
"""Extension, lower case -> format, as Pillow names it."""

HEIF_MISSING = f"HEIC needs the extra: {install_advice('heif')}"
AVIF_MISSING = "AVIF needs a Pillow built with libavif: pip install --upgrade pillow"

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SIGNATURES = (
    (b"%PDF", "not an image (its content is a PDF)"),
    (b"PK\x03\x04", "not an image (its content is a zip archive)"),
    (b"8BPS", "unsupported format: Photoshop"),
    (b"\xff\x0a", "unsupported format: JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "unsupported format: JPEG XL"),
    (b"\x00\x00\x01\x00", "unsupported format: Windows icon"),
    (b"\x1aE\xdf\xa3", "not an image (its content is a video)"),
    (b"v/1\x01", "unsupported format: OpenEXR"),
)
"""First bytes -> reason, for what people's folders hold under an image's name."""

_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "is a folder",
    errno.ELOOP: "symlink loop",
    errno.ENAMETOOLONG: "path too long",
    errno.EIO: "disk or network read error",
    errno.ESTALE: "disk or network read error",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}

_DIGEST_BYTES = 16


def is_image_name(name: str) -> bool:
    """Whether a file name has the extension of a supported format (HEIC counts even while its extra is missing)."""
    return format_of(name) is not None


def format_of(name: str) -> str | None:
    """The format that a file name's extension stands for, such as `JPEG`; None where it is no image's."""
    return EXTENSIONS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - called for every file of a walk


def missing_support(name: str) -> str | None:
    """Why files of this name's format can't be read on this machine, and what to install; None where they can."""
    named = format_of(name)
    if named == "HEIF" and not heif_available():
        return HEIF_MISSING
    if named == "AVIF" and not _avif_available():
        return AVIF_MISSING
    return None


@cache
def heif_available() -> bool:
    """Whether the extra `heif` is installed."""
    return find_spec("pillow_heif") is not None


def describe_content(head: bytes) -> str:
    """The reason why a file whose first bytes (some hundred) are `head` can't be read as an image."""
    if not head:
        return "empty file"
    if not head.strip(b"\0"):
        return "not an image (it holds only zero bytes)"
    if head[4:8] == b"ftyp":
        return _describe_container(head[8:12])
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            return reason
    return "not an image (its content is text)" if _is_text(head) else "not an image (unknown content)"


def explain_os_error(error: OSError) -> str:
    """The reason phrase of an error of the operating system."""
    known = _REASONS.get(error.errno or 0)
    return known or f"can't be read ({(error.strerror or type(error).__name__).lower()})"


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


@cache
def _avif_available() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _describe_container(brand: bytes) -> str:
    if brand in _HEIF_BRANDS:
        return "damaged HEIF" if heif_available() else HEIF_MISSING
    if brand in {b"avif", b"avis"}:
        return "damaged AVIF" if _avif_available() else AVIF_MISSING
    if brand == b"crx ":
        return "unsupported format: Canon raw"
    return "not an image (its content is a video)"


def _is_text(head: bytes) -> bool:
    """UTF-8 that may be cut in its last character, without control characters other than white space."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True


def _new_hash(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES)

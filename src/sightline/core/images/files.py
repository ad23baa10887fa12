"""Image files before their pixels: by name and first bytes, what can't be read and why, hashes, walks of folders."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from sightline.errors import ImageError, InputError, install_advice

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

SYSTEM_FOLDERS = frozenset(
    {
        "@eaDir",  # Synology: thumbnails of every photo
        "#recycle",
        "#snapshot",
        "@Recycle",  # QNAP
        "@Recently-Snapshot",
        "__MACOSX",  # resource forks in unpacked archives
        "$RECYCLE.BIN",  # Windows
        "System Volume Information",
        "lost+found",  # ext file systems
    }
)
"""Folders that systems keep for themselves; like hidden ones (leading dot), they are not entered."""
LIBRARY_DATABASE = "library.db"
LIBRARY_FOLDERS = frozenset({"thumbnails", "vectors"})
"""Folders that a library keeps beside its database; images may lie beside them, and are walked."""
_LIBRARY_LOG = "library.db-wal"
"""Holds a new library's first pages until it is closed."""
_LIBRARY_MARK, _APPLICATION_ID = b"SIGH", slice(68, 72)
"""Our application id, and where it stands in an SQLite file."""
_START_BYTES = 2**18
_FILES_AHEAD = 32
"""Files that a walk looks at before it gives them away."""
_INT64 = range(-(2**63), 2**63)
_Identity = tuple[int, int] | str
"""Device and inode: the folder itself, whatever path led to it. Its real path where the file system has no inodes."""


def is_image_name(name: str) -> bool:
    """True where a file name has the extension of a supported format (HEIC counts even while its extra is missing)."""
    return format_of(name) is not None


def format_of(name: str) -> str | None:
    """The format that a file name's extension stands for, such as `JPEG`; None where it is no image's."""
    return EXTENSIONS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - called for every file of a walk


def sidecar_names(name: str) -> tuple[str, ...]:
    """The names that an XMP file beside an image of this name may have: `photo.jpg.xmp`, `photo.xmp`."""
    stem = os.path.splitext(name)[0]  # noqa: PTH122 - called for every file that is read
    return f"{name}.xmp", f"{name}.XMP", f"{stem}.xmp", f"{stem}.XMP"


def missing_support(name: str) -> str | None:
    """The reason why files of this name's format can't be read here, and what to install; None where they can."""
    named = format_of(name)
    if named == "HEIF" and not heif_available():
        return HEIF_MISSING
    if named == "AVIF" and not _avif_available():
        return AVIF_MISSING
    return None


@cache
def heif_available() -> bool:
    """True where the extra `heif` is installed."""
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
        raise ImageError(explain_os_error(error), may_pass=True) from error


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


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """One image file of a walk, with what tells whether it changed since the last one."""

    root: Path
    relative: str
    """Path below the root, with `/`; bytes that are not UTF-8 are kept as surrogate escapes."""
    size_bytes: int
    mtime_ns: int
    sidecar_ns: int = 0
    """When an XMP file beside it was last changed or put there; 0 for none."""

    @property
    def path(self) -> Path:
        """The file. Made when it is asked for: of most files of a walk nobody needs it."""
        return self.root / self.relative


def walk_images(
    root: Path, *, on_problem: Callable[[Path, str], None], may_follow: Callable[[Path], bool] | None = None
) -> Iterator[FoundFile]:
    """Stream the image files below `root`, each folder's files by name, then its folders by name.

    Hidden files and folders, system folders, and what a library of ours keeps are passed over. Links to folders are
    followed after all real folders, and each folder is entered once, so loops end and a folder keeps its real path.
    What can't be read goes to `on_problem(path, reason)`: folders and links (what lies below them is then unknown, not
    gone; of links that dangle or loop only those with an image's name), images whose format needs something that isn't
    installed, and links for which `may_follow`, where it is given, is false.
    Raises InputError at once for a root that is missing, no folder, or not readable.
    """
    try:
        identity = _identify(root, root.stat())
        os.scandir(root).close()
    except NotADirectoryError as error:
        raise InputError(f"{root} is not a folder; give the folder that holds it: {root.parent}") from error
    except FileNotFoundError as error:
        raise InputError(f"{root} doesn't exist; give an existing folder of images.") from error
    except OSError as error:
        raise InputError(f"{root} can't be read: {explain_os_error(error)}; give a folder you may read.") from error
    return chain.from_iterable(
        _Walk(root=root, on_problem=on_problem, may_follow=may_follow, entered={identity}).files()
    )


def file_stamp(status: os.stat_result) -> tuple[int, int]:
    """Size in bytes and mtime in ns: what tells whether a file changed. An mtime that no int64 holds is cut to one."""
    return status.st_size, min(max(status.st_mtime_ns, _INT64.start), _INT64.stop - 1)


def _changed_ns(path: str) -> int:
    """When a file was changed, or came to where it is with an older time; 0 where it is gone."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return 0
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _holds_library(named: Mapping[str, str]) -> bool:
    """True where the files of these names make a library of ours; that of the database alone could be any program's."""
    if LIBRARY_DATABASE not in named:
        return False
    application_id = _read_start(named[LIBRARY_DATABASE])[_APPLICATION_ID]
    return application_id == _LIBRARY_MARK or _LIBRARY_MARK in _read_start(named.get(_LIBRARY_LOG))


def _read_start(path: str | None) -> bytes:
    try:
        with Path(path or os.devnull).open("rb") as file:
            return file.read(_START_BYTES)
    except OSError:
        return b""


def _identify(folder: str | Path, status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


@dataclass(kw_only=True, slots=True)
class _Listing:
    """Content of one folder."""

    files: list[str] = field(default_factory=list)
    """Names that images have."""
    below: list[str] = field(default_factory=list)
    """Folders, by their relative path."""
    linked: list[str] = field(default_factory=list)
    """Links to folders, likewise."""
    sidecars: set[str] = field(default_factory=set)
    """Names of XMP files."""
    database: dict[str, str] = field(default_factory=dict)
    """Files that may be a library's: name -> path."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Paths, and why they can't be read."""


@dataclass(kw_only=True, slots=True)
class _Walk:
    """The state of one walk. Folders are named by their relative path with a trailing `/`, the root by ''."""

    root: Path
    on_problem: Callable[[Path, str], None]
    may_follow: Callable[[Path], bool] | None
    entered: set[_Identity]

    def files(self) -> Iterator[list[FoundFile]]:
        """A few files at a time, those before a problem before it is told of."""
        folders, links = [""], deque[str]()
        while folders or links:
            if folders:
                folder = folders.pop()
            elif not self._enter(folder := links.popleft()):
                continue
            listing = self._list(folder)
            found: list[FoundFile] = []
            for name in listing.files:
                file = self._inspect(folder, name, listing.sidecars)
                if isinstance(file, FoundFile):
                    found.append(file)
                if isinstance(file, str) or len(found) == _FILES_AHEAD:
                    yield found
                    found = []
                if isinstance(file, str):
                    self.on_problem(Path(self._join(folder + name)), file)
            yield found
            folders.extend(reversed([name for name in listing.below if self._enter(name)]))
            links.extend(listing.linked)

    def _enter(self, folder: str) -> bool:
        """True where the folder is seen for the first time."""
        try:
            identity = _identify(self._join(folder), os.stat(self._join(folder)))  # noqa: PTH116
        except OSError as error:
            self.on_problem(Path(self._join(folder)), explain_os_error(error))
            return False
        if identity in self.entered:
            return False
        self.entered.add(identity)
        return True

    def _join(self, relative: str) -> str:
        return os.path.join(self.root, relative).rstrip("/") or "/"  # noqa: PTH118 - called for every file

    def _list(self, folder: str) -> _Listing:
        """The part of one folder that may be of interest; empty where it can't be read.

        Of a file only the name is kept: a folder can hold a million of them.
        """
        found = _Listing()
        try:
            with os.scandir(self._join(folder)) as listing:
                for entry in listing:
                    self._sort_in(entry, folder, found)
        except OSError as error:
            self.on_problem(Path(self._join(folder)), explain_os_error(error))
            return _Listing()
        for path, reason in sorted(found.problems):
            self.on_problem(Path(path), reason)
        found.files.sort()
        left_out = {f"{folder}{name}/" for name in LIBRARY_FOLDERS} if _holds_library(found.database) else set[str]()
        for folders in (found.below, found.linked):
            # By name: without the slash, which comes after spaces.
            folders[:] = sorted(set(folders) - left_out, key=lambda path: path[:-1])
        return found

    def _sort_in(self, entry: os.DirEntry[str], folder: str, found: _Listing) -> None:
        if entry.name in (LIBRARY_DATABASE, _LIBRARY_LOG):
            found.database[entry.name] = entry.path
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
            return
        try:
            is_folder = entry.is_dir()
            if not is_folder and not is_image_name(entry.name):
                if entry.name.endswith((".xmp", ".XMP")):
                    found.sidecars.add(entry.name)
                return
            if self.may_follow and entry.is_symlink() and not self.may_follow(Path(entry.path)):
                found.problems.append((entry.path, "a link that leads out of the folders that are allowed"))
            elif is_folder:
                (found.linked if entry.is_symlink() else found.below).append(f"{folder}{entry.name}/")
            else:
                found.files.append(entry.name)
        except OSError as error:  # behind a link: such as a network disk that is away
            if error.errno != errno.ELOOP or is_image_name(entry.name):
                found.problems.append((entry.path, explain_os_error(error)))

    def _inspect(self, folder: str, name: str, sidecars: Set[str]) -> FoundFile | str:
        """The file behind an image's name, or the reason why it is none that can be read."""
        path = self._join(folder + name)
        try:
            status = os.stat(path)  # noqa: PTH116 - called for every file
        except OSError as error:
            dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)  # noqa: PTH114
            return "dangling symlink" if dangling else explain_os_error(error)
        reason = missing_support(name) if stat.S_ISREG(status.st_mode) else "not a regular file"
        if reason:
            return reason
        size_bytes, mtime_ns = file_stamp(status)
        beside = [other for other in sidecar_names(name) if other in sidecars] if sidecars else []
        return FoundFile(
            root=self.root,
            relative=folder + name,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            sidecar_ns=max((_changed_ns(self._join(folder + other)) for other in beside), default=0),
        )

"""Which folders of this machine a page may see and add: those below the roots that the server was allowed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sightline.core.images.files import SYSTEM_FOLDERS
from sightline.faces.web.libraries import OpenLibrary
from sightline.faces.web.problems import Problem


def require_folder(text: str, library: OpenLibrary) -> Path:
    """The folder that a client names, with links followed, if it may be indexed.

    It has to lie below a root that was allowed, or to be one of the library's own. Raises a 403 problem for any other,
    whether it exists or not, and a 422 problem where there is no such folder.
    """
    folder = _resolve(text)
    if folder not in _known_roots(library) and not is_allowed(folder, library.config.allow_roots):
        raise Problem(403, _refusal(text, library.config.allow_roots), kind="folder")
    if not folder.is_dir():
        raise Problem(422, f"There is no folder {text}. Name one that exists.", kind="folder")
    return folder


def is_allowed(folder: Path, allow_roots: tuple[Path, ...]) -> bool:
    """Whether a folder, links followed, is one of the allowed roots or lies below one."""
    return any(folder.is_relative_to(root) for root in allow_roots)


def links_of(library: OpenLibrary) -> Callable[[Path], bool]:
    """Whether an index run may follow a link.

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

    Hidden folders and those of the system, which indexing passes over, are left out. Raises a 403 problem for a folder
    elsewhere, a 422 problem for one that can't be read.
    """
    folder = _resolve(text)
    if not is_allowed(folder, allow_roots):
        raise Problem(403, _refusal(text, allow_roots), kind="folder")
    try:
        with os.scandir(folder) as entries:
            found = sorted({*_folders_of(entries)}, key=lambda path: (path.name.casefold(), path))
    except OSError as error:
        raise Problem(422, f"{text} can't be read: {error.strerror}.", kind="folder") from error
    return folder, [path for path in found if is_allowed(path, allow_roots)]


def is_text(path: Path) -> bool:
    """Whether JSON can hold the name of a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _known_roots(library: OpenLibrary) -> set[Path]:
    return {Path(os.path.realpath(root)) for root in library.library.store.stats().roots}


def _folders_of(entries: Iterator[os.DirEntry[str]]) -> Iterator[Path]:
    for entry in entries:
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
            continue
        try:
            if entry.is_dir() and is_text(Path(entry.path)):
                yield Path(os.path.realpath(entry.path))
        except OSError:  # a link in a loop, a network disk that is away: nothing that can be added
            continue


def _resolve(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise Problem(422, f"{text!r} is no full path of a folder; it begins with a slash.", kind="folder")
    return Path(os.path.realpath(path))


def _refusal(text: str, allow_roots: tuple[Path, ...]) -> str:
    if not allow_roots:
        return "No folder can be added from here: start the server with --allow-root DIR to allow those below DIR."
    return f"{text} doesn't lie below a folder that the server was allowed: {', '.join(map(str, allow_roots))}."

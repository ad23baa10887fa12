"""Paths as a user gives them, where Sightline keeps things, and the precision of models.

Environment variables override each default.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Literal, get_args

from sightline.errors import InputError

PrecisionChoice = Literal["auto", "fp32", "int8"]
"""`auto` is int8 where its gate was passed, else fp32."""


def expand(path: str | Path) -> Path:
    """A path with `~` filled in, in the Unicode form in which it is there.

    Raises InputError where the user after `~` isn't known.
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} names the home of a user who isn't there. Write the path out.") from error
    return given if str(given).isascii() or os.path.lexists(given) else _stored_form(given)


def _stored_form(path: Path) -> Path:
    """A path as the file system holds it, part by part: a name typed on macOS may be composed where a disk's isn't."""
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor) :]:
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found = next((found / form for form in forms if os.path.lexists(found / form)), found / part)
    return found


def is_file(path: Path) -> bool:
    """True where a file is there; False for names that the system refuses (too long, a null byte, a closed folder)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def library_dir() -> Path:
    """The library used when none is named: `SIGHTLINE_LIBRARY`, else a folder in the user's data directory."""
    if named := os.environ.get("SIGHTLINE_LIBRARY"):
        return Path(named).expanduser()
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "sightline" / "library"


def cache_dir() -> Path:
    """The folder of what can be made again (exported graphs, hashes of weights): `SIGHTLINE_CACHE` or XDG's."""
    if named := os.environ.get("SIGHTLINE_CACHE"):
        return Path(named).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "sightline"


def precision() -> PrecisionChoice:
    """The precision that models run in where none is named: `SIGHTLINE_PRECISION`, else `auto`.

    Raises InputError where the variable is none of the choices.
    """
    named = os.environ.get("SIGHTLINE_PRECISION") or "auto"
    for choice in get_args(PrecisionChoice):
        if named == choice:
            return choice  # type: ignore[no-any-return]
    raise InputError(f"SIGHTLINE_PRECISION is {named!r}; it must be one of {', '.join(get_args(PrecisionChoice))}.")

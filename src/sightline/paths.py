"""Paths as a user gives them: `~` understood, and nothing that a name can hold ends in a traceback."""

from __future__ import annotations

from pathlib import Path

from sightline.errors import InputError


def expand(path: str | Path) -> Path:
    """A path with `~` filled in. Raises InputError where the user after `~` isn't known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} names the home of a user who isn't there. Write the path out.") from error


def is_file(path: Path) -> bool:
    """Whether a file is there; False for names that the system refuses (too long, a null byte, a closed folder)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

"""Paths as a user gives them, and files with the mode that the user's others have."""

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


def share_as_others(path: Path) -> None:
    """Give a file the mode that the umask gives new ones; safetensors makes its files for their owner alone."""
    probe = path.with_name(f".{path.name}.mode")
    try:
        probe.touch()
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink(missing_ok=True)

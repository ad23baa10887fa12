"""How file names are kept in SQLite, which holds text only as UTF-8 while file systems hold any bytes."""

from __future__ import annotations

from sightline.errors import InputError

SqlPath = str | bytes
"""TEXT where a path is valid UTF-8, else BLOB."""


def path_to_sql(path: str) -> SqlPath:
    """A path as Python holds it (surrogate escapes for odd bytes) -> what SQLite can hold."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape")
    return path


def path_from_sql(value: SqlPath) -> str:
    """The inverse of `path_to_sql`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def storable_text(text: str) -> str:
    """Free text (captions, reasons) as SQLite can hold it: what is not valid Unicode is spelled out as `\\udc..`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_relative(relative: str) -> tuple[str, str]:
    """`a/b/c.jpg` -> (`a/b`, `c.jpg`). Raises InputError for a path that doesn't name a file below a root."""
    folder, _, name = relative.rpartition("/")
    if not name or relative.startswith("/") or ".." in relative.split("/"):
        raise InputError(f"{relative!r} is not a file's path below a root, such as 'holiday/beach.jpg'.")
    return folder, name


def join_relative(prefix: str, relative: str) -> str:
    """Two paths below a root as one; either may be empty."""
    return f"{prefix}/{relative}" if prefix and relative else prefix or relative

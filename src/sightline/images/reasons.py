"""Short words for what the operating system refuses, fit for counting and without paths."""

from __future__ import annotations

import errno

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


def explain_os_error(error: OSError) -> str:
    """The reason phrase of an error of the operating system."""
    known = _REASONS.get(error.errno or 0)
    return known or f"can't be read ({(error.strerror or type(error).__name__).lower()})"

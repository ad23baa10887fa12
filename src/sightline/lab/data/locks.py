"""One process at a time does a thing: the others wait. The system frees the lock of a process that dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock that a file stands for, waiting for whoever has it. The file is made, and stays."""
    with path.open("a+b") as file:
        _lock(file)
        yield  # closing the file frees it


def take_lock(path: Path) -> IO[bytes] | None:
    """The lock that a file stands for, held until what is returned is closed; None where another process has it."""
    file = path.open("a+b")
    try:
        _lock(file, wait=False)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


if sys.platform == "win32":
    import msvcrt

    _RETRY_S = 0.2

    def _lock(file: IO[bytes], *, wait: bool = True) -> None:
        file.seek(0)
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if not wait:
                    raise BlockingIOError(*error.args) from error
                time.sleep(_RETRY_S)

else:
    import fcntl

    def _lock(file: IO[bytes], *, wait: bool = True) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

"""Caption files read strictly: UTF-8 or a message with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.core.images.files import explain_os_error
from sightline.errors import InputError

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Stream the lines of a text file with their numbers from 1, without line ends; blank ones are left out.

    Raises InputError for a file that can't be opened, that isn't UTF-8 (with the line), or that holds no line at all.
    """
    found = False
    with explain_read_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = _decode(line.removeprefix(_BOM) if number == 1 else line, path=path, line=number).rstrip("\r\n")
            if text.strip():
                found = True
                yield number, text
    if not found:
        raise InputError(f"{path} is empty; captions were expected. Copy or download it again.")


def read_head(path: Path) -> str:
    """The first 10,000 bytes, for guessing what a file is; '' where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(10_000).removeprefix(_BOM).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def first_line(path: Path) -> str:
    """The start of the first line, for guessing what a file is; '' where it can't be read."""
    return read_head(path).partition("\n")[0].rstrip("\r")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError with line and column for a broken one, such as a cut download."""
    with explain_read_errors(path):
        content = path.read_bytes().removeprefix(_BOM)
    if not content.strip():
        raise InputError(f"{path} is empty; JSON was expected. Copy or download it again.")
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise _not_utf8(error, path=path, line=content.count(b"\n", 0, error.start) + 1) from error
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        hint = "the file seems to be cut off; copy or download it again" if cut else "this is no valid JSON"
        raise InputError(f"{path}:{error.lineno}: {error.msg} at column {error.colno}: {hint}.") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a caption file.") from error


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns what the system says about a file into an InputError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} doesn't exist.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {explain_os_error(error)}.") from error


def _decode(content: bytes, *, path: Path, line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error, path=path, line=line) from error


def _not_utf8(error: UnicodeDecodeError, *, path: Path, line: int) -> InputError:
    byte = error.object[error.start]
    return InputError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8, as in iconv -t UTF-8.")

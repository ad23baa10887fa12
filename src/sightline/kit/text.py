"""Text that came from outside (file names, captions, what servers say), made safe to show.

Whoever can put an image into a folder chooses its name. Such a text is data: nothing in it may hide, break out of its
line, steer a terminal or turn the reading direction around.
"""

from __future__ import annotations

import unicodedata

_CUT = "…"


def printable(text: str) -> str:
    """Text on one line for a terminal: control characters (newlines, escape sequences) are shown, not obeyed.

    Bytes of a file name that are no UTF-8 stay, so that the path can be copied.
    """
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


def one_line(text: object, *, max_chars: int | None = None) -> str:
    """Text on one line, each run of what is not printable a single space; cut after `max_chars`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if max_chars is None or len(line) <= max_chars else line[:max_chars] + "..."


def visible(text: str) -> str:
    """The text with U+FFFD for control characters and for bytes that were no UTF-8."""
    return "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)


def valid_text(text: object) -> str:
    """Text that UTF-8 can hold: bytes of file names that are none become U+FFFD."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def neutralise(text: object, *, max_chars: int) -> str:
    """Text on one line, cut at the end: what is invisible or moves others (controls, bidi, tags) comes as `\\u202e`.

    Bytes of file names that are no UTF-8 become U+FFFD.
    """
    shown = "".join(map(_show, valid_text(text)[: max_chars + 1]))
    return shown if len(shown) <= max_chars else shown[: max_chars - 1] + _CUT


def _show(character: str) -> str:
    # Variation selectors print nothing, yet Python calls them printable; a run of them can carry a hidden message.
    is_hidden = not character.isprintable() or "\U000e0100" <= character <= "\U000e01ef"
    return character.encode("unicode_escape").decode() if is_hidden else character

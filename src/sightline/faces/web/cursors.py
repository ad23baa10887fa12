"""Cursors: where the next page of an answer begins, as text that clients don't look into."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from sightline.faces.web.problems import Problem

_MAX_OFFSET = 2**53


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the ranking of a query."""

    query: str
    """Digest of what was asked."""
    version: str
    """Of the library when it was ranked."""
    offset: int


def write_cursor(cursor: Cursor) -> str:
    """A cursor as text for an address."""
    fields = json.dumps([cursor.query, cursor.version, cursor.offset], separators=(",", ":"))
    return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")


def read_cursor(text: str, *, query: str) -> Cursor:
    """The inverse of `write_cursor`. Raises a 400 problem for text that is no cursor of this query."""
    try:
        fields = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        asked, version, offset = fields
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise Problem(400, "This cursor is none that an answer of ours gave as `next`.", kind="cursor") from None
    is_sound = isinstance(asked, str) and isinstance(version, str) and type(offset) is int and 0 < offset < _MAX_OFFSET
    if not is_sound:
        raise Problem(400, "This cursor is none that an answer of ours gave as `next`.", kind="cursor")
    if asked != query:
        raise Problem(
            400, "This cursor belongs to another query; give it with the one that it came from.", kind="cursor"
        )
    return Cursor(query=asked, version=version, offset=offset)

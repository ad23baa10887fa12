"""The caption files of Flickr8k and Flickr30k: the publisher's token files, and Kaggle's CSVs, which are none quite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError
from sightline.lab.data.captioned_files import check_name
from sightline.lab.data.text_files import read_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionLine:
    """One caption of one image."""

    name: str
    caption: str
    where: str
    """`file:line`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    kind: str
    """The set that has this header."""
    row: re.Pattern[str]
    """Groups: name, caption."""


_NUMBERED = re.compile(r"([^,]+),\s*\d+\s*,(.*)")
_BARRED = re.compile(r"([^|]+)\|\s*\d+\s*\|?(.*)")
"""The bar before the caption is optional: one row of the published results.csv lacks it."""

CAPTION_HEADERS = {
    "image,caption": _Layout(kind="flickr8k", row=re.compile(r"([^,]+),(.*)")),
    "image_name,comment_number,comment": _Layout(kind="flickr30k", row=_NUMBERED),
    "image_name|comment_number|comment": _Layout(kind="flickr30k", row=_BARRED),
}
"""Header without spaces -> how its rows read. Captions hold commas and quotes, so the first delimiters count."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def header_kind(line: str) -> str | None:
    """The set whose Kaggle CSV begins with this line; None for another line."""
    layout = CAPTION_HEADERS.get(_squeeze(line))
    return layout.kind if layout else None


def read_captions_csv(path: Path) -> Iterator[CaptionLine]:
    """Stream the captions of a Kaggle CSV, split at the first delimiters; a caption in CSV's quotes loses them.

    Raises InputError for another header, and with the line for a row that doesn't fit it.
    """
    lines = read_lines(path)
    _, header = next(lines)
    layout = CAPTION_HEADERS.get(_squeeze(header))
    if layout is None:
        raise InputError(
            f"{path}:1: the columns are {header[:200]!r}; one of these was expected: {', '.join(CAPTION_HEADERS)}."
        )
    for number, line in lines:
        where = f"{path}:{number}"
        match = layout.row.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: {line[:80]!r} doesn't fit the columns {header!r}.")
        yield CaptionLine(name=check_name(match[1].strip(), where=where), caption=_unquote(match[2]), where=where)


def read_token_file(path: Path) -> Iterator[CaptionLine]:
    """Stream the captions of a publisher's file: `name.jpg#0`, tab, caption. Raises InputError with the line."""
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        key, tab, caption = line.partition("\t")
        name, mark, _ = key.rpartition("#")
        if not tab or not mark:
            raise InputError(f"{where}: {line[:80]!r} doesn't fit; 'name.jpg#0', a tab and a caption were expected.")
        yield CaptionLine(name=check_name(name, where=where), caption=caption, where=where)


def _squeeze(header: str) -> str:
    return re.sub(r"\s", "", header).lower()


def _unquote(caption: str) -> str:
    caption = caption.strip()
    return caption[1:-1].replace('""', '"') if _QUOTED.fullmatch(caption) else caption

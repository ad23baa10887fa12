"""A contact sheet: one HTML file with photos, their captions and some searches, that needs nothing beside it.

Thumbnails are inlined, so that the file can be moved, mailed and opened from disk. Everything that came from outside
(file names, captions, queries) is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.core.images.decode import read_image
from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.core.search.query import Part
from sightline.core.types import Caption, Hit
from sightline.errors import ImageError
from sightline.faces.demo.photos import DemoPhoto
from sightline.kit.pages import render_page, write_page

PHOTO_PX = 480
"""Longest side of a photo's thumbnail: enough for screens with two pixels for one."""
HIT_PX = 320
"""Longest side of the thumbnails in searches."""

_SOURCES = {"clip": "Ranked by CLIP", "generated": "Generated", "user": "Written by you"}


@dataclass(frozen=True, kw_only=True)
class SheetPhoto:
    """One photo with the captions to show, in order; the chosen one has `best` set."""

    path: Path
    captions: Sequence[Caption] = ()
    problem: str | None = None
    """Why there are no captions, where that is so."""


@dataclass(frozen=True, kw_only=True)
class SheetSearch:
    """One search: what was asked and what was found, best first."""

    title: str
    parts: Sequence[Part]
    hits: Sequence[Hit]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """All that a contact sheet shows."""

    title: str
    lead: str
    photos: Sequence[SheetPhoto]
    searches: Sequence[SheetSearch] = ()
    facts: Sequence[str] = ()
    """Sentences below the searches: the model, its figures, times."""
    next_step: tuple[str, str] | None = None
    """A sentence, and the command that it speaks of."""
    credits: Sequence[DemoPhoto] = ()
    photo_px: int = PHOTO_PX
    """Longest side of a photo's thumbnail."""


def write_contact_sheet(target: Path, sheet: Sheet) -> Path:
    """Write the sheet as one self-contained HTML file; the file's path. Raises InputError where it can't be written."""
    page = render_page(
        "faces/demo/sheet.html",
        title=sheet.title,
        lead=sheet.lead,
        sheet=sheet,
        sources=_SOURCES,
        hit_px=HIT_PX,
        inline=_inline,
    )
    return write_page(target, page)


def _inline(path: Path, size_px: int) -> tuple[str | None, str]:
    """A file -> its thumbnail as a data URI, or None and the reason."""
    try:
        image = read_image(path, min_side_px=size_px)
    except ImageError as error:
        return None, error.reason
    return data_uri(make_thumbnail(image.rgb, size_px=size_px), format="JPEG"), ""

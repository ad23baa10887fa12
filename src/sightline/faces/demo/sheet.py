"""A contact sheet: one HTML file with photos, their captions and some searches, that needs nothing beside it.

Thumbnails are inlined, so that the file can be moved, mailed and opened from disk. Everything that came from outside
(file names, captions, queries) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sightline.core.images.decode import read_picture
from sightline.core.images.preprocess import data_uri, make_thumbnail
from sightline.core.search.engine import Part
from sightline.core.types import Caption, Hit
from sightline.errors import ImageError
from sightline.faces.demo.photos import DemoPhoto
from sightline.kit.pages import escape, format_frame, write_page

PHOTO_PX = 480
"""Longest side of a photo's thumbnail: enough for screens with two pixels for one."""
HIT_PX = 320
"""Longest side of the thumbnails in searches."""

_SOURCES = {"clip": "Ranked by CLIP", "generated": "Generated", "user": "Written by you"}
_LEGEND = (
    '<p class="legend soft">Similarity is the cosine between caption and photo under CLIP; log p the mean '
    "log-probability of a word piece under the generator. Higher is better for both.</p>"
)


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
    sections = [
        _section(
            "Photos",
            _LEGEND + _list("photos", [_format_photo(photo, sheet.photo_px) for photo in sheet.photos]),
            shown=bool(sheet.photos),
        ),
        _section("Searches", "".join(map(_format_search, sheet.searches)), shown=bool(sheet.searches)),
        _format_notes(sheet),
        _section("Credits", _list("credits", map(_format_credit, sheet.credits)), shown=bool(sheet.credits)),
    ]
    style = resources.files("sightline.faces.demo") / "sheet.css"
    return write_page(target, format_frame(sheet.title, lead=sheet.lead, sections=sections, style=style))


def _section(title: str, body: str, *, shown: bool) -> str:
    return f"\n<section><h2>{title}</h2>{body}</section>" if shown else ""


def _list(kind: str, items: Iterable[str]) -> str:
    return f'<ul class="{kind}">' + "".join(f"\n<li>{item}</li>" for item in items) + "</ul>"


def _format_photo(photo: SheetPhoto, size_px: int) -> str:
    best = next((caption.text for caption in photo.captions if caption.best), None)
    captions = "".join(map(_format_caption, photo.captions))
    problem = f'<p class="caption soft">{escape(photo.problem)}</p>' if photo.problem else ""
    return (
        f'<article class="photo">{_format_well(photo.path, size_px, alt=best)}'
        f'<div class="about"><h3>{escape(photo.path.name)}</h3>{captions}{problem}</div></article>'
    )


def _format_caption(caption: Caption) -> str:
    kind, badge = ("caption best", '<span class="badge">chosen</span>') if caption.best else ("caption", "")
    by = f" by {caption.model}" if caption.source == "generated" and caption.model else ""
    figures = ""
    if caption.similarity is not None:
        figures += f'<span class="number">similarity {_number(caption.similarity, digits=3)}</span>'
    if caption.log_prob is not None:
        figures += f'<span class="number">log p {_number(caption.log_prob)}</span>'
    return (
        f'<div class="{kind}"><p class="made"><span>{_SOURCES[caption.source]}{escape(by)}</span>{badge}</p>'
        f'<p class="text">{escape(caption.text)}</p><p class="figures">{figures}</p></div>'
    )


def _format_search(search: SheetSearch) -> str:
    hits = _list("hits", map(_format_hit, search.hits)) if search.hits else '<p class="soft">Nothing was found.</p>'
    parts = "".join(_format_part(part, first=index == 0) for index, part in enumerate(search.parts))
    return f'<div class="search"><h3>{escape(search.title)}</h3><p class="query">{parts}</p>{hits}</div>'


def _format_part(part: Part, *, first: bool) -> str:
    sign = "" if first and part.weight > 0 else f'<span class="sign">{"+" if part.weight > 0 else "−"}</span>'
    weight = "" if abs(part.weight) == 1 else f'<span class="number soft">{abs(part.weight):g} ×</span>'
    if part.image is None:
        return f'{sign}<span class="part">{weight}{escape(part.label)}</span>'
    name = escape(part.image.name)
    thumbnail, _ = _inline(part.image, HIT_PX)
    image = f'<img src="{thumbnail}" alt="">' if thumbnail else ""
    return f'{sign}<span class="part">{weight}{image}{name}</span>'


def _format_hit(hit: Hit) -> str:
    share = max(0.0, min(1.0, hit.similarity))
    return (
        f"{_format_well(hit.image.path, HIT_PX, alt=hit.caption)}"
        f'<div class="bar"><i style="width:{share:.1%}"></i></div>'
        f'<p class="hit"><span>{escape(hit.image.path.name)}</span>'
        f'<span class="number">{_number(hit.similarity, digits=3)}</span></p>'
    )


def _format_well(path: Path, size_px: int, *, alt: str | None) -> str:
    thumbnail, reason = _inline(path, size_px)
    if thumbnail is None:
        return f'<div class="well"><p>can’t be read: {escape(reason)}</p></div>'
    return f'<div class="well"><img src="{thumbnail}" alt="{escape(alt or path.name)}"></div>'


def _inline(path: Path, size_px: int) -> tuple[str | None, str]:
    """A file -> its thumbnail as a data URI, or None and the reason."""
    try:
        picture = read_picture(path, min_side_px=size_px)
    except ImageError as error:
        return None, error.reason
    return data_uri(make_thumbnail(picture.rgb, size_px=size_px), format="JPEG"), ""


def _format_notes(sheet: Sheet) -> str:
    if not sheet.facts and not sheet.next_step:
        return ""
    facts = _list("facts", map(escape, sheet.facts))
    step = ""
    if sheet.next_step:
        sentence, command = map(escape, sheet.next_step)
        step = f'<p class="next">{sentence}<code>{command}</code></p>'
    return f"\n<section><h2>What made this</h2>{facts}{step}</section>"


def _format_credit(photo: DemoPhoto) -> str:
    return f'<b>{escape(photo.file)}</b> {escape(photo.credit)} <a href="{escape(photo.link)}">Source</a>'


def _number(value: float, *, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")

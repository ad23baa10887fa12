"""Rows of a library as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sightline.faces.web.models import CaptionAnswer, HitAnswer, ImageAnswer
from sightline.kit.text import valid_text

if TYPE_CHECKING:
    from sightline.core.types import Caption, ImageRecord
    from sightline.faces.web.libraries import OpenLibrary


def show_caption(caption: Caption) -> CaptionAnswer:
    """A caption."""
    return CaptionAnswer(
        text=caption.text,
        source=caption.source,
        similarity=caption.similarity,
        log_prob=caption.log_prob,
        model=caption.model,
        best=caption.best,
    )


def thumbnail_address(record: ImageRecord, library: OpenLibrary) -> str:
    """Where an image's thumbnail is, with what changes when its content does."""
    of = "" if library.is_default else f"&library={library.quoted_name}"
    return f"/api/images/{record.id}/thumbnail?v={record.content_hash[:8]}{of}"


def show_hits(library: OpenLibrary, found: Sequence[tuple[int, float | None]]) -> list[HitAnswer]:
    """Rows with their similarities as hits, in the same order; rows that are gone by now are left out."""
    records = library.records([row for row, _ in found])
    captions = library.library.store.captions(list(records))
    placeholders = library.thumbnails.placeholders({record.content_hash for record in records.values()})
    return [
        _show_hit(library, records[row], similarity, captions[row], placeholders)
        for row, similarity in found
        if row in records
    ]


def _show_hit(
    library: OpenLibrary,
    record: ImageRecord,
    similarity: float | None,
    captions: Sequence[Caption],
    placeholders: dict[str, str],
) -> HitAnswer:
    return HitAnswer(
        id=record.id or 0,
        path=valid_text(record.path),
        name=valid_text(record.path.name),
        width=record.info.width,
        height=record.info.height,
        similarity=similarity,
        caption=captions[0].text if captions else None,
        taken_at=record.info.taken_at,
        content_hash=record.content_hash,
        thumbnail=thumbnail_address(record, library),
        placeholder=placeholders.get(record.content_hash),
    )


def show_images(library: OpenLibrary, records: Iterable[ImageRecord]) -> list[ImageAnswer]:
    """All that is known of some images."""
    return [show_image(library, record) for record in records]


def show_image(library: OpenLibrary, record: ImageRecord) -> ImageAnswer:
    """All that is known of one image."""
    store, info, row = library.library.store, record.info, record.id or 0
    captions = store.captions([row])[row]
    return ImageAnswer(
        id=row,
        path=valid_text(record.path),
        name=valid_text(record.path.name),
        folder=valid_text(record.path.parent),
        width=info.width,
        height=info.height,
        format=info.format,
        size_bytes=record.size_bytes,
        taken_at=info.taken_at,
        camera=None if info.camera is None else valid_text(info.camera),
        latitude=info.latitude,
        longitude=info.longitude,
        content_hash=record.content_hash,
        modified_at=datetime.fromtimestamp(record.mtime_ns // 10**9).isoformat(),
        thumbnail=thumbnail_address(record, library),
        placeholder=library.thumbnails.placeholders([record.content_hash]).get(record.content_hash),
        captions=[show_caption(caption) for caption in captions],
        duplicates=[other.id for other in store.find_hash(record.content_hash) if other.id not in (None, row)],
        models=[name for name in store.models() if len(store.vectors(name, [row])[0])],
        exists=record.path.is_file(),
    )

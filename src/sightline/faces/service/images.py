"""Images of a library as the faces show them, what is known of them, and their captions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from urllib.parse import quote

import numpy as np

from sightline.core.captioning.bank import parse_candidates
from sightline.core.captioning.dual import CaptionConfig, caption_image
from sightline.core.captioning.editing import remove_caption, write_caption
from sightline.core.images.decode import read_image
from sightline.core.search.duplicates import DuplicateGroup
from sightline.core.search.engine import count_copies
from sightline.core.types import Caption, ImageRecord, Reason
from sightline.errors import ConflictError, ImageError, InputError, ModelError, NotFoundError
from sightline.faces.service import schemas
from sightline.faces.service.duplicates import describe_differences
from sightline.faces.service.library import OpenLibrary
from sightline.faces.service.uploads import decode_upload
from sightline.kit.text import valid_text
from sightline.lab.experiments.explain import explain_image

MAX_CANDIDATES = 200
MAX_IMAGES = 50
"""As many images of a group of duplicates are shown."""


def show_caption(caption: Caption) -> schemas.CaptionAnswer:
    """A caption."""
    return schemas.CaptionAnswer.model_validate(caption, from_attributes=True)


def thumbnail_address(record: ImageRecord, library: OpenLibrary) -> str:
    """Address of an image's thumbnail, with a part that changes when its content does."""
    of = "" if library.is_default else f"&library={quote(library.name, safe='')}"
    return f"/api/images/{record.id}/thumbnail?v={record.content_hash[:8]}{of}"


def show_hits(
    library: OpenLibrary,
    found: Sequence[tuple[int, float | None]],
    ratings: Sequence[float | None] | None = None,
    reasons: Sequence[tuple[Reason, ...]] | None = None,
    *,
    each_copy: bool = False,
) -> list[schemas.HitAnswer]:
    """Rows with their similarities, and probabilities and reasons if there are some, as hits in the same order.

    Rows that are gone by now are left out.
    """
    copies = {} if each_copy else count_copies(library.store, [row for row, _ in found])
    records = library.records([row for row, _ in found])
    captions = library.store.captions(list(records))
    placeholders = library.thumbnails.placeholders({record.content_hash for record in records.values()})
    return [
        schemas.HitAnswer(
            id=row,
            path=valid_text(record.path),
            name=valid_text(record.path.name),
            width=record.info.width,
            height=record.info.height,
            similarity=similarity,
            probability=rating,
            why=list(why),
            caption=captions[row][0].text if captions[row] else None,
            copies=copies.get(row, 0),
            taken_at=record.info.taken_at,
            content_hash=record.content_hash,
            thumbnail=thumbnail_address(record, library),
            placeholder=placeholders.get(record.content_hash),
        )
        for (row, similarity), rating, why in zip(
            found, ratings or [None] * len(found), reasons or [()] * len(found), strict=True
        )
        if (record := records.get(row)) is not None
    ]


def show_image(library: OpenLibrary, record: ImageRecord) -> schemas.ImageAnswer:
    """All that is known of one image."""
    store, info, row = library.store, record.info, record.id or 0
    captions = store.captions([row])[row]
    reading = store.readings([record.content_hash]).get(record.content_hash)
    return schemas.ImageAnswer(
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
        facts=info.facts.told,
        content_hash=record.content_hash,
        modified_at=datetime.fromtimestamp(record.mtime_ns // 10**9).isoformat(),
        thumbnail=thumbnail_address(record, library),
        placeholder=library.thumbnails.placeholders([record.content_hash]).get(record.content_hash),
        captions=[show_caption(caption) for caption in captions],
        text=None
        if reading is None
        else [schemas.TextLineAnswer.model_validate(line, from_attributes=True) for line in reading.lines],
        duplicates=[other.id for other in store.find_hash(record.content_hash) if other.id not in (None, row)],
        models=[name for name in store.models() if len(store.vectors(name, [row])[0])],
        exists=record.path.is_file(),
    )


def unreadable(record: ImageRecord, error: ImageError) -> InputError:
    """The error of an image whose file is gone, or is no image any more."""
    where = valid_text(record.path)
    if not record.path.is_file():
        return NotFoundError(f"The file {where} isn't there now.", kind="file-gone")
    return InputError(f"The file {where} can't be read: {error.reason}.", kind="image")


def find_thumbnail(library: OpenLibrary, record: ImageRecord, size_px: int) -> bytes:
    """A small upright copy (WEBP), made if there is none. Raises as `make_thumbnail` does."""
    return library.thumbnails.find(record.content_hash, size_px) or make_thumbnail(library, record, size_px)


def make_thumbnail(library: OpenLibrary, record: ImageRecord, size_px: int) -> bytes:
    """A small upright copy (WEBP). Raises InputError where the file is gone or can't be read."""
    try:
        return library.thumbnails.make(record, size_px)
    except ImageError as error:
        raise unreadable(record, error) from error


def make_heatmap(library: OpenLibrary, image_id: int, words: str, model: str) -> schemas.HeatmapAnswer:
    """The cosine of each place of an image with words, as `sightline explain --method map` finds it.

    Raises InputError for the file, ConflictError where the model has no map.
    """
    record, encoder = library.image(image_id), library.encoder_of(model)
    try:
        image = read_image(record.path, min_side_px=encoder.card.preprocessing.size_px)
        (match,) = explain_image(encoder, image.rgb, [words], method="map")
    except ImageError as error:
        raise unreadable(record, error) from error
    except ModelError as error:
        name = encoder.card.name
        raise ConflictError(f"The model {name} has no map of where words match.", kind="no-map") from error
    values_HW = np.round(match.heat_HW.astype(np.float64), 5)
    return schemas.HeatmapAnswer(
        rows=values_HW.shape[0],
        columns=values_HW.shape[1],
        values=values_HW.tolist(),
        low=float(values_HW.min()),
        high=float(values_HW.max()),
        model=encoder.card.name,
        area=schemas.AreaAnswer.model_validate(match.area, from_attributes=True),
    )


def show_duplicates(library: OpenLibrary, groups: Iterable[DuplicateGroup]) -> list[schemas.DuplicateGroupAnswer]:
    """Groups of duplicates with what is known of their first images."""
    return [
        schemas.DuplicateGroupAnswer(
            kind=group.kind,
            similarity=group.similarity,
            count=len(group.images),
            reason=group.reason,
            movable=group.movable,
            images=[_show_duplicate(library, group, record) for record in group.images[:MAX_IMAGES]],
            differences=describe_differences(group.images[:MAX_IMAGES]),
        )
        for group in groups
    ]


def _show_duplicate(library: OpenLibrary, group: DuplicateGroup, record: ImageRecord) -> schemas.DuplicateImageAnswer:
    shown = show_image(library, record).model_dump()
    return schemas.DuplicateImageAnswer(**shown, keep=record is group.images[0], link=record.id in group.links)


# --- captions ---------------------------------------------------------------------------------------------------


def list_captions(library: OpenLibrary, image_id: int, *, previous: str | None = None) -> schemas.CaptionsAnswer:
    """An image's captions, the best first; `previous` is the user's that was there before. Raises NotFoundError."""
    library.image(image_id)
    captions = library.store.captions([image_id])[image_id]
    return schemas.CaptionsAnswer(captions=[show_caption(caption) for caption in captions], previous=previous)


def set_caption(library: OpenLibrary, image_id: int, text: str) -> schemas.CaptionsAnswer:
    """Keep the user's caption as an image's best, in place of an earlier one; words are worth keeping without a model.

    Raises NotFoundError for an unknown image.
    """
    library.image(image_id)
    try:
        encoder = library.encoder  # gives the caption its similarity
    except ModelError:
        encoder = None
    previous = write_caption(library.store, image_id, text, encoder=encoder)
    library.changed()
    return list_captions(library, image_id, previous=previous)


def take_caption_back(library: OpenLibrary, image_id: int) -> schemas.CaptionsAnswer:
    """Remove the user's caption; the fused one is the best again. Raises NotFoundError for an unknown image."""
    library.image(image_id)
    previous = remove_caption(library.store, image_id, nats_per_cosine=library.card().nats_per_cosine)
    library.changed()
    return list_captions(library, image_id, previous=previous)


def read_candidates(text: str) -> tuple[str, ...]:
    """Captions to rank, one a line. Raises InputError for none and for too many."""
    candidates = parse_candidates(text, origin="the list of candidates")
    if len(candidates) > MAX_CANDIDATES:
        raise InputError(f"There are {len(candidates):,} candidates; at most {MAX_CANDIDATES} are ranked here.")
    return candidates


def caption_now(
    library: OpenLibrary, source: bytes | int, *, candidates: tuple[str, ...] | None = None, keep: bool = False
) -> schemas.DualCaptionAnswer:
    """Caption an upload, or an image of the library by its id, both ways, in one's turn.

    `keep` keeps what an image of the library is given, unless own candidates were ranked. Raises NotFoundError for an
    unknown image, ImageError for one that can't be read, InputError for such an upload, BusyError where too many wait.
    """
    if isinstance(source, int):
        library.image(source)
    with library.shared.desk.take_turn(own_candidates=candidates is not None) as captioner:
        start_s = time.perf_counter()
        encoder = library.encoder
        sides_px = [model.card.preprocessing.size_px for model in (encoder, captioner) if model is not None]
        if isinstance(source, int):
            image = read_image(library.image(source).path, min_side_px=max(sides_px))
        else:
            image = decode_upload(source, min_side_px=max(sides_px))
        config = CaptionConfig(candidates=candidates)
        result = caption_image(image.rgb, encoder=encoder, captioner=captioner, config=config)
        took_ms = round((time.perf_counter() - start_s) * 1000, 2)
    if keep and isinstance(source, int) and candidates is None:
        library.keep_captions(source, result)
        library.changed()
    return schemas.DualCaptionAnswer(
        clip=[show_caption(caption) for caption in result.clip],
        generated=[show_caption(caption) for caption in result.generated],
        best=show_caption(result.best),
        took_ms=took_ms,
    )

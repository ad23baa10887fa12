"""`/api/images/{id}`: what is known of an image, its file, its thumbnail, and where words match it."""

from __future__ import annotations

from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from sightline.core.types import ImageRecord
from sightline.errors import ImageError
from sightline.faces.web import files
from sightline.faces.web.heatmaps import make_heatmap
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary, PickedModel
from sightline.faces.web.models import MAX_ID, MAX_TEXT, HeatmapAnswer, ImageAnswer
from sightline.faces.web.records import show_image

router = APIRouter(prefix="/api/images", tags=["images"])

Row = Annotated[int, InPath(ge=1, le=MAX_ID, description="The image's id.", examples=[12])]
_PICTURE = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/{image_id}")
def get_image(image_id: Row, library: PickedLibrary) -> ImageAnswer:
    """All that is known of an image."""
    return show_image(library, library.image(image_id))


@router.get("/{image_id}/thumbnail", response_class=Response, responses={200: _PICTURE})
async def get_thumbnail(
    image_id: Row,
    library: PickedLibrary,
    request: Request,
    size: Annotated[Literal["320", "640"], Query(description="The longer side in pixels.")] = "320",
    v: Annotated[str | None, Query(max_length=64, description="The content's version, for caches.")] = None,
) -> Response:
    """A small upright copy (WEBP)."""
    record, webp = await anyio.to_thread.run_sync(_find_thumbnail, library, image_id, int(size))
    version = record.content_hash[:8]
    etag = f'"{record.content_hash}-{size}"'
    if kept := files.not_modified(request.headers, etag):
        return kept
    if webp is None:
        webp = await library.decode(_make_thumbnail, library, record, int(size))
    return files.thumbnail(webp, etag=etag, kept=v == version)


@router.get("/{image_id}/file", response_class=Response, responses={200: _PICTURE, 206: _PICTURE})
async def get_file(
    image_id: Row,
    library: PickedLibrary,
    request: Request,
    display: Annotated[bool, Query(description="As a JPEG where browsers can't show the format.")] = False,
) -> Response:
    """The file itself, whole or in ranges."""
    record = await anyio.to_thread.run_sync(library.image, image_id)
    answer = files.displayed if display else files.original
    return await library.decode(answer, record, request.headers)


@router.get("/{image_id}/heatmap")
async def get_heatmap(
    image_id: Row,
    library: PickedLibrary,
    model: PickedModel,
    q: Annotated[str, Query(min_length=1, max_length=MAX_TEXT, examples=["a dog"])],
) -> HeatmapAnswer:
    """Where words match an image; 409 where the model has no map."""
    return await library.compute(model, "pictures", _make_heatmap, library, image_id, q, model)


def _find_thumbnail(library: OpenLibrary, image_id: int, size_px: int) -> tuple[ImageRecord, bytes | None]:
    record = library.image(image_id)
    return record, library.thumbnails.find(record.content_hash, size_px)


def _make_thumbnail(library: OpenLibrary, record: ImageRecord, size_px: int) -> bytes:
    try:
        return library.thumbnails.make(record, size_px)
    except ImageError as error:
        raise files.unreadable(record, error) from error


def _make_heatmap(library: OpenLibrary, image_id: int, words: str, model: str) -> HeatmapAnswer:
    record = library.image(image_id)
    try:
        return make_heatmap(library.encoder_of(model), record, words)
    except ImageError as error:
        raise files.unreadable(record, error) from error

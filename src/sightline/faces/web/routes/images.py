"""Routes: what is known of an image, its file, its thumbnail, where words match it, and captions."""

from __future__ import annotations

from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import Response

from sightline.core.types import ImageRecord
from sightline.errors import ConflictError, ImageError, InputError
from sightline.faces.service import images, schemas
from sightline.faces.service.library import OpenLibrary
from sightline.faces.web import files
from sightline.faces.web.routes import PickedLibrary, PickedModel, Row
from sightline.kit.text import valid_text

router = APIRouter(prefix="/api")

_IMAGE = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/images/{image_id}", tags=["images"])
def get_image(image_id: Row, library: PickedLibrary) -> schemas.ImageAnswer:
    """All that is known of an image."""
    return images.show_image(library, library.image(image_id))


@router.get("/images/{image_id}/thumbnail", tags=["images"], response_class=Response, responses={200: _IMAGE})
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
        webp = await library.decode(images.make_thumbnail, library, record, int(size))
    return files.thumbnail(webp, etag=etag, kept=v == version)


@router.get("/images/{image_id}/file", tags=["images"], response_class=Response, responses={200: _IMAGE, 206: _IMAGE})
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


@router.get("/images/{image_id}/heatmap", tags=["images"])
async def get_heatmap(
    image_id: Row,
    library: PickedLibrary,
    model: PickedModel,
    q: Annotated[str, Query(min_length=1, max_length=schemas.MAX_TEXT, examples=["a dog"])],
) -> schemas.HeatmapAnswer:
    """Match of words in an image; 409 where the model has no map."""
    return await library.compute(model, "pictures", images.make_heatmap, library, image_id, q, model)


def _find_thumbnail(library: OpenLibrary, image_id: int, size_px: int) -> tuple[ImageRecord, bytes | None]:
    record = library.image(image_id)
    return record, library.thumbnails.find(record.content_hash, size_px)


# --- captions ---------------------------------------------------------------------------------------------------


@router.get("/images/{image_id}/captions", tags=["captions"])
def list_captions(library: PickedLibrary, image_id: schemas.ImageId) -> schemas.CaptionsAnswer:
    """An image's captions, the best first."""
    return images.list_captions(library, image_id)


@router.put("/images/{image_id}/captions", tags=["captions"])
async def put_caption(
    library: PickedLibrary, image_id: schemas.ImageId, request: schemas.CaptionRequest
) -> schemas.CaptionsAnswer:
    """Keep the user's caption as the image's best, in place of an earlier one, which is given back as `previous`.

    No captioning replaces it; full-text search finds it.
    """
    return await library.compute(library.model, "words", images.set_caption, library, image_id, request.text)


@router.delete("/images/{image_id}/captions", tags=["captions"])
def delete_caption(library: PickedLibrary, image_id: schemas.ImageId) -> schemas.CaptionsAnswer:
    """Take the user's caption back, which is given as `previous`; the fused one is the best again."""
    return images.take_caption_back(library, image_id)


@router.post("/caption", tags=["captions"])
async def caption_one(
    library: PickedLibrary,
    file: Annotated[UploadFile | None, File(description="A picture.")] = None,
    id: Annotated[int | None, Form(ge=1, le=schemas.MAX_ID, description="Or an image of the library.")] = None,  # noqa: A002
    candidates: Annotated[
        str | None, Form(max_length=100_000, description="Captions to rank, one a line, instead of composed ones.")
    ] = None,
) -> schemas.DualCaptionAnswer:
    """Caption a picture both ways: candidates ranked by CLIP, sentences of a captioner, and the fused best.

    Captions of an image of the library are kept there, unless it was asked to rank own candidates, of which the best is
    one then, unless the server was started with a captioner named. An upload is kept nowhere.
    """
    if (file is None) == (id is None):
        raise InputError("Send either a picture as `file`, or the `id` of an image of the library.")
    ranked = None if candidates is None else images.read_candidates(candidates)
    return await library.shared.desk.lane.run(_caption, library, file if file is not None else id or 0, ranked)


def _caption(
    library: OpenLibrary, image: UploadFile | int, candidates: tuple[str, ...] | None
) -> schemas.DualCaptionAnswer:
    if not isinstance(image, int):
        return images.caption_now(library, files.read_upload(image), candidates=candidates)
    try:
        return images.caption_now(library, image, candidates=candidates, keep=True)
    except ImageError as error:
        where = valid_text(library.image(image).path)
        raise ConflictError(f"{where} can't be read: {error.reason}.", kind="image") from error

"""Routes: an image's captions, edited by the user and taken back."""

from __future__ import annotations

from fastapi import APIRouter

from sightline.core.captioning.editing import remove_caption, write_caption
from sightline.core.models.base import Encoder
from sightline.errors import ModelError
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary
from sightline.faces.web.models import CaptionRequest, CaptionsAnswer, ImageId
from sightline.faces.web.records import show_caption

router = APIRouter(tags=["captions"])


@router.get("/api/images/{image_id}/captions")
def list_captions(library: PickedLibrary, image_id: ImageId) -> CaptionsAnswer:
    """An image's captions, the best first."""
    library.image(image_id)
    return _answer(library, image_id)


@router.put("/api/images/{image_id}/captions")
async def put_caption(library: PickedLibrary, image_id: ImageId, request: CaptionRequest) -> CaptionsAnswer:
    """Keep the user's caption as the image's best, in place of an earlier one, which is given back as `previous`.

    No captioning replaces it; full-text search finds it.
    """
    return await library.compute(library.library.model, "words", _write, library, image_id, request.text)


def _write(library: OpenLibrary, image_id: int, text: str) -> CaptionsAnswer:
    library.image(image_id)
    previous = write_caption(library.library.store, image_id, text, encoder=_encoder_of(library))
    library.changed()
    return _answer(library, image_id, previous)


@router.delete("/api/images/{image_id}/captions")
def delete_caption(library: PickedLibrary, image_id: ImageId) -> CaptionsAnswer:
    """Take the user's caption back, which is given as `previous`; the fused one is the best again."""
    library.image(image_id)
    previous = remove_caption(library.library.store, image_id, nats_per_cosine=library.card().nats_per_cosine)
    library.changed()
    return _answer(library, image_id, previous)


def _encoder_of(library: OpenLibrary) -> Encoder | None:
    """The model that gives the caption its similarity; words are worth keeping without one, too."""
    try:
        return library.encoder
    except ModelError:
        return None


def _answer(library: OpenLibrary, image_id: int, previous: str | None = None) -> CaptionsAnswer:
    captions = library.library.store.captions([image_id])[image_id]
    return CaptionsAnswer(captions=[show_caption(caption) for caption in captions], previous=previous)

"""Routes: captions of any picture, at once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile

from sightline.core.captioning.bank import parse_candidates
from sightline.core.captioning.dual import CaptionConfig, DualCaption, caption_picture
from sightline.core.images.decode import Picture, read_picture
from sightline.core.models.base import Captioner, Encoder
from sightline.errors import ImageError, InputError
from sightline.faces.web.captioners import CaptionDesk
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary
from sightline.faces.web.models import MAX_ID, DualCaptionAnswer
from sightline.faces.web.problems import Problem
from sightline.faces.web.records import show_caption
from sightline.faces.web.uploads import decode_upload, read_upload
from sightline.kit.text import valid_text

MAX_CANDIDATES = 200


@asynccontextmanager
async def _open_desk(app: FastAPI) -> AsyncIterator[None]:
    app.state.caption_desk = CaptionDesk(app.state.config.captioner)
    yield


router = APIRouter(tags=["captions"], lifespan=_open_desk)


@router.post("/api/caption")
async def caption_one(
    request: Request,
    library: PickedLibrary,
    file: Annotated[UploadFile | None, File(description="A picture.")] = None,
    id: Annotated[int | None, Form(ge=1, le=MAX_ID, description="Or an image of the library.")] = None,  # noqa: A002
    candidates: Annotated[
        str | None, Form(max_length=100_000, description="Captions to rank, one a line, instead of composed ones.")
    ] = None,
) -> DualCaptionAnswer:
    """Caption a picture both ways: candidates ranked by CLIP, sentences of a captioner, and the fused best.

    Captions of an image of the library are kept there, unless it was asked to rank own candidates, of which the best is
    one then, unless the server was started with a captioner named. An upload is kept nowhere.
    """
    if (file is None) == (id is None):
        raise Problem(422, "Send either a picture as `file`, or the `id` of an image of the library.", kind="input")
    config = CaptionConfig(candidates=None if candidates is None else _read_candidates(candidates))
    desk: CaptionDesk = request.app.state.caption_desk
    return await desk.lane.run(lambda: _caption_at(desk, library, file if file is not None else id or 0, config))


def _caption_at(
    desk: CaptionDesk, library: OpenLibrary, picture: UploadFile | int, config: CaptionConfig
) -> DualCaptionAnswer:
    source = library.image(picture).path if isinstance(picture, int) else read_upload(picture)
    own_candidates = config.candidates is not None
    with desk.take_turn(own_candidates=own_candidates) as captioner:
        start_s = time.perf_counter()
        result = _caption(source, encoder=library.encoder, captioner=captioner, config=config)
        took_ms = round((time.perf_counter() - start_s) * 1000, 2)
    if isinstance(picture, int) and not own_candidates:
        library.library.keep_captions(picture, result)
        library.changed()
    return DualCaptionAnswer(
        clip=[show_caption(caption) for caption in result.clip],
        generated=[show_caption(caption) for caption in result.generated],
        best=show_caption(result.best),
        took_ms=took_ms,
    )


def _read_candidates(text: str) -> tuple[str, ...]:
    candidates = parse_candidates(text, origin="the list of candidates")
    if len(candidates) > MAX_CANDIDATES:
        raise InputError(f"There are {len(candidates):,} candidates; at most {MAX_CANDIDATES} are ranked here.")
    return candidates


def _caption(
    source: bytes | Path, *, encoder: Encoder, captioner: Captioner | None, config: CaptionConfig
) -> DualCaption:
    """Read a picture at the size that both models need, and caption it."""
    min_side_px = max(model.card.preprocessing.size_px for model in (encoder, captioner) if model is not None)
    if isinstance(source, bytes):
        picture = decode_upload(source, min_side_px=min_side_px)
    else:
        picture = _read_image(source, min_side_px=min_side_px)
    return caption_picture(picture.rgb, encoder=encoder, captioner=captioner, config=config)


def _read_image(path: Path, *, min_side_px: int) -> Picture:
    try:
        return read_picture(path, min_side_px=min_side_px)
    except ImageError as error:
        raise Problem(409, f"{valid_text(path)} can't be read: {error.reason}.", kind="image") from error

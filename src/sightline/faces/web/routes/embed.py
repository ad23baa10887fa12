"""`/api/embed`: vectors of texts and pictures, for programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from sightline.core.search.engine import embed_pixels
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary, PickedModel
from sightline.faces.web.models import EmbedAnswer, EmbedRequest
from sightline.faces.web.openapi import refuse_unknown_fields
from sightline.faces.web.problems import Problem
from sightline.faces.web.uploads import decode_upload

router = APIRouter(prefix="/api", tags=["embed"])

MAX_PICTURES = 32
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": EmbedRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                },
            }
        },
    },
}


@router.post("/embed", openapi_extra={"requestBody": _BODY})
async def embed_texts_or_pictures(
    request: Request,
    library: PickedLibrary,
    model: PickedModel,
) -> EmbedAnswer:
    """Vectors of texts (JSON) or of pictures (multipart, field `file`, once for each), of length 1."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        pictures = await _read_pictures(request)
        return await library.compute(model, "pictures", _embed_pictures, library, model, pictures)
    if kind not in ("", "application/json"):
        raise Problem(415, f"{kind} can't be embedded; send application/json or multipart/form-data.")
    texts = _read_texts(await request.body())
    return await library.compute(model, "words", _embed_texts, library, model, texts)


def _read_texts(body: bytes) -> list[str]:
    try:
        return EmbedRequest.model_validate_json(body).texts
    except ValidationError as error:
        found: list[Any] = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error


async def _read_pictures(request: Request) -> list[bytes]:
    async with request.form(max_files=MAX_PICTURES, max_fields=10) as form:
        refuse_unknown_fields(request, form)
        files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
        if not files:
            raise Problem(422, "There is no picture: send files as the multipart field `file`.", kind="invalid")
        return [await file.read() for file in files]


def _embed_texts(library: OpenLibrary, model: str, texts: list[str]) -> EmbedAnswer:
    encoder = library.encoder_of(model)
    return _show(encoder.card.name, encoder.encode_texts(texts))


def _embed_pictures(library: OpenLibrary, model: str, pictures: list[bytes]) -> EmbedAnswer:
    encoder = library.encoder_of(model)
    side_px = encoder.card.preprocessing.size_px
    vectors = [embed_pixels(encoder, decode_upload(data, min_side_px=side_px).rgb) for data in pictures]
    return _show(encoder.card.name, np.stack(vectors))


def _show(model: str, vectors_ND: NDArray[np.float32]) -> EmbedAnswer:
    return EmbedAnswer(model=model, dim=vectors_ND.shape[1], vectors=vectors_ND.tolist())

"""Routes: finding images by words and images, words that are taught, models side by side, vectors, duplicates."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as FormFile

from sightline.core.search.engine import Match, Sort
from sightline.core.search.query import parse_query
from sightline.core.search.rerank import MAX_RERANK
from sightline.errors import InputError
from sightline.faces.service import schemas
from sightline.faces.service import search as service
from sightline.faces.service.duplicates import MIN_SIMILARITY, read_wanted
from sightline.faces.service.images import show_duplicates
from sightline.faces.service.library import OpenLibrary
from sightline.faces.service.uploads import Upload
from sightline.faces.web.files import read_upload
from sightline.faces.web.openapi import refuse_unknown_fields
from sightline.faces.web.problems import Problem
from sightline.faces.web.routes import PickedLibrary, PickedModel

router = APIRouter(prefix="/api")

MAX_IMAGES = 32
_EMBED_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": schemas.EmbedRequest.model_json_schema()},
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

Words = Annotated[
    str | None,
    Query(
        max_length=schemas.MAX_TEXT,
        description="Words, or parts joined with ` + ` and ` - `, each with a weight: `beach + 2:sunset - people`; "
        '`-people` and `-"deep snow"` too. Words that were taught count as the images do that they were taught with.',
        examples=["dogs in the snow"],
    ),
]
Parts = Annotated[
    str | None,
    Query(
        max_length=50_000,
        description="Further parts, as a JSON list of objects with one of `text`, `id` and `upload`, `weight`, and "
        "`mark`: true for a hit that was marked right or, with a weight below 0, wrong.",
        examples=['[{"text": "beach"}, {"id": 12, "weight": -0.5}]'],
    ),
]
Where = Annotated[
    str | None,
    Query(
        max_length=20_000,
        description="Only these images.",
        examples=["taken_at > '2024-01-01' and path like '%holiday%'"],
    ),
]


@router.get("/search", tags=["search"])
async def search(
    library: PickedLibrary,
    model: PickedModel,
    q: Words = None,
    parts: Parts = None,
    like: Annotated[
        int | None, Query(ge=1, le=schemas.MAX_ID, description="Images like this one of the library.")
    ] = None,
    where: Where = None,
    min_similarity: Annotated[float | None, Query(ge=-1, le=1, description="Leave out lower cosines.")] = None,
    match: Annotated[
        Match,
        Query(
            description="By what pictures show and what is written about them, by what they show alone, or only those "
            "about which a word of the query is written."
        ),
    ] = "both",
    typing: Annotated[bool, Query(description="The last word may be the beginning of one.")] = False,
    each_copy: Annotated[bool, Query(description="Give exact copies places of their own.")] = False,
    rerank: Annotated[
        int, Query(ge=0, le=MAX_RERANK, description="Read so many of the first again, image and words together.")
    ] = 0,
    min_probability: Annotated[
        float | None, Query(ge=0, le=1, description="Leave out hits that are less likely right.")
    ] = None,
    hub_correction: Annotated[bool, Query(description="Rank images lower that lie near to everything.")] = True,
    sort: Annotated[
        Sort, Query(description="By relevance, or by date: the newest of those that are likely right.")
    ] = "relevance",
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
    cursor: Annotated[str | None, Query(max_length=300, description="`next` of the answer before.")] = None,
) -> schemas.SearchAnswer:
    """Find images. Without a query, all of them come, the newest first."""
    asked = service.Asked(
        parts=service.join_parts(q, service.read_parts(parts) if parts is not None else (), like=like),
        model=model,
        where=where if where and where.strip() else None,
        min_similarity=min_similarity,
        match=match,
        typing=typing,
        each_copy=each_copy,
        rerank=rerank,
        min_probability=min_probability,
        hub_correction=hub_correction,
        sort=sort,
    )

    def find() -> schemas.SearchAnswer:
        return service.answer(library, asked, limit=limit, cursor=cursor)

    if rerank:
        return await library.shared.matchers.lane.run(find)
    return await (library.compute(model, "words", find) if asked.parts else run_in_threadpool(find))


@router.post("/uploads", tags=["search"])
async def upload_image(
    library: PickedLibrary, model: PickedModel, file: Annotated[UploadFile, File()]
) -> schemas.UploadAnswer:
    """Give a picture to search with: its key goes into `parts`. It is kept in memory only, and for a while."""
    upload = await library.compute(model, "pictures", _keep, library, file, model)
    return schemas.UploadAnswer(key=upload.key, width=upload.width, height=upload.height, thumbnail=upload.preview)


def _keep(library: OpenLibrary, file: UploadFile, model: str) -> Upload:
    return library.shared.uploads.add(read_upload(file), library.encoder_of(model))


@router.get("/words", tags=["words"])
def get_words(library: PickedLibrary) -> schemas.WordsAnswer:
    """Words of the user's own that were taught by example."""
    return service.list_words(library)


@router.post("/words", tags=["words"])
async def teach(library: PickedLibrary, request: schemas.TeachRequest) -> schemas.WordAnswer:
    """Teach a word by images of the library: queries use it like any other. One that is known gets further examples."""
    return await library.compute(library.model, "pictures", service.teach_word, library, request)


@router.delete("/words/{name}", tags=["words"])
def forget(
    library: PickedLibrary, name: Annotated[str, InPath(min_length=1, max_length=schemas.MAX_TEXT, examples=["Rex"])]
) -> schemas.WordsAnswer:
    """Forget a word; the images stay."""
    return service.forget_word(library, name)


@router.get("/compare", tags=["compare"])
async def compare_models(
    library: PickedLibrary,
    q: Annotated[str, Query(min_length=1, max_length=schemas.MAX_TEXT, examples=["dogs in the snow"])],
    models: Annotated[
        str, Query(min_length=1, max_length=2500, description="Names, separated by commas.", examples=["starter"])
    ],
    limit: Annotated[int, Query(ge=1, le=100)] = 12,
) -> schemas.CompareAnswer:
    """Hits of each of several models of the library, how long it takes, and how much of the first ten they share.

    The time is that of embedding the words and ranking all images, with the model loaded.
    """
    names = await run_in_threadpool(service.read_model_names, models, library)
    parts, top = parse_query([q], allow_files=False), max(limit, service.AGREE_AT)
    ranked = {
        name: await library.compute(name, "words", service.rank_timed, library, name, parts, top) for name in names
    }
    return await run_in_threadpool(service.show_comparison, library, ranked, limit)


@router.post("/embed", tags=["embed"], openapi_extra={"requestBody": _EMBED_BODY})
async def embed_texts_or_images(request: Request, library: PickedLibrary, model: PickedModel) -> schemas.EmbedAnswer:
    """Vectors of texts (JSON) or of pictures (multipart, field `file`, once for each), of length 1."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images = await _read_images(request)
        return await library.compute(model, "pictures", service.embed_uploads, library, model, images)
    if kind not in ("", "application/json"):
        raise Problem(415, f"{kind} can't be embedded; send application/json or multipart/form-data.")
    texts = _read_texts(await request.body())
    return await library.compute(model, "words", service.embed_texts, library, model, texts)


def _read_texts(body: bytes) -> list[str]:
    try:
        return schemas.EmbedRequest.model_validate_json(body).texts
    except ValidationError as error:
        found: list[Any] = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error


async def _read_images(request: Request) -> list[bytes]:
    async with request.form(max_files=MAX_IMAGES, max_fields=10) as form:
        refuse_unknown_fields(request, form)
        files = [value for value in form.getlist("file") if isinstance(value, FormFile)]
        if not files:
            raise InputError("There is no picture: send files as the multipart field `file`.", kind="invalid")
        return [await file.read() for file in files]


@router.get("/duplicates", tags=["duplicates"])
async def list_duplicates(
    library: PickedLibrary,
    kind: Annotated[schemas.DuplicateKind | None, Query(description="Only groups of this kind.")] = None,
    min_similarity: Annotated[
        float | None,
        Query(ge=MIN_SIMILARITY, le=1, description="Also what is alike, of at least this cosine.", examples=[0.9]),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> schemas.DuplicatesAnswer:
    """Groups of copies, by their bytes and by their pixels; with `min_similarity`, also of other shots of one scene.

    Nothing is deleted: what to do with them is the user's choice. Of a large library it takes a while: every pair is
    compared, once, and the answer is kept until the library changes.
    """
    future = await run_in_threadpool(library.shared.duplicates.find, library, read_wanted(kind, min_similarity))
    # Awaited here, not in a thread: however many clients wait for a long search, other requests have theirs.
    found = await asyncio.shield(asyncio.wrap_future(future))
    groups = found.of_kind(kind)
    shown = await run_in_threadpool(show_duplicates, library, groups[offset : offset + limit])
    return schemas.DuplicatesAnswer(groups=shown, total=len(groups), not_compared=found.not_compared)

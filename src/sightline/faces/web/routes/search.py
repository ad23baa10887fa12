"""`/api/search` and `/api/uploads`: finding images by words, by images, by both."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Query, UploadFile
from starlette.concurrency import run_in_threadpool

from sightline.core.search.engine import Match
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary, PickedModel
from sightline.faces.web.models import MAX_ID, MAX_TEXT, SearchAnswer, UploadAnswer
from sightline.faces.web.searching import Asked, answer, read_terms
from sightline.faces.web.uploads import Upload, read_upload

router = APIRouter(prefix="/api", tags=["search"])

Words = Annotated[
    str | None,
    Query(
        max_length=MAX_TEXT,
        description="Words, or parts joined with ` + ` and ` - `, each with a weight: `beach + 2:sunset - people`.",
        examples=["dogs in the snow"],
    ),
]
Parts = Annotated[
    str | None,
    Query(
        max_length=50_000,
        description="Further parts, as a JSON list of objects with one of `text`, `id` and `upload`, and `weight`.",
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


@router.get("/search")
async def search(
    library: PickedLibrary,
    model: PickedModel,
    q: Words = None,
    parts: Parts = None,
    like: Annotated[int | None, Query(ge=1, le=MAX_ID, description="Images like this one of the library.")] = None,
    where: Where = None,
    min_similarity: Annotated[float | None, Query(ge=-1, le=1, description="Leave out lower cosines.")] = None,
    match: Annotated[
        Match, Query(description="Rank by what pictures show, by words in captions, or by both.")
    ] = "pictures",
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
    cursor: Annotated[str | None, Query(max_length=300, description="`next` of the answer before.")] = None,
) -> SearchAnswer:
    """Find images. Without a query, all of them come, the newest first."""
    asked = Asked(
        terms=read_terms(q=q, parts=parts, like=like),
        model=model,
        where=where if where and where.strip() else None,
        min_similarity=min_similarity,
        match=match,
    )

    def find() -> SearchAnswer:
        return answer(library, asked, limit=limit, cursor=cursor)

    return await (library.compute(model, "words", find) if asked.terms else run_in_threadpool(find))


@router.post("/uploads")
async def upload_picture(
    library: PickedLibrary, model: PickedModel, file: Annotated[UploadFile, File()]
) -> UploadAnswer:
    """Give a picture to search with: its key goes into `parts`. It is kept in memory only, and for a while."""
    upload = await library.compute(model, "pictures", _keep, library, file, model)
    return UploadAnswer(key=upload.key, width=upload.width, height=upload.height, thumbnail=upload.preview)


def _keep(library: OpenLibrary, file: UploadFile, model: str) -> Upload:
    return library.uploads.add(read_upload(file), library.encoder_of(model))

"""`/api/search` and `/api/uploads`: finding images by words, by images, by both."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Query, UploadFile

from sightline.search.engine import Match
from sightline.web.libraries import OpenLibrary, PickedLibrary
from sightline.web.models import MAX_ID, MAX_TEXT, SearchAnswer, UploadAnswer
from sightline.web.searching import Asked, answer, read_terms
from sightline.web.uploads import Upload, read_upload

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
ModelName = Annotated[str | None, Query(max_length=500, description="The library's default where it isn't given.")]


@router.get("/search")
def search(
    library: PickedLibrary,
    q: Words = None,
    parts: Parts = None,
    like: Annotated[int | None, Query(ge=1, le=MAX_ID, description="Images like this one of the library.")] = None,
    where: Where = None,
    min_similarity: Annotated[float | None, Query(ge=-1, le=1, description="Leave out lower cosines.")] = None,
    match: Annotated[
        Match, Query(description="Rank by what pictures show, by words in captions, or by both.")
    ] = "pictures",
    model: ModelName = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
    cursor: Annotated[str | None, Query(max_length=300, description="`next` of the answer before.")] = None,
) -> SearchAnswer:
    """Find images. Without a query, all of them come, the newest first."""
    asked = Asked(
        terms=read_terms(q=q, parts=parts, like=like),
        model=library.model_name(model),
        where=where if where and where.strip() else None,
        min_similarity=min_similarity,
        match=match,
    )
    return answer(library, asked, limit=limit, cursor=cursor)


@router.post("/uploads")
async def upload_picture(
    library: PickedLibrary, file: Annotated[UploadFile, File()], model: ModelName = None
) -> UploadAnswer:
    """Give a picture to search with: its key goes into `parts`. It is kept in memory only, and for a while."""
    upload = await library.decode(_keep, library, file, model)
    return UploadAnswer(key=upload.key, width=upload.width, height=upload.height, thumbnail=upload.preview)


def _keep(library: OpenLibrary, file: UploadFile, model: str | None) -> Upload:
    return library.uploads.add(read_upload(file), library.encoder_of(model))

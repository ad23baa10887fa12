"""Routes: images that are there more than once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool

from sightline.core.search.duplicates import DuplicateGroup
from sightline.faces.web.duplicates import DuplicateFinder, describe_differences
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary
from sightline.faces.web.models import DuplicateGroupAnswer, DuplicatesAnswer
from sightline.faces.web.records import show_images

MIN_SIMILARITY = 0.8
"""Below, whole subjects are joined, and there are too many pairs to look at."""

MAX_IMAGES = 50


@asynccontextmanager
async def _find_in_background(app: FastAPI) -> AsyncIterator[None]:
    app.state.duplicates = finder = DuplicateFinder()
    try:
        yield
    finally:
        await run_in_threadpool(finder.close)


router = APIRouter(tags=["duplicates"], lifespan=_find_in_background)


@router.get("/api/duplicates")
async def list_duplicates(
    request: Request,
    library: PickedLibrary,
    min_similarity: Annotated[
        float | None,
        Query(ge=MIN_SIMILARITY, le=1, description="Also near ones, of at least this cosine.", examples=[0.95]),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> DuplicatesAnswer:
    """Groups of images with the same bytes; with `min_similarity`, also of those that look alike.

    Nothing is deleted: what to do with them is the user's choice. Near ones of a large library take a while: every pair
    is compared, once, and the answer is kept until the library changes.
    """
    finder: DuplicateFinder = request.app.state.duplicates
    future = await run_in_threadpool(finder.find, library, min_similarity)
    # Awaited here, not in a thread: however many clients wait for a long search, other requests have theirs.
    groups = await asyncio.shield(asyncio.wrap_future(future))
    shown = await run_in_threadpool(_show, library, groups[offset : offset + limit])
    return DuplicatesAnswer(groups=shown, total=len(groups))


def _show(library: OpenLibrary, groups: list[DuplicateGroup]) -> list[DuplicateGroupAnswer]:
    return [
        DuplicateGroupAnswer(
            kind=group.kind,
            similarity=group.similarity,
            count=len(group.images),
            images=show_images(library, group.images[:MAX_IMAGES]),
            differences=describe_differences(group.images[:MAX_IMAGES]),
        )
        for group in groups
    ]

"""`/api/stats`: what a library holds, and which pages there are."""

from __future__ import annotations

from itertools import islice

from fastapi import APIRouter, Request

from sightline import __version__
from sightline.faces.web.libraries import PickedLibrary
from sightline.faces.web.models import SkippedFile, StatsAnswer
from sightline.kit.text import valid_text

router = APIRouter(prefix="/api", tags=["library"])

_NAMED_FILES = 200
_PAGES = {"library": "/api/jobs", "caption": "/api/caption", "compare": "/api/compare"}
"""Page -> the address that it needs."""


@router.get("/stats")
def get_stats(request: Request, library: PickedLibrary) -> StatsAnswer:
    """Counts, folders, files that could not be read, and the pages of the app."""
    store = library.library.store
    stats = store.stats()
    failures = store.failures()
    return StatsAnswer(
        library=library.name,
        images=stats.images,
        captions=stats.captions,
        model=library.library.default_model,
        models=dict(stats.models),
        folders=[valid_text(root) for root in stats.roots],
        offline_folders=[valid_text(root) for root in stats.extra["offline_roots"]],
        unreadable=len(failures),
        unreadable_files=[
            SkippedFile(path=valid_text(failure.root / failure.relative), reason=failure.reason)
            for failure in islice(failures, _NAMED_FILES)
        ],
        size_bytes=stats.size_bytes,
        version=__version__,
        pages=_pages(request),
    )


def _pages(request: Request) -> list[str]:
    """Pages for what isn't there are absent, not empty."""
    there = request.app.openapi()["paths"]
    trains = ["train"] if request.app.state.config.runs is not None and "/api/runs" in there else []
    return ["search", *(page for page, address in _PAGES.items() if address in there), *trains]

"""Routes: libraries, and folders that may be added to them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from sightline.faces.web.folders import is_text, list_below
from sightline.faces.web.libraries import AllLibraries, PickedLibrary
from sightline.faces.web.models import FolderAnswer, FoldersAnswer, LibraryAnswer
from sightline.kit.text import valid_text

router = APIRouter(tags=["libraries"])


@router.get("/api/libraries")
def list_libraries(libraries: AllLibraries) -> list[LibraryAnswer]:
    """The libraries that are served, the default one first."""
    return [
        LibraryAnswer(
            name=name,
            images=libraries.get(name).library.store.stats().images,
            default=name == libraries.default,
        )
        for name in libraries.names()
    ]


@router.get("/api/folders")
def list_folders(
    library: PickedLibrary,
    path: Annotated[str | None, Query(min_length=1, max_length=4096, description="A folder to look into.")] = None,
) -> FoldersAnswer:
    """The library's folders, the roots below which others may be added, and the folders inside one of those."""
    roots = [valid_text(root) for root in library.library.store.stats().roots]
    allowed = [valid_text(root) for root in library.config.allow_roots]
    if path is None:
        return FoldersAnswer(roots=roots, allow_roots=allowed)
    folder, found = list_below(path, library.config.allow_roots)
    return FoldersAnswer(
        roots=roots,
        allow_roots=allowed,
        path=str(folder),
        folders=[FolderAnswer(name=below.name, path=str(below)) for below in found if is_text(below)],
    )

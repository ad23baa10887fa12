"""The routes, one module for a group of addresses; each gives `router`. Here is what they share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi import Path as InPath

from sightline.faces.service.library import Libraries, OpenLibrary
from sightline.faces.service.schemas import MAX_ID


async def libraries_of(request: Request) -> Libraries:
    """The libraries of the app that a request came to."""
    found: Libraries = request.app.state.libraries
    return found


AllLibraries = Annotated[Libraries, Depends(libraries_of)]


async def pick_library(
    libraries: AllLibraries,
    library: Annotated[
        str | None, Query(max_length=255, description="Name of a library; the first one where it isn't given.")
    ] = None,
) -> OpenLibrary:
    """The library that a request names."""
    return libraries.get(library)


PickedLibrary = Annotated[OpenLibrary, Depends(pick_library)]


def pick_model(
    library: PickedLibrary,
    model: Annotated[
        str | None,
        Query(
            max_length=500,
            description="A model whose vectors the library has; the library's default where it isn't given.",
            examples=["starter"],
        ),
    ] = None,
) -> str:
    """The name of the model that a request asks for. Raises ModelError for one that may not be used."""
    return library.model_name(model)


PickedModel = Annotated[str, Depends(pick_model)]
Row = Annotated[int, InPath(ge=1, le=MAX_ID, description="The image's id.", examples=[12])]

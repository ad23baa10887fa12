"""Routes: what libraries hold, their folders and models, training runs, and whether the server is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool

from sightline.errors import NotFoundError
from sightline.faces.service import job_work, runs, schemas
from sightline.faces.service import library as opened
from sightline.faces.service.models import require_name
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.routes import AllLibraries, PickedLibrary

router = APIRouter()


@router.get("/api/stats", tags=["library"])
def get_stats(request: Request, library: PickedLibrary) -> schemas.StatsAnswer:
    """Counts, folders, files that could not be read, and the pages of the app."""
    trains = ["train"] if request.app.state.config.runs is not None else []  # absent, not empty
    return opened.show_stats(library, pages=["search", "library", "caption", "compare", *trains])


@router.get("/healthz", tags=["server"])
async def check_health(libraries: AllLibraries) -> schemas.HealthAnswer:
    """Say whether searches can be answered: `starting` while the model loads, `failed` where it can't be."""
    if libraries.failure is not None:
        return schemas.HealthAnswer(status="failed", detail=libraries.failure)
    return schemas.HealthAnswer(status="ok" if libraries.is_ready else "starting")


@router.get("/api/libraries", tags=["libraries"])
def list_libraries(libraries: AllLibraries) -> list[schemas.LibraryAnswer]:
    """The libraries that are served, the default one first."""
    return opened.list_libraries(libraries)


@router.get("/api/folders", tags=["libraries"])
def list_folders(
    library: PickedLibrary,
    path: Annotated[str | None, Query(min_length=1, max_length=4096, description="A folder to look into.")] = None,
) -> schemas.FoldersAnswer:
    """The library's folders, the roots below which others may be added, and the folders inside one of those."""
    return job_work.list_folders(library, path)


@router.get("/api/models", tags=["models"])
def list_models(library: PickedLibrary) -> schemas.ModelsAnswer:
    """Models with vectors in the library first, then those that Sightline knows.

    `available` ones can be added: POST /api/jobs with `{"kind": "add_model", "model": NAME}`.
    """
    return opened.list_models(library)


@router.put("/api/models/default", tags=["models"])
async def set_default(library: PickedLibrary, request: schemas.DefaultModelRequest) -> schemas.ModelsAnswer:
    """Let searches use a model that the library has vectors of. The others' vectors stay."""
    held = await run_in_threadpool(library.store.models)
    name = require_name(request.name, held)
    return await library.compute(name, "words", opened.use_model, library, name)


# --- training runs: there are none unless the server was given a folder of them ---------------------------------


def _runs_folder(request: Request) -> Path:
    config: ServeConfig = request.app.state.config
    if config.runs is None:
        raise NotFoundError("This server shows no training runs; start it with --runs DIR.", kind="no-runs")
    return config.runs


RunsFolder = Annotated[Path, Depends(_runs_folder)]


@router.get("/api/runs", tags=["train"])
def list_runs(folder: RunsFolder) -> schemas.RunsAnswer:
    """Training runs, the one that wrote last first. One whose files are broken is listed without figures."""
    return schemas.RunsAnswer(runs=runs.list_runs(folder))


@router.get("/api/runs/{name:path}", tags=["train"])
def show_run(
    folder: RunsFolder,
    name: Annotated[str, InPath(max_length=1000, examples=["flickr8k-conv"])],
    after: Annotated[int, Query(ge=0, le=10**12, description="Leave out this many rows: those you have.")] = 0,
) -> schemas.RunDetailAnswer:
    """One run: its settings, and what its log says so far. Of many rows of kind `train` every n-th is given.

    To follow a run, ask again with `after` set to `next` of the answer before; where `next` has become smaller, the
    run was resumed from an earlier step, and its rows start anew.
    """
    return runs.show_run(folder, name, after=after)

"""Routes: training runs. There are none unless the server was given a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter

from sightline.errors import InputError
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.models import RunAnswer, RunDetailAnswer, RunsAnswer
from sightline.faces.web.problems import Problem
from sightline.faces.web.runs import describe, find_runs, modified_text, read_config, read_rows, thin

router = APIRouter(tags=["train"])


def _runs_folder(request: Request) -> Path:
    config: ServeConfig = request.app.state.config
    if config.runs is None:
        raise Problem(404, "This server shows no training runs; start it with --runs DIR.", kind="no-runs")
    return config.runs


RunsFolder = Annotated[Path, Depends(_runs_folder)]


@router.get("/api/runs")
def list_runs(folder: RunsFolder) -> RunsAnswer:
    """Training runs, the one that wrote last first. One whose files are broken is listed without figures."""
    return RunsAnswer(runs=[_show(name, run) for name, run in find_runs(folder).items()])


@router.get("/api/runs/{name:path}")
def show_run(
    folder: RunsFolder,
    name: Annotated[str, PathParameter(max_length=1000, examples=["flickr8k-conv"])],
    after: Annotated[int, Query(ge=0, le=10**12, description="Leave out this many rows: those you have.")] = 0,
) -> RunDetailAnswer:
    """One run: its settings, and what its journal says so far. Of many rows of kind `train` every n-th is given.

    To follow a run, ask again with `after` set to `next` of the answer before; where `next` has become smaller, the
    run was resumed from an earlier step, and its rows start anew.
    """
    run = find_runs(folder).get(name)
    if run is None:
        raise Problem(404, f"There is no training run {name!r} in {folder}.", kind="unknown-run")
    rows = read_rows(run)
    return RunDetailAnswer(
        name=name, **describe(run, rows), config=read_config(run), rows=thin(rows[after:]), next=len(rows)
    )


def _show(name: str, run: Path) -> RunAnswer:
    try:
        return RunAnswer(name=name, **describe(run, read_rows(run)))
    except InputError:
        return RunAnswer(name=name, modified_at=modified_text(run))

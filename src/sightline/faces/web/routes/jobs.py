"""Routes: jobs and the events that tell of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from sightline.faces.service.jobs import Jobs
from sightline.faces.service.schemas import JobAnswer, JobRequest, JobsAnswer
from sightline.faces.web.events import Event, Events


@asynccontextmanager
async def _run_jobs(app: FastAPI) -> AsyncIterator[None]:
    """Go on with the jobs of earlier starts; at the end, while the libraries are still open, stop what runs."""
    app.state.events = events = Events()
    app.state.jobs = jobs = Jobs(app.state.libraries, events)
    await run_in_threadpool(jobs.open)
    try:
        yield
    finally:
        events.close()
        await run_in_threadpool(jobs.close)


router = APIRouter(tags=["jobs"], lifespan=_run_jobs)

LibraryName = Annotated[str | None, Query(max_length=255, description="Name of a library.")]
JobId = Annotated[str, Path(max_length=64, examples=["0a1b2c3d4e5f"])]


def _jobs_of(request: Request) -> Jobs:
    found: Jobs = request.app.state.jobs
    return found


AllJobs = Annotated[Jobs, Depends(_jobs_of)]


@router.get("/api/jobs")
def list_jobs(jobs: AllJobs, library: LibraryName = None) -> JobsAnswer:
    """Jobs of a library, or of all where none is named: unfinished ones and the last fifty that ended."""
    return JobsAnswer(jobs=jobs.list(library))


@router.post("/api/jobs", status_code=202)
def submit_job(jobs: AllJobs, request: JobRequest, library: LibraryName = None) -> JobAnswer:
    """Queue work: index folders, caption the library, or add a model's vectors beside the others'.

    Folders must lie below a root that the server was started with, or be the library's own. The same work that is
    still queued, running or paused is not queued again: its job is answered.
    """
    return jobs.submit(request, library)


@router.get("/api/jobs/{job_id}")
def show_job(jobs: AllJobs, job_id: JobId) -> JobAnswer:
    """One job."""
    return jobs.find(job_id)[1]


@router.post("/api/jobs/{job_id}/pause")
def pause_job(jobs: AllJobs, job_id: JobId) -> JobAnswer:
    """Let a job wait; a running one ends at its next safe point, and keeps what it did."""
    return jobs.find(job_id)[0].pause(job_id)


@router.post("/api/jobs/{job_id}/resume")
def resume_job(jobs: AllJobs, job_id: JobId) -> JobAnswer:
    """Go on with a job that was paused, cancelled or failed."""
    return jobs.find(job_id)[0].resume(job_id)


@router.post("/api/jobs/{job_id}/cancel")
def cancel_job(jobs: AllJobs, job_id: JobId) -> JobAnswer:
    """Give a job up; what it did stays in the library."""
    return jobs.find(job_id)[0].cancel(job_id)


_STREAM = {
    "description": "A stream of Server-Sent Events.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'event: library\ndata: {"library": "photos", "images": 7, "captions": 14}\nid: 5f0c-12\n\n',
        }
    },
}


@router.get("/api/events", response_class=StreamingResponse, responses={200: _STREAM})
async def follow_events(
    request: Request,
    job: Annotated[str | None, Query(max_length=64, description="Only this job's events.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> StreamingResponse:
    """Follow what happens: events `job` (a job's state), `library` (how many images it has) and, every 15 s, `ping`.

    A client that comes back with `Last-Event-ID`, as browsers do, is told what has changed since.
    """
    events: Events = request.app.state.events

    def wanted(event: Event) -> bool:
        return job is None or (event.name == "job" and event.subject == job)

    stream = events.stream(last_id=last_event_id, wanted=wanted)
    return StreamingResponse(
        stream, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )

"""Jobs: those of one library run one at a time, in a thread, kept on disk so that closing or killing loses none.

Pausing a job and closing the libraries are the same: the work ends at its next safe point, and going on does what is
left. All of the library's work is incremental, so nothing is done twice.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sightline.errors import ConflictError, InputError, NotFoundError, SightlineError, StoreError
from sightline.faces.service.job_work import perform, require_folder
from sightline.faces.service.library import Libraries, OpenLibrary
from sightline.faces.service.models import lower_priority, names_here, require_captioner, require_name
from sightline.faces.service.schemas import JobAnswer, JobProgress, JobRequest, LibraryEvent
from sightline.kit.files import write_json

CLOSE_S = 2.0
"""Time that closing waits for the running job's next safe point."""
MAX_UNFINISHED = 50
_MAX_ENDED = 50
_PUBLISH_S = 0.5
_SAVE_S = 5.0
_LIBRARY_S = 2.0
_VERSION = 1
_log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818 - no error: someone asked for it
    """The running job was asked to end here."""


class Publisher(Protocol):
    """Receiver of jobs and libraries as they change."""

    def publish(self, name: str, subject: str, data: str, *, lasting: bool = True) -> None:
        """Tell that a subject (`name` says of what kind) is now as `data` says, in JSON."""

    def forget(self, name: str, subject: str) -> None:
        """Drop a subject that is no more."""


class JobFile:
    """`jobs.json` of a library, which one server at a time owns."""

    def __init__(self, library: Path) -> None:
        self.path = library / "jobs.json"
        self._lock = FileLock(library / "jobs.lock", thread_local=False)

    def own(self) -> bool:
        """True where this server may run the library's jobs: no other does, now and until `release`.

        Raises StoreError where the library's folder can't be written.
        """
        if not self._lock.is_locked:
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                return False
            except OSError as error:
                raise StoreError(
                    f"{self.path.parent} can't be written ({error.strerror}), so no work can be done in this library."
                ) from error
        return True

    def release(self) -> None:
        """Let another server have them."""
        self._lock.release()

    def load(self) -> list[JobAnswer]:
        """The jobs as they were saved; a file that is damaged is put aside, a job that can't be understood left out."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            return self._put_aside(str(error))
        try:
            saved = json.loads(text)
            if not isinstance(saved, dict) or saved.get("version") != _VERSION or not isinstance(saved["jobs"], list):
                raise ValueError(f"version {_VERSION} was expected")
        except (ValueError, KeyError, RecursionError) as error:
            return self._put_aside(str(error))
        return list(self._understood(saved["jobs"]))

    def save(self, jobs: Iterable[JobAnswer]) -> None:
        """Replace the file whole, as long as this server owns it.

        A disk that refuses costs what is known of the jobs, never the jobs themselves.
        """
        if not self._lock.is_locked:
            return
        saved = {"version": _VERSION, "jobs": [job.model_dump(mode="json") for job in jobs]}
        try:
            write_json(self.path, saved, durable=True)
        except OSError as error:
            _log.warning("%s can't be written (%s): a restart would not know of the latest jobs.", self.path, error)

    def _understood(self, saved: Iterable[object]) -> Iterable[JobAnswer]:
        for entry in saved:
            try:
                yield JobAnswer.model_validate(entry)
            except ValidationError as error:
                _log.warning("A job in %s can't be understood and is left out: %s", self.path, error)

    def _put_aside(self, reason: str) -> list[JobAnswer]:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        _log.warning("%s is damaged (%s); it is kept as %s.", self.path, reason, aside.name)
        self.path.replace(aside)
        return []


class JobQueue:
    """The jobs of one library and the thread that does them. Every method may be called from any thread."""

    def __init__(self, served: OpenLibrary, events: Publisher) -> None:
        self._served = served
        self._events = events
        self._file = JobFile(served.path)
        self._changed = threading.Condition()
        self._jobs: dict[str, JobAnswer] = {}
        self._waiting: deque[str] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._published_at = self._saved_at = self._library_told_at = 0.0

    def open(self) -> None:
        """Find the jobs of earlier starts; those that were interrupted, or still waited, go on.

        Where another server runs this library's jobs, or its folder can't be written, there are none.
        """
        try:
            self._own()
        except StoreError as error:
            _log.warning("%s", error)

    def ask_to_close(self) -> None:
        """Let the running job end at its next safe point, and start no other."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the running job, waiting two seconds at most for its next safe point; the next start goes on with it."""
        self.ask_to_close()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        with self._changed:
            self._save()
            self._file.release()

    def jobs(self) -> list[JobAnswer]:
        """All jobs, newest first."""
        with self._changed:
            return list(reversed(self._jobs.values()))

    def find(self, id_: str) -> JobAnswer | None:
        """A job by id."""
        with self._changed:
            return self._jobs.get(id_)

    def submit(self, request: JobRequest) -> JobAnswer:
        """Queue work. The same work that is not finished yet is not queued again: its job is returned.

        Raises StoreError where another server does this library's work, ConflictError where too much is waiting.
        """
        with self._changed:
            self._require_owned()
            unfinished = [job for job in self._jobs.values() if not job.has_ended]
            for job in unfinished:
                if JobRequest(**job.model_dump(include=set(JobRequest.model_fields))) == request:
                    return job if job.state != "paused" else self.resume(job.id)
            if len(unfinished) >= MAX_UNFINISHED:
                raise ConflictError(f"{len(unfinished)} jobs wait already. Cancel some.", kind="queue-full")
            job = JobAnswer(
                id=secrets.token_hex(6),
                state="queued",
                library=self._served.name,
                progress=JobProgress(),
                created_at=_now(),
                ended_at=None,
                summary=None,
                error=None,
                **request.model_dump(),
            )
            self._waiting.append(job.id)
            self._forget_oldest()
            return self._put(job)

    def pause(self, id_: str) -> JobAnswer:
        """Let a job wait until it is resumed. Raises ConflictError for one that has ended."""
        return self._stop(id_, "pause")

    def cancel(self, id_: str) -> JobAnswer:
        """Give a job up; what it did stays. Raises ConflictError for one that has ended."""
        return self._stop(id_, "cancel")

    def resume(self, id_: str) -> JobAnswer:
        """Queue a job again that was paused, cancelled or failed. Raises ConflictError for any other."""
        with self._changed:
            self._require_owned()
            job = self._jobs[id_]
            if job.state == "running" and job.stopping is not None:
                return self._update(id_, stopping=None)
            if job.state not in ("paused", "cancelled", "failed"):
                raise _refuse(job, "resumed")
            self._waiting.append(id_)
            return self._update(id_, state="queued", ended_at=None, error=None)

    def _stop(self, id_: str, asked: Literal["pause", "cancel"]) -> JobAnswer:
        with self._changed:
            job = self._jobs[id_]
            if job.state == "running":
                return self._update(id_, stopping=asked)
            outcome = _stopped(asked)
            if job.has_ended or job.state == outcome["state"]:
                raise _refuse(job, outcome["state"])
            if id_ in self._waiting:
                self._waiting.remove(id_)
            return self._update(id_, **outcome)

    # --- owning the library's jobs ------------------------------------------------------------------------------

    def _require_owned(self) -> None:
        if not self._own():
            raise StoreError(
                f"Another Sightline server does the work in the library {self._served.name!r}. Use it, or stop it."
            )

    def _own(self) -> bool:
        """True where this server does the library's work; as soon as it does, it takes over what is unfinished."""
        with self._changed:
            if self._thread is not None:
                return True
            if self._closing or not self._file.own():
                return False
            for job in self._file.load():
                self._take_over(job)
            name = f"sightline-jobs-{self._served.name}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()
            return True

    def _take_over(self, job: JobAnswer) -> None:
        """A job of an earlier start: one that was running goes on first."""
        asked, job = job.stopping, job.model_copy(update={"library": self._served.name, "stopping": None})
        if job.state == "running" and asked is not None:
            job = job.model_copy(update=_stopped(asked))
        elif job.state == "running":
            job = job.model_copy(update={"state": "queued", "interruptions": job.interruptions + 1})
            self._waiting.appendleft(job.id)
        elif job.state == "queued":
            self._waiting.append(job.id)
        self._put(job)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        lower_priority()
        while (job := self._take_next()) is not None:
            self._run(job)

    def _take_next(self) -> JobAnswer | None:
        """The next job, now running; None when the server ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return None
            id_ = self._waiting.popleft()
            started_at = self._jobs[id_].started_at or _now()
            return self._update(id_, state="running", started_at=started_at)

    def _run(self, job: JobAnswer) -> None:
        outcome: dict[str, Any] | None
        try:
            summary = perform(job, self._served, lambda progress: self._tell(job.id, progress))
            outcome = {"state": "done", "summary": summary}
        except _Stopped:
            outcome = None
        except SightlineError as error:
            outcome = {"state": "failed", "error": str(error)}
        except Exception:
            _log.exception("The job %s failed", job.id)
            outcome = {"state": "failed", "error": "The job failed unexpectedly; the server's log says how."}
        self._end(job.id, outcome)

    def _end(self, id_: str, outcome: dict[str, Any] | None) -> None:
        """Note how a run ended: with an outcome, or because it was asked to."""
        with self._changed:
            job = self._jobs[id_]
            if outcome is not None:
                outcome = {**outcome, "ended_at": _now()}
            elif job.stopping is not None:
                outcome = _stopped(job.stopping)
            elif self._closing:
                return  # it stays `running` on disk: the next start goes on with it
            else:  # resumed between being asked to stop and stopping
                outcome = {"state": "queued"}
                self._waiting.appendleft(id_)
            progress = job.progress.model_copy(update={"rate_per_s": None, "seconds_left": None})
            self._update(id_, **{"stopping": None, "progress": progress, **outcome})
        self._tell_library()

    def _tell(self, id_: str, progress: JobProgress) -> None:
        """Take the running job's progress. Raises _Stopped where it is to end."""
        with self._changed:
            job = self._jobs[id_] = self._jobs[id_].model_copy(update={"progress": progress})
            if self._closing or job.stopping is not None:
                raise _Stopped
            now = time.monotonic()
            if now - self._published_at >= _PUBLISH_S:
                self._publish(job)
            if now - self._saved_at >= _SAVE_S:
                self._save()
        if now - self._library_told_at >= _LIBRARY_S:
            self._tell_library()

    # --- keeping and telling ------------------------------------------------------------------------------------

    def _update(self, id_: str, **changes: Any) -> JobAnswer:
        return self._put(self._jobs[id_].model_copy(update=changes))

    def _put(self, job: JobAnswer) -> JobAnswer:
        """Keep a job, on disk too, and tell of it."""
        self._jobs[job.id] = job
        self._save()
        self._publish(job)
        self._changed.notify_all()
        return job

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._file.save(self._jobs.values())

    def _publish(self, job: JobAnswer) -> None:
        self._published_at = time.monotonic()
        self._events.publish("job", job.id, job.model_dump_json(), lasting=not job.has_ended)

    def _tell_library(self) -> None:
        """Say that the library has changed, and how many images it has now."""
        self._library_told_at = time.monotonic()
        self._served.changed()
        try:
            tell_of_library(self._served, self._events)
        except StoreError as error:  # closed, or busy for long: no reason to fail the work
            _log.warning("%s", error)

    def _forget_oldest(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.has_ended]
        for id_ in ended[: max(0, len(ended) - _MAX_ENDED)]:
            del self._jobs[id_]
            self._events.forget("job", id_)


def tell_of_library(served: OpenLibrary, events: Publisher) -> None:
    """Publish how many images a library has."""
    stats = served.store.stats()
    told = LibraryEvent(library=served.name, images=stats.images, captions=stats.captions)
    events.publish("library", served.name, told.model_dump_json())


def _stopped(asked: Literal["pause", "cancel"]) -> dict[str, Any]:
    """The fields to change of a job that was asked to stop."""
    return {"state": "paused"} if asked == "pause" else {"state": "cancelled", "ended_at": _now()}


def _refuse(job: JobAnswer, what: str) -> ConflictError:
    return ConflictError(f"The job is {job.state}; it can't be {what}.", kind="job-state")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Jobs:
    """A queue for each library; jobs are found by their id alone."""

    def __init__(self, libraries: Libraries, events: Publisher) -> None:
        self._libraries = libraries
        self._events = events
        self._queues = {name: JobQueue(libraries.get(name), events) for name in libraries.names()}

    def open(self) -> None:
        """Tell of the libraries, and go on with what earlier starts left."""
        for name, queue in self._queues.items():
            tell_of_library(self._libraries.get(name), self._events)
            queue.open()

    def close(self) -> None:
        """End what is running, at a safe point; the next start goes on with it."""
        for queue in self._queues.values():
            queue.ask_to_close()
        for queue in self._queues.values():
            queue.close()

    def list(self, library: str | None = None) -> list[JobAnswer]:
        """Jobs of one library or of all, newest first."""
        queues = self._queues.values() if library is None else [self.queue(library)]
        jobs = [job for queue in queues for job in queue.jobs()]
        return jobs if len(queues) == 1 else sorted(jobs, key=lambda job: job.created_at, reverse=True)

    def queue(self, library: str | None) -> JobQueue:
        """The queue of a library. Raises NotFoundError for an unknown name."""
        return self._queues[self._libraries.get(library).name]

    def find(self, id_: str) -> tuple[JobQueue, JobAnswer]:
        """A job and its queue. Raises NotFoundError for an unknown id."""
        for queue in self._queues.values():
            if (job := queue.find(id_)) is not None:
                return queue, job
        raise NotFoundError(f"There is no job {id_!r}.", kind="unknown-job")

    def submit(self, request: JobRequest, library: str | None) -> JobAnswer:
        """Check and queue work.

        Raises ForbiddenError for a folder that is not allowed, InputError for a request that means nothing, ModelError
        for a model that can't run now.
        """
        served = self._libraries.get(library)
        return self.queue(library).submit(_complete(request, served))


def _complete(request: JobRequest, served: OpenLibrary) -> JobRequest:
    """The request with all that it leaves open settled now: a restart must not change it."""
    folders = [str(require_folder(folder, served)) for folder in request.folders]
    changes: dict[str, object] = {"folders": list(dict.fromkeys(folders)), "model": served.model}
    if request.model is not None:
        changes["model"] = require_name(request.model, [*served.models(), *names_here("encoder")])
    elif request.kind == "add_model":
        raise InputError("Name the model to add.")
    if request.kind == "caption":
        changes["captioner"] = require_captioner(request.captioner, served.config.captioner)
    elif request.captioner is not None:
        raise InputError("A captioner goes with the job `caption` only.")
    if request.kind == "add_model" and folders:
        raise InputError("`add_model` covers all images of the library; leave `folders` out.")
    stats = served.store.stats()
    if request.kind != "index" and not stats.images:
        raise InputError("The library has no images yet: add a folder first.")
    if request.kind == "index" and not request.folders and not stats.roots:
        raise InputError("The library knows no folder yet: name one to index.")
    return request.model_copy(update=changes)

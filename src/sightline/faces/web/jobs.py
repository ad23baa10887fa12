"""The jobs of all libraries that a server has open."""

from __future__ import annotations

from sightline.faces.web.captioners import require_captioner
from sightline.faces.web.encoders import names_here, require_name
from sightline.faces.web.events import Events
from sightline.faces.web.folders import require_folder
from sightline.faces.web.job_queue import JobQueue, tell_of_library
from sightline.faces.web.libraries import Libraries, OpenLibrary
from sightline.faces.web.models import JobAnswer, JobRequest
from sightline.faces.web.problems import Problem


class Jobs:
    """A queue for each library; jobs are found by their id alone."""

    def __init__(self, libraries: Libraries, events: Events) -> None:
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
        """The queue of a library. Raises a 404 problem for an unknown name."""
        return self._queues[self._libraries.get(library).name]

    def find(self, id_: str) -> tuple[JobQueue, JobAnswer]:
        """A job and its queue. Raises a 404 problem for an unknown id."""
        for queue in self._queues.values():
            if (job := queue.find(id_)) is not None:
                return queue, job
        raise Problem(404, f"There is no job {id_!r}.", kind="unknown-job")

    def submit(self, request: JobRequest, library: str | None) -> JobAnswer:
        """Check and queue work.

        Raises a 403 problem for a folder that is not allowed, a 422 problem for a request that means nothing,
        ModelError for a model that can't run now.
        """
        served = self._libraries.get(library)
        return self.queue(library).submit(_complete(request, served))


def _complete(request: JobRequest, served: OpenLibrary) -> JobRequest:
    """The request with all that it leaves open settled now: a restart must not change it."""
    folders = [str(require_folder(folder, served)) for folder in request.folders]
    changes: dict[str, object] = {"folders": list(dict.fromkeys(folders))}
    changes["model"] = _require_encoder(request, served)
    if request.kind == "caption":
        changes["captioner"] = require_captioner(request.captioner, served.config)
    elif request.captioner is not None:
        raise Problem(422, "A captioner goes with the job `caption` only.", kind="input")
    if request.kind == "add_model" and folders:
        raise Problem(422, "`add_model` covers all images of the library; leave `folders` out.", kind="input")
    _check_there_is_work(request, served)
    return request.model_copy(update=changes)


def _check_there_is_work(request: JobRequest, served: OpenLibrary) -> None:
    stats = served.library.store.stats()
    if request.kind != "index" and not stats.images:
        raise Problem(422, "The library has no images yet: add a folder first.", kind="input")
    if request.kind == "index" and not request.folders and not stats.roots:
        raise Problem(422, "The library knows no folder yet: name one to index.", kind="input")


def _require_encoder(request: JobRequest, served: OpenLibrary) -> str:
    """The full name of the model to use. Raises ModelError where a request may not make the server load it."""
    if request.model is None:
        if request.kind == "add_model":
            raise Problem(422, "Name the model to add.", kind="input")
        return served.library.model
    return require_name(request.model, [*served.models(), *names_here("encoder")])

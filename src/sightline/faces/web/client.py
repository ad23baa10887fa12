"""A server's API from Python, typed: what programs on this machine or another one use.

with Client("http://127.0.0.1:8000") as client:
    for hit in client.search("dogs in the snow", limit=5).hits:
        print(hit.similarity, hit.path)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from sightline.errors import InputError, SightlineError
from sightline.faces.service import schemas as models

Answer = TypeVar("Answer", bound=BaseModel)
ImageFile = Path | bytes
"""A file, or the bytes of one."""
Event = models.JobAnswer | models.LibraryEvent
"""One thing that a server tells of: a job in its state now, or a library in its size now."""

PING: Final = "ping"
"""Comes right after what is so now, and then every 15 s."""


_OF_NO_LIBRARY = re.compile(r"/api/(libraries$|runs|jobs/|events)|/(healthz)?$")
"""Addresses that are about no library, or about a job, whose id is enough."""

_RANKED_BY: Final = ("match", "typing", "hub_correction", "rerank", "sort", "model", "like")
_OF_SEARCHES: Final = frozenset(["where", "min_similarity", "min_probability", "each_copy", *_RANKED_BY])
"""What a search may be told beside its words and parts."""

_TOKEN = re.compile(r'<meta name="sightline-token" content="([^"]*)"')


class RefusedError(SightlineError):
    """The server answered with an error; `problem` is what it said."""

    def __init__(self, problem: models.ProblemAnswer) -> None:
        super().__init__(f"{problem.title}: {problem.detail}")
        self.problem = problem


class Client:
    """A connection to a server. Close it, or use it in a `with` block. Threads may share it.

    Every method raises RefusedError for an error of the server's, InputError where none answers at the address.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        access_token: str | None = None,
        library: str | None = None,
        timeout_s: float = 60.0,
        http: httpx2.Client | None = None,
    ) -> None:
        """`access_token` is what a server beyond its own machine printed at its start.

        `library` is the name of the library to use, by default the server's first. `http` replaces the connection.
        """
        self._http = http or httpx2.Client(base_url=address.rstrip("/"), timeout=timeout_s)
        if access_token is not None:
            self._http.headers["Authorization"] = f"Bearer {access_token}"
        self._library = library
        self._token: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
        self,
        query: str = "",
        *,
        parts: Sequence[models.PartRequest] = (),
        limit: int = 60,
        cursor: str | None = None,
        **how: str | float | None,
    ) -> models.SearchAnswer:
        """One page of what words, and further parts, find; without either all images, the newest first.

        `how` are `where`, `min_similarity`, `min_probability`, `hub_correction`, `match`, `each_copy`, `rerank`,
        `sort`, `model` and `like`, as the API has them.
        """
        if unknown := how.keys() - _OF_SEARCHES:
            raise InputError(f"A search knows no {', '.join(sorted(unknown))}.")
        described = [part.model_dump(exclude_none=True) for part in parts]
        asked = {"q": query or None, "parts": json.dumps(described) if described else None, "limit": limit}
        return self._get("/api/search", models.SearchAnswer, **asked, cursor=cursor, **how)

    def search_all(self, query: str = "", **how: Any) -> Iterator[models.HitAnswer]:
        """Every hit of a search, page by page as they are needed."""
        cursor: str | None = None
        while True:
            page = self.search(query, cursor=cursor, **{"limit": 500, **how})
            yield from page.hits
            if (cursor := page.next) is None:
                return

    def upload(self, image: ImageFile, *, model: str | None = None) -> models.UploadAnswer:
        """Give a picture to search with: `parts=[PartRequest(upload=answer.key)]`."""
        given = {"params": {"model": model}, "files": [_as_file(image)]}
        return self._send("POST", "/api/uploads", models.UploadAnswer, **given)

    def words(self) -> list[models.WordAnswer]:
        """Words of the user's own that were taught by example."""
        return self._get("/api/words", models.WordsAnswer).words

    def teach(self, name: str, images: Sequence[int], *, kind: str | None = None) -> models.WordAnswer:
        """Teach a word by images of the library, best three to ten; `kind` says what it is, such as `dog`."""
        request = models.TeachRequest(name=name, images=list(images), kind=kind)
        return self._send("POST", "/api/words", models.WordAnswer, json=request.model_dump())

    def forget(self, name: str) -> list[models.WordAnswer]:
        """Forget a word; those that are left."""
        return self._send("DELETE", f"/api/words/{quote(name)}", models.WordsAnswer).words

    # --- images -------------------------------------------------------------------------------------------------

    def image(self, image_id: int) -> models.ImageAnswer:
        """All that is known of an image."""
        return self._get(f"/api/images/{image_id}", models.ImageAnswer)

    def thumbnail(self, image_id: int, *, size_px: int = 320) -> bytes:
        """A small copy of an image (WEBP)."""
        return self._request("GET", f"/api/images/{image_id}/thumbnail", params={"size": size_px}).content

    def file(self, image_id: int, *, display: bool = False) -> bytes:
        """An image's file; with `display` as a JPEG where browsers can't show its format."""
        return self._request("GET", f"/api/images/{image_id}/file", params={"display": display or None}).content

    def heatmap(self, image_id: int, words: str, *, model: str | None = None) -> models.HeatmapAnswer:
        """Match of words in an image, by cell."""
        return self._get(f"/api/images/{image_id}/heatmap", models.HeatmapAnswer, q=words, model=model)

    def captions(self, image_id: int) -> models.CaptionsAnswer:
        """An image's captions, the chosen one first."""
        return self._get(f"/api/images/{image_id}/captions", models.CaptionsAnswer)

    def set_caption(self, image_id: int, text: str) -> models.CaptionsAnswer:
        """Give an image the user's own caption."""
        return self._send("PUT", f"/api/images/{image_id}/captions", models.CaptionsAnswer, json={"text": text})

    def remove_caption(self, image_id: int) -> models.CaptionsAnswer:
        """Take the user's own caption away."""
        return self._send("DELETE", f"/api/images/{image_id}/captions", models.CaptionsAnswer)

    # --- models at work -----------------------------------------------------------------------------------------

    def embed_texts(self, texts: Sequence[str], *, model: str | None = None) -> models.EmbedAnswer:
        """Vectors of texts, of length 1."""
        request = {"texts": list(texts)}
        return self._send("POST", "/api/embed", models.EmbedAnswer, params={"model": model}, json=request)

    def embed_images(self, images: Sequence[ImageFile], *, model: str | None = None) -> models.EmbedAnswer:
        """Vectors of pictures, of length 1."""
        files = [_as_file(image) for image in images]
        return self._send("POST", "/api/embed", models.EmbedAnswer, params={"model": model}, files=files)

    def caption(self, image: ImageFile, *, candidates: Sequence[str] = ()) -> models.DualCaptionAnswer:
        """Both kinds of captions of a picture; `candidates` are ranked in place of composed ones.

        The best is one of these then, unless the server was started with a captioner named.
        """
        fields = {"candidates": "\n".join(candidates)} if candidates else {}
        return self._send("POST", "/api/caption", models.DualCaptionAnswer, files=[_as_file(image)], data=fields)

    # --- jobs ---------------------------------------------------------------------------------------------------

    def submit(
        self,
        kind: models.JobKind,
        *,
        folders: Sequence[str] = (),
        model: str | None = None,
        captioner: str | None = None,
    ) -> models.JobAnswer:
        """Begin work in the background. `captioner` is the generator of captions; `none` only ranks candidates."""
        request = models.JobRequest(kind=kind, folders=list(folders), model=model, captioner=captioner)
        return self._send("POST", "/api/jobs", models.JobAnswer, json=request.model_dump(exclude_none=True))

    def list_jobs(self) -> list[models.JobAnswer]:
        """The server's jobs, newest first."""
        return self._get("/api/jobs", models.JobsAnswer).jobs

    def job(self, job_id: str) -> models.JobAnswer:
        """One job."""
        return self._get(f"/api/jobs/{job_id}", models.JobAnswer)

    def pause(self, job_id: str) -> models.JobAnswer:
        """Stop a job for a while."""
        return self._send("POST", f"/api/jobs/{job_id}/pause", models.JobAnswer)

    def resume(self, job_id: str) -> models.JobAnswer:
        """Let a job go on."""
        return self._send("POST", f"/api/jobs/{job_id}/resume", models.JobAnswer)

    def cancel(self, job_id: str) -> models.JobAnswer:
        """End a job; what it did so far stays."""
        return self._send("POST", f"/api/jobs/{job_id}/cancel", models.JobAnswer)

    def follow(self, job_id: str) -> Iterator[models.JobAnswer]:
        """A job's states as they change, until it has ended."""
        for event in self._listen({"job": job_id}):
            # One that had ended before is not told of: the first ping is the time to ask.
            job = self.job(job_id) if isinstance(event, str) else event
            if isinstance(job, models.JobAnswer) and (job is event or job.has_ended):
                yield job
                if job.has_ended:
                    return

    def events(self) -> Iterator[Event]:
        """Events of the server, as they happen: jobs as their state changes, libraries as they grow.

        It begins with the jobs that have not ended and the libraries' sizes, and goes on until the server stops or the
        iterator is closed.
        """
        yield from (event for event in self._listen({}) if not isinstance(event, str))

    def _listen(self, given: Mapping[str, str]) -> Iterator[Event | str]:
        try:
            # Pings come every 15 s.
            with self._http.stream("GET", "/api/events", params=given, timeout=60.0) as response:
                if response.is_error:
                    response.read()
                    raise RefusedError(_problem_of(response))
                yield from read_events(response.iter_lines())
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    # --- training -----------------------------------------------------------------------------------------------

    def runs(self) -> list[models.RunAnswer]:
        """Training runs, the one that wrote last first. Refused where the server was started without `--runs`."""
        return self._get("/api/runs", models.RunsAnswer).runs

    def run(self, name: str, *, after: int = 0) -> models.RunDetailAnswer:
        """One training run: its settings and its log; to follow it, give `next` of the answer before as `after`."""
        return self._get(f"/api/runs/{quote(name)}", models.RunDetailAnswer, after=after)

    # --- the library and the server -----------------------------------------------------------------------------

    def stats(self) -> models.StatsAnswer:
        """Contents of the library."""
        return self._get("/api/stats", models.StatsAnswer)

    def folders(self, path: str | None = None) -> models.FoldersAnswer:
        """Folders of the server's disk below one of them, from which images can be added."""
        return self._get("/api/folders", models.FoldersAnswer, path=path)

    def list_models(self) -> models.ModelsAnswer:
        """Models, and which of them searches use."""
        return self._get("/api/models", models.ModelsAnswer)

    def use_model(self, name: str) -> models.ModelsAnswer:
        """Make a model the library's default."""
        return self._send("PUT", "/api/models/default", models.ModelsAnswer, json={"name": name})

    def list_libraries(self) -> list[models.LibraryAnswer]:
        """The libraries that are served."""
        answer = self._request("GET", "/api/libraries")
        return TypeAdapter(list[models.LibraryAnswer]).validate_json(answer.content)

    def duplicates(
        self, *, kind: models.DuplicateKind | None = None, min_similarity: float | None = None
    ) -> models.DuplicatesAnswer:
        """Images that are there more than once: copies, and what is alike from a similarity on; or of one kind."""
        return self._get("/api/duplicates", models.DuplicatesAnswer, kind=kind, min_similarity=min_similarity)

    def compare(self, query: str, names: Sequence[str], *, limit: int = 12) -> models.CompareAnswer:
        """Hits of several models for one query."""
        return self._get("/api/compare", models.CompareAnswer, q=query, models=",".join(names), limit=limit)

    def health(self) -> models.HealthAnswer:
        """Readiness of the server."""
        return self._get("/healthz", models.HealthAnswer)

    # --- requests -----------------------------------------------------------------------------------------------

    def _get(self, path: str, answer: type[Answer], /, **params: str | float | None) -> Answer:
        return answer.model_validate_json(self._request("GET", path, params=params).content)

    def _send(self, method: str, path: str, kind: type[Answer], **content: Any) -> Answer:
        headers = {"X-Sightline-Token": self._page_token()}
        return kind.model_validate_json(self._request(method, path, headers=headers, **content).content)

    def _page_token(self) -> str:
        """The token of the server's start, which stands in its page."""
        if self._token is None:
            found = _TOKEN.search(self._request("GET", "/").text)
            if found is None:
                raise InputError(f"What answers at {self._http.base_url} is no Sightline server.")
            self._token = found[1]
        return self._token

    def _request(
        self, method: str, path: str, *, params: Mapping[str, str | float | None] | None = None, **content: Any
    ) -> httpx2.Response:
        library = None if _OF_NO_LIBRARY.match(path) else self._library
        given = {name: value for name, value in {"library": library, **(params or {})}.items() if value is not None}
        try:
            response = self._http.request(method, path, params=given, **content)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise RefusedError(_problem_of(response))
        return response

    def _unreachable(self, error: httpx2.TransportError) -> InputError:
        return InputError(f"Nothing answers at {self._http.base_url}: {error}. Is `sightline serve` running?")


def _as_file(image: ImageFile) -> tuple[str, tuple[str, bytes]]:
    if isinstance(image, bytes):
        return "file", ("picture", image)
    try:
        return "file", (image.name, image.read_bytes())
    except OSError as error:
        raise InputError(f"The picture {image} can't be read: {error.strerror}.") from error


def _problem_of(response: httpx2.Response) -> models.ProblemAnswer:
    try:
        return models.ProblemAnswer.model_validate_json(response.content)
    except ValidationError:  # something between us and the server, such as a proxy
        return models.ProblemAnswer(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"The answer has the status {response.status_code} and says no more.",
            instance=response.url.path,
        )


def read_events(lines: Iterable[str]) -> Iterator[Event | str]:
    """The events of a stream (WHATWG's HTML, section 9.2), with pings; what a later version may tell is passed over."""
    name, data = "", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line:
            if data and name == "job":
                yield models.JobAnswer.model_validate_json("\n".join(data))
            elif data and name == "library":
                yield models.LibraryEvent.model_validate_json("\n".join(data))
            elif name == PING:
                yield PING
            name, data = "", []

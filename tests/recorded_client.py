"""What a client and a server said to each other: recorded once, sent again to a later server and compared."""

import base64
import contextlib
import json
import os
import sqlite3
import time
from urllib.parse import parse_qsl

import httpx2

MAX_ITEMS = 3
"""Of a list that is recorded."""
FIXED = {"name", "format", "width", "height", "total", "images", "captions", "taken_at", "camera", "latitude",
         "longitude", "source", "status", "kind", "state", "type", "rows", "columns", "step", "steps",
         "roots", "default"}  # fmt: skip
"""Keys whose plain values are the same for every server of the same library."""
RANKED = ("GET /api/search", "GET /api/compare", "GET /api/duplicates")
"""What is found first, and what is a near copy, is the model's own: a better one answers otherwise."""
CHOSEN = ("POST /api/caption .best",)
"""Which caption of several is the best, and so who wrote it, is the models' own, too."""
VARYING = {"progress", "placeholder"}
"""Keys below which values are another matter of the moment; they may be null."""
RENAMED = {("source", "blip"): "generated"}
"""(key, value) -> the value's name since, as CHANGELOG tells: what wrote a caption isn't always BLIP."""
LEARNED = ("id", "next")
"""Keys of answers that later requests hand back: other ones for each server."""


class Recorder(httpx2.BaseTransport):
    """Sends requests to a server and keeps them with what it answered.

    `places` are names of folders: where a request or an answer holds one, `{name}` is kept.
    """

    def __init__(self, places):
        self.places = {str(path): f"{{{name}}}" for name, path in places.items()}
        self.exchanges = []
        self.locked = False
        self._learned = {}
        self._transport = httpx2.HTTPTransport()

    def handle_request(self, request):
        if not self.locked:
            with httpx2.Client(base_url=str(request.url.copy_with(path="/", query=None))) as http:
                wait_for_jobs(http)
        response = self._transport.handle_request(request)
        response.read()
        exchange = {
            "method": request.method,
            "path": self._general(request.url.path),
            "query": [[name, self._general(value)] for name, value in parse_qsl(request.url.query.decode())],
            **self._body(request),
            "locked": self.locked,
            "status": response.status_code,
            "content_type": content_type(response),
        }
        if content_type(response).endswith("json"):
            answer = response.json()
            learn(self.exchanges, answer, lambda name, value: self._learned.setdefault(value, name))
            exchange["answer"] = self._short(answer)
        self.exchanges.append(exchange)
        return response

    def _body(self, request):
        content = request.read()
        if not content:
            return {}
        kind = request.headers["content-type"]
        if kind == "application/json":
            return {"body_type": kind, "body": self._general(content.decode())}
        return {"body_type": kind, "body_base64": base64.b64encode(content).decode()}

    def _general(self, text):
        for value, name in (self.places | {value: f"{{{name}}}" for value, name in self._learned.items()}).items():
            text = text.replace(value, name)
        return text

    def _short(self, answer):
        if isinstance(answer, dict):
            return {key: self._short(value) for key, value in answer.items()}
        if isinstance(answer, list):
            return [self._short(value) for value in answer[:MAX_ITEMS]]
        return self._general(answer) if isinstance(answer, str) else answer


def learn(exchanges, answer, take):
    """Hand what later requests may need of an answer, the next after `exchanges`, to `take` as (name, value)."""
    for key in LEARNED:
        if isinstance(answer, dict) and isinstance(answer.get(key), str):
            take(f"{len(exchanges)}.{key}", answer[key])


def replay(http, exchanges, places, *, lock):
    """Send recorded requests in their order; yields each with the response. `lock` keeps jobs from writing."""
    values = {name: str(path) for name, path in places.items()}
    with contextlib.ExitStack() as held:
        for number, exchange in enumerate(exchanges):
            if not exchange["locked"]:
                held.close()
                wait_for_jobs(http)
            elif not exchanges[number - 1]["locked"]:
                held.enter_context(lock())
            response = http.request(
                exchange["method"],
                _fill(exchange["path"], values),
                params=[(name, _fill(value, values)) for name, value in exchange["query"]],
                content=_content(exchange, values),
                headers={"Content-Type": exchange["body_type"]} if "body_type" in exchange else {},
            )
            if content_type(response).endswith("json"):
                learn(exchanges[:number], response.json(), values.__setitem__)
            yield exchange, response


def _content(exchange, values):
    if "body" in exchange:
        return _fill(exchange["body"], values).encode()
    return base64.b64decode(exchange["body_base64"]) if "body_base64" in exchange else None


def _fill(text, values):
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def content_type(response):
    return response.headers.get("content-type", "").partition(";")[0]


def wait_for_jobs(http, *, timeout_s=240.0):
    """Until nothing is queued or running."""
    deadline = time.monotonic() + timeout_s
    while any(job["state"] in ("queued", "running") for job in http.get("/api/jobs").json()["jobs"]):
        assert time.monotonic() < deadline, "the jobs do not end"
        time.sleep(0.02)


@contextlib.contextmanager
def keep_from_writing(library, image):
    """Indexing finds one picture touched, and waits to write that down: jobs behind it stay queued."""
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with contextlib.closing(sqlite3.connect(library / "library.db", isolation_level=None)) as db:
        db.execute("begin immediate")
        try:
            yield
        finally:
            db.execute("rollback")


def listen(http, **params):
    """Events as (name, data), up to the first ping: what is told of the state now."""
    told, name = [], None
    with http.stream("GET", "/api/events", params=params) as response:
        assert content_type(response) == "text/event-stream"
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name != "ping":
                told.append([name, json.loads(line.removeprefix("data: "))])
            elif not line and name == "ping":
                break
    return told


def differences(recorded, answer, where="answer"):
    """What a client that was written for the recorded answer would miss in another one."""
    if recorded is None or (answer is None and where.rpartition(".")[2] in VARYING):
        return
    if isinstance(recorded, dict) and isinstance(answer, dict):
        for key, value in recorded.items():
            if key not in answer:
                yield f"{where}.{key} is missing"
            elif (
                key in FIXED
                and where.rpartition(".")[2] not in VARYING
                and not where.startswith((*RANKED, *CHOSEN))
                and isinstance(value, str | int | float)
                and "{" not in str(value)
            ):
                if answer[key] != RENAMED.get((key, value), value):  # type: ignore[arg-type]
                    yield f"{where}.{key} is {answer[key]!r}, not {value!r}"
            else:
                yield from differences(value, answer[key], f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(answer, list):
        if len(answer) < len(recorded) and not where.startswith(RANKED):
            yield f"{where} has {len(answer)} items, not {len(recorded)}"
        for number, (value, other) in enumerate(zip(recorded, answer, strict=False)):
            yield from differences(value, find_same(value, answer) or other, f"{where}[{number}]")
    elif _json_type(recorded) != _json_type(answer):
        yield f"{where} is {_json_type(answer)}, not {_json_type(recorded)}"


def find_same(item, items):
    """What tells of the same in another list, in whatever place: the one of its name, a copy that stands for it in a
    search (the same bytes), a group with its first image. None where none does."""
    others = [one for one in items if isinstance(one, dict)] if isinstance(item, dict) else []
    for key in ("name", "content_hash"):
        for one in others:
            if key in item and one.get(key) == item[key]:
                return one
    for one in others:
        match item, one:
            case {"images": [{"name": name}, *_]}, {"images": [*images]} if name in {image["name"] for image in images}:
                return one
    return None


def _json_type(value):
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number", type(None): "null"}
    return names[type(value)]

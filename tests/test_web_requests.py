"""What a request may name: every parameter of every route is given names of models, files and addresses of others.

A new route or parameter fails here until it is said what it takes.
"""

import re
import socket
import sys
import sysconfig
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")

import sightline
from conftest import share_banks
from model_folders import own_cache
from web_world import copy_model, image_bytes, index, open_app, write_image, write_photos

WORDS, MODEL, FOLDER, OWN, NUMBER, IMAGE = "words", "model", "folder", "own", "number", "picture"
STATUSES = {
    WORDS: {200, 409, 422},  # words are only words; 409 where an image has no map
    MODEL: {409},
    FOLDER: {403, 422},
    OWN: {200, 400, 404, 410, 422},  # a name of what the server itself made: libraries, jobs, runs, cursors, keys
    NUMBER: {404, 405, 422},  # numbers, choices and patterns; in a path a slash leads elsewhere
    IMAGE: {200, 422},
}
KINDS = {
    "q": WORDS,
    "parts": OWN,
    "where": OWN,
    **dict.fromkeys(("in", "after", "before", "camera", "place"), OWN),  # parts of a filter
    "texts": WORDS,
    "text": WORDS,
    "candidates": WORDS,
    "model": MODEL,
    "models": MODEL,
    "captioner": MODEL,
    "PUT /api/models/default name": MODEL,
    "POST /api/words name": WORDS,  # a word of the user's own, and what it is
    "POST /api/words kind": WORDS,
    "DELETE /api/words/{name} name": OWN,
    "folders": FOLDER,
    "path": FOLDER,
    "folder": FOLDER,
    "library": OWN,
    "cursor": OWN,
    "v": OWN,
    "job": OWN,
    "job_id": OWN,
    "last-event-id": OWN,
    "GET /api/runs/{name} name": OWN,
    "file": IMAGE,
}
"""What free texts are, by name, or by method, path and name. Numbers and choices need no entry."""

QUERIES = {"/api/compare": {"q": "red", "models": "starter"}, "/api/images/{image_id}/heatmap": {"q": "red"}}
BODIES: dict[str, Any] = {
    "POST /api/jobs": {"kind": "caption"},
    "POST /api/embed": {"texts": ["red"]},
    "PUT /api/models/default": {"name": "starter"},
    "POST /api/words": {"name": "Rex", "images": [1]},
    "POST /api/duplicates/set-aside": {"keep": [1], "files": 1},
    "POST /api/duplicates/undo": {"log": "set-aside-1.jsonl"},
    "PUT /api/images/{image_id}/captions": {"text": "red"},
}
IN_PATHS = {"image_id": "1", "job_id": "none", "name": "none"}


class Watch:
    """What the process opens, connects to and looks up while it is on. A hook can't be taken away, only be idle."""

    def __init__(self):
        self.is_on = False
        self.opened, self.reached = set(), set()
        sys.addaudithook(self._note)

    def _note(self, event, given):
        if not self.is_on:
            return
        if event in ("open", "os.listdir", "os.scandir") and isinstance(given[0], str | bytes | Path):
            self.opened.add(Path(given[0].decode() if isinstance(given[0], bytes) else given[0]))
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            self.reached.add((event, str(given)))

    @contextmanager
    def on(self):
        self.opened.clear()
        self.reached.clear()
        self.is_on = True
        try:
            yield self
        finally:
            self.is_on = False


watch = Watch()


@dataclass(frozen=True, kw_only=True)
class Given:
    """One parameter of one operation."""

    method: str
    path: str
    place: str
    name: str
    kind: str
    is_list: bool = False

    @property
    def operation(self):
        return f"{self.method} {self.path}"

    def send(self, client, value):
        """A request that is right but for this parameter."""
        query, headers = dict(QUERIES.get(self.path, {})), {}
        in_path = dict(IN_PATHS)
        body = dict(BODIES.get(self.operation, {}))
        match self.place:
            case "query":
                query[self.name] = value
            case "path":
                in_path[self.name] = quote(value, safe="")
            case "header":
                headers[self.name] = quote(value)
        content = {"json": {**body, self.name: [value] if self.is_list else value} if self.place == "json" else body}
        if self.method in ("GET", "DELETE"):
            content = {}
        elif self.place == "form" or self.operation in ("POST /api/uploads", "POST /api/caption"):
            given = {} if self.kind == IMAGE or self.place != "form" else {self.name: value}
            name = "".join(one for one in value if one.isprintable()) if self.kind == IMAGE else "picture.png"
            data = value.encode() if self.kind == IMAGE and "\0" not in value else image_bytes()
            content = {"data": given, "files": {"file": (name, data)}}
        address = self.path.format(**in_path)
        method = "HEAD" if self.path == "/api/events" else self.method  # the stream would never end
        return client.request(method, address, params=query, headers=headers, **content)


def read_parameters(document):
    """Every parameter of every operation. Raises AssertionError for one that nobody has said anything about."""
    for path, of_path in document["paths"].items():
        for method, operation in of_path.items():
            for one in operation.get("parameters", ()):
                yield make_given(document, method, path, one["in"], one["name"], one["schema"])
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                place = {"application/json": "json", "multipart/form-data": "form"}[media_type]
                for name, schema in resolve(document, content["schema"])["properties"].items():
                    yield make_given(document, method, path, place, name, schema)


def make_given(document, method, path, place, name, schema):
    (schema,) = [
        one for one in schema.get("anyOf", [schema]) if resolve(document, one).get("type") != "null"
    ]  # of more than one meaning: say here what it takes
    schema = resolve(document, schema)
    is_list = schema["type"] == "array"
    item = resolve(document, schema["items"]) if is_list else schema
    is_free = item["type"] == "string" and not {"enum", "pattern", "const"} & item.keys()
    assert item["type"] in ("string", "integer", "number", "boolean"), f"{path} {name}: {item} is known to nobody"
    method = method.upper()
    kind = KINDS.get(f"{method} {path} {name}", KINDS.get(name)) if is_free else NUMBER
    assert kind, f"{method} {path} takes a new text {name!r}: say in KINDS what it is"
    return Given(method=method, path=path, place=place, name=name, kind=kind, is_list=is_list)


def resolve(document, schema):
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


@dataclass(frozen=True, kw_only=True)
class World:
    client: object
    listener: socket.socket
    folder: Path
    own_model: str
    document: dict = field(default_factory=dict)

    @property
    def hostile(self):
        port = self.listener.getsockname()[1]
        address, secret = f"http://127.0.0.1:{port}/x", self.folder / "secret" / "red.png"
        return [
            f"endpoint:{address}",
            f"Endpoint:{address}",
            f" endpoint:{address}",
            f'"endpoint:{address}"',
            quote(f"endpoint:{address}", safe=""),
            f"starter,endpoint:{address}",
            address,
            f"//127.0.0.1:{port}/x",
            f"\\\\127.0.0.1@{port}\\share",
            self.own_model,
            f"DIR:{self.own_model.removeprefix('dir:')}",
            self.own_model.removeprefix("dir:"),
            "dir:/etc",
            "dir:../..",
            "hf:someone/something",
            "hf:someone/something@main",
            f"file://{secret}",
            str(secret),
            f"{secret}\0.png",
            "./secret/red.png",
            "../../../../etc/passwd",
            "ViT-B-32/openai",
            "star ter",
            "Starter",
            "starter@int8",
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory, banks):
    folder = tmp_path_factory.mktemp("requests")
    share_banks(folder / "cache", banks)
    library = index(folder / "library", write_photos(folder / "allowed" / "photos"))
    write_image(folder / "secret" / "red.png", (200, 0, 0))
    (folder / "runs").mkdir()
    own_model = copy_model(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener, own_cache(folder / "cache"):
        listener.setblocking(False)
        with open_app(library, allow_roots=(folder / "allowed",), runs=folder / "runs") as client:
            for path in ("/api/search?q=warm", "/api/models", "/api/images/1", "/api/images/1/thumbnail"):
                assert client.get(path).status_code == 200  # imports and files of the first use
            caption = client.post("/api/caption", files={"file": image_bytes()})
            assert caption.status_code == 200
            document = client.get("/api/openapi.json").json()
            yield World(client=client, listener=listener, folder=folder, own_model=own_model, document=document)


def may_be_opened(world, path):
    """Whether a file is the library's, of its allowed root, or of the program."""
    import tempfile

    own = [world.folder / "library", world.folder / "allowed", world.folder / "runs"]
    program = [Path(sightline.__file__).parent, sys.prefix, sys.base_prefix, *filter(None, sys.path), "/proc", "/dev"]
    stdlib = [sysconfig.get_paths()["stdlib"]]
    resolved = path.absolute()
    if resolved.parent == Path(tempfile.gettempdir()) and resolved.name.startswith("tmp"):
        return True  # where a large upload is kept until it is read
    return any(resolved.is_relative_to(Path(root).absolute()) for root in (*own, *program, *stdlib))


def test_no_parameter_reaches_a_file_an_address_or_a_model_of_others(world):
    found = list(read_parameters(world.document))
    assert len({given.operation for given in found}) > 20
    slow = 0
    for given in found:
        for value in world.hostile:
            if given.path == "/api/caption":  # seconds each
                slow += 1
                if slow % 6:
                    continue
            with watch.on():
                answer = given.send(world.client, value)
            told = f"{given.operation} {given.name}={value!r}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code in STATUSES[given.kind], told
            assert watch.reached == set(), told
            assert [str(path) for path in watch.opened if not may_be_opened(world, path)] == [], told
    with pytest.raises(BlockingIOError):
        world.listener.accept()  # nobody has knocked


def test_no_answer_tells_whether_a_path_exists(world):
    there, missing = str(world.folder / "secret"), str(world.folder / "absent")  # as long: some texts have limits
    for given in read_parameters(world.document):
        for form in ("{}", "dir:{}", "{}/red.png"):
            if given.kind not in (MODEL, FOLDER, OWN):
                continue
            first, second = (given.send(world.client, form.format(path)) for path in (there, missing))
            told = f"{given.operation} {given.name}"
            assert first.status_code == second.status_code, told
            texts = [re.sub(r'"took_ms":[^,]*', "", answer.text) for answer in (first, second)]
            assert texts[0].replace("secret", "absent") == texts[1], told


def test_the_names_that_a_library_holds_are_taken_and_told(world):
    asked = {"q": "red", "model": "starter"}
    assert world.client.get("/api/search", params=asked).json()["model"] == "starter"
    refused = world.client.get("/api/search", params={**asked, "model": world.own_model})
    assert refused.json()["type"] == "/problems/model"
    assert "these can: starter." in refused.json()["detail"]


def test_every_body_refuses_fields_that_it_does_not_know(world):
    """As parameters and forms do; see test_web_security."""
    for method, path, body in [(*operation.split(), body) for operation, body in BODIES.items()]:
        refused = world.client.request(method, path.format(**IN_PATHS), json={**body, "surprise": "dir:/etc"})
        assert (refused.status_code, "surprise" in refused.json()["detail"]) == (422, True), path
        assert world.client.request(method, path.format(**IN_PATHS), json=body, params={"x": 1}).status_code == 422


def test_bodies_and_queries_of_this_test_cover_every_operation(world):
    with_json = {
        f"{method.upper()} {path}"
        for path, of_path in world.document["paths"].items()
        for method, operation in of_path.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert with_json == set(BODIES)


def test_a_new_parameter_has_to_be_classified(world):
    path = {"get": {"parameters": [{"in": "query", "name": "preset", "schema": {"type": "string"}}]}}
    document = {**world.document, "paths": {"/api/search": path}}
    with pytest.raises(AssertionError, match="takes a new text 'preset'"):
        list(read_parameters(document))

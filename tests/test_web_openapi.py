"""The description of the API, and whether the API keeps to it whatever is sent.

Covers: sightline.faces.service.schemas.
"""

import inspect
import json
import re
from contextlib import suppress
from itertools import chain

import pytest

pytest.importorskip("fastapi")

import httpx2
from pydantic import ValidationError

from sightline.faces.service.schemas import MovesAnswer, PartRequest
from sightline.faces.web.client import Client
from web_demo import run_on_a_socket
from web_world import index, open_app, write_photos


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    return index(folder / "library", write_photos(folder / "photos"))


@pytest.fixture(scope="module")
def document(library):
    with open_app(library) as client:
        return client.get("/api/openapi.json").json()


def operations(document):
    return [
        (method.upper(), path, operation)
        for path, of_path in document["paths"].items()
        for method, operation in of_path.items()
    ]


def test_every_operation_is_described_with_its_errors_and_its_token(document):
    found = operations(document)
    assert len(found) > 10
    for method, path, operation in found:
        assert operation.get("description") or operation.get("summary"), path
        problem = operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/ProblemAnswer"}
        assert "422" not in operation["responses"]
        assert ("security" in operation) is (method != "GET")
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_no_reference_of_the_description_leads_nowhere(document):
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in document["components"]["schemas"]


def test_the_examples_of_the_description_are_accepted(library, document):
    """For each parameter that has one."""
    with open_app(library) as client:
        for method, path, operation in operations(document):
            if method != "GET" or path == "/api/events":
                continue
            given = {
                parameter["name"]: parameter["schema"]["examples"][0]
                for parameter in operation.get("parameters", [])
                if parameter["schema"].get("examples")
            }
            address = path
            for name in list(given):
                if f"{{{name}" in path:
                    address = address.replace(f"{{{name}}}", str(given.pop(name)))
            response = client.get(address, params=given)
            assert response.status_code in (200, 404, 409), (address, response.text)


GIVEN = {
    "parts": [PartRequest(text="a cat")],
    "image": b"image",
    "images": [b"image"],
    "teach images": [1],
    "set_aside groups": [],
    "undo moves": MovesAnswer(moved=1, left=[], folder="/photos", log="set-aside-1.jsonl"),
    "texts": ["a cat"],
    "names": ["starter"],
    "candidates": ["a cat"],
    "kind": "index",
    "folders": ["photos"],
}
"""Arguments of the client's methods that are no plain word, by name, or by method and name."""
COMPOSED = {"close", "search_all", "follow", "events"}
"""Methods that ask through others, or for a stream."""
NOT_FOR_THE_CLIENT = {
    "GET /api/events",
    "GET /metrics",
    "GET /api/images/{image_id}/thumbnail: v",  # for a browser's cache
    "GET /api/duplicates: limit",
    "GET /api/duplicates: offset",
    "POST /api/caption: id",
}


def find_models(document, schema):
    """Names of the models that a schema names, and of those that these name."""
    names = re.findall(r"schemas/(\w+)", json.dumps(schema))
    return {*names, *chain.from_iterable(find_models(document, document["components"]["schemas"][n]) for n in names)}


def describe_request(document, request):
    """The operation that a request is for, and all that it may be given, as `METHOD PATH: NAME`."""
    found = (
        (f"{method} {path}", operation)
        for method, path, operation in operations(document)
        if method == request.method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)
    )
    address, operation = min(found, key=lambda one: "{" in one[0])
    names = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
        names |= schema["properties"].keys()
    return address, operation, {f"{address}: {name}" for name in names}


def read_names(request):
    """Names of the parameters of a request and of its body's fields."""
    names = set(request.url.params.keys())
    if request.headers.get("content-type", "").startswith("multipart/"):
        return names | set(re.findall(rb'form-data; name="(\w+)"', request.content))
    return names | (json.loads(request.content).keys() if request.content else set())


def test_the_python_client_asks_for_what_is_described_and_leaves_nothing_out(document):
    requests = []

    def answer(request):
        if request.url.path == "/":
            return httpx2.Response(200, text='<meta name="sightline-token" content="x">')
        requests.append(request)
        return httpx2.Response(200, text="null")

    http = httpx2.Client(base_url="http://127.0.0.1:8000", transport=httpx2.MockTransport(answer))
    client = Client(http=http, library="demo")
    of_search = next(o for _, path, o in operations(document) if path == "/api/search")["parameters"]
    how = {one["name"]: "1" for one in of_search if one["name"] not in ("q", "parts", "limit", "cursor", "library")}
    described, sent = {f"{method} {path}" for method, path, _ in operations(document)}, set()
    for name, method in inspect.getmembers(client, inspect.ismethod):
        if name.startswith("_") or name in COMPOSED:
            continue
        signature = inspect.signature(method)
        arguments = {
            one: GIVEN.get(f"{name} {one}", GIVEN.get(one, "1"))
            for one, known in signature.parameters.items()
            if known.kind != known.VAR_KEYWORD
        }
        requests.clear()
        with suppress(ValidationError):  # the answer is none
            method(**arguments, **(how if name == "search" else {}))
        address, operation, allowed = describe_request(document, requests[-1])
        described |= allowed
        sent |= {address, *(f"{address}: {one}" for one in map(_as_text, read_names(requests[-1])))}
        (content,) = next(iter(operation["responses"].values()))["content"].values()
        for model in re.findall(r"models\.(\w+)", str(signature.return_annotation)):
            assert model in find_models(document, content["schema"]), name
    assert sent - described == set()
    assert described - sent == NOT_FOR_THE_CLIENT


def _as_text(name):
    return name.decode() if isinstance(name, bytes) else name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_nothing_that_schemathesis_sends_ends_in_a_server_error(library):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, seed, settings

    with run_on_a_socket(library) as (config, address):
        schema = schemathesis.openapi.from_url(f"{address}api/openapi.json")
        headers = {"X-Sightline-Token": config.token}
        for operation in schema.get_all_operations():
            operation = operation.ok()
            if operation.path == "/api/events":
                continue

            @seed(1)
            @settings(
                max_examples=25,
                deadline=None,
                derandomize=False,
                database=None,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def send(case):
                response = case.call(headers=headers)
                assert response.status_code < 500, (case.as_curl_command(), response.text)
                if response.status_code >= 400:
                    assert response.headers["content-type"] == ["application/problem+json"]

            send()

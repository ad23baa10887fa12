"""The description of the API, and whether the API keeps to it whatever is sent.

Covers: sightline.faces.service.schemas.
"""

import json

import pytest

pytest.importorskip("fastapi")

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

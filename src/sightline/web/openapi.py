"""The description of the API at `/api/openapi.json`: what FastAPI derives from the routes, with our errors in it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sightline.web.models import ProblemAnswer
from sightline.web.problems import MEDIA_TYPE
from sightline.web.security import SAFE_METHODS, TOKEN_HEADER

_DESCRIPTION = """\
Search, embed and caption the images of Sightline libraries.

Requests that are no GET need the header `X-Sightline-Token` with the token of the server's start, which stands in the
page at `/`: `<meta name="sightline-token">`. A server beyond this machine demands its access token with every request:
`Authorization: Bearer TOKEN`, which also stands for the other one. Errors are RFC 9457 problem details.
"""
_PROBLEM = {
    "description": "A problem: what was wrong, and what to do next.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
}


def describe_api(app: FastAPI) -> None:
    """Make an app's OpenAPI document say what its errors look like, and which requests need the token."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's documented way


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = ProblemAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["ProblemAnswer"] = problem
    components["securitySchemes"] = {
        "token": {"type": "apiKey", "in": "header", "name": TOKEN_HEADER},
        "access": {"type": "http", "scheme": "bearer"},
    }
    for operations in document["paths"].values():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"] |= {"4XX": _PROBLEM, "5XX": _PROBLEM}
            if method.upper() not in SAFE_METHODS:
                operation["security"] = [{"token": []}, {"access": []}]
    return document

"""The description of the API at `/api/openapi.json`: what FastAPI derives from the routes, with our errors in it.

What it doesn't name is refused: a misspelt parameter must not be passed over as if it had been understood.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData

from sightline.faces.service.schemas import ProblemAnswer
from sightline.faces.web.problems import MEDIA_TYPE
from sightline.faces.web.security import SAFE_METHODS, TOKEN_HEADER

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

    @app.get("/api/openapi.json", include_in_schema=False)
    def show_description() -> JSONResponse:
        return JSONResponse(describe())


async def refuse_unknown(request: Request) -> None:
    """A dependency of every route. Raises RequestValidationError for a parameter that the description lacks."""
    if not request.url.path.startswith("/api/"):
        return
    described = {one["name"] for one in _operation(request).get("parameters", ()) if one["in"] == "query"}
    _refuse("query", request.query_params, described)
    if request.scope["route"].body_field is not None and _form_fields(request):
        refuse_unknown_fields(request, await request.form())  # read by FastAPI already


def refuse_unknown_fields(request: Request, form: FormData) -> None:
    """Raise RequestValidationError for a field of a form that the description lacks."""
    _refuse("body", form, _form_fields(request))


def _refuse(place: str, given: Iterable[str], described: Collection[str]) -> None:
    allowed = f"these are known: {', '.join(sorted(described))}" if described else "none is known here"
    unknown = [name for name in given if name not in described]
    if unknown:
        raise RequestValidationError([{"loc": (place, name[:100]), "msg": f"unknown; {allowed}"} for name in unknown])


def _operation(request: Request) -> dict[str, Any]:
    """The description's entry for the request that is being answered."""
    of_path = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    found: dict[str, Any] = of_path.get(request.method.lower(), {})
    return found


def _form_fields(request: Request) -> Collection[str]:
    content = _operation(request).get("requestBody", {}).get("content", {})
    schema = content.get("multipart/form-data", {}).get("schema", {})
    if "$ref" in schema:
        schema = request.app.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    fields: Collection[str] = schema.get("properties", {})
    return fields


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

"""Errors as RFC 9457 problem details: what a client gets instead of a trace."""

from __future__ import annotations

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sightline.errors import (
    BusyError,
    ConflictError,
    CursorError,
    ForbiddenError,
    GoneError,
    InputError,
    ModelError,
    NotFoundError,
    OverloadedError,
    SightlineError,
    StoreError,
)

MEDIA_TYPE = "application/problem+json"

_TABLE: tuple[tuple[type[SightlineError], int, str], ...] = (
    (GoneError, 410, "gone"),
    (NotFoundError, 404, "unknown"),
    (CursorError, 400, "cursor"),
    (ForbiddenError, 403, "forbidden"),
    (ConflictError, 409, "conflict"),
    (InputError, 422, "input"),
    (ModelError, 409, "model"),
    (OverloadedError, 503, "busy"),
    (BusyError, 429, "busy"),
    (StoreError, 503, "library"),
    (SightlineError, 500, "failed"),
)
"""Class of an error -> status, and the kind where the error names none. The first that fits counts."""

_log = logging.getLogger(__name__)


class Problem(HTTPException):
    """An error with a status, a sentence for the person, and a kind for programs (`/problems/KIND`)."""

    def __init__(
        self, status: int, detail: str, *, kind: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers=headers)
        self.kind = kind


def problem_response(
    problem: HTTPException, *, instance: str, errors: list[dict[str, str]] | None = None
) -> JSONResponse:
    """A problem as the answer to the request for `instance`, a path."""
    kind = getattr(problem, "kind", None)
    body: dict[str, Any] = {
        "type": f"/problems/{kind}" if kind else "about:blank",
        "title": http.HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
        "instance": instance,
    }
    if errors is not None:
        body["errors"] = errors
    return JSONResponse(body, problem.status_code, headers=dict(problem.headers or {}), media_type=MEDIA_TYPE)


def explain(error: SightlineError) -> Problem:
    """One of our own errors -> the problem that says it."""
    status, kind = next((status, kind) for known, status, kind in _TABLE if isinstance(error, known))
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else None
    return Problem(status, str(error), kind=error.kind or kind, headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of an app's routes with a problem."""

    @app.exception_handler(HTTPException)
    def answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
        return problem_response(error, instance=request.url.path)

    @app.exception_handler(RequestValidationError)
    def answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [_describe(entry) for entry in error.errors()]
        detail = "; ".join(f"{entry['field']}: {entry['message']}" for entry in errors[:3]) + "."
        return problem_response(Problem(422, detail, kind="invalid"), instance=request.url.path, errors=errors)

    @app.exception_handler(ClientDisconnect)
    def answer_nobody(request: Request, error: ClientDisconnect) -> JSONResponse:
        """No answer for who hangs up amid a request: that is no fault of ours that the log should tell of."""
        gone = Problem(400, "The request ended before its body was complete.", kind="incomplete")
        return problem_response(gone, instance=request.url.path)

    @app.exception_handler(SightlineError)
    def answer_own_error(request: Request, error: SightlineError) -> JSONResponse:
        return problem_response(explain(error), instance=request.url.path)

    @app.exception_handler(Exception)
    def answer_unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        told = Problem(500, "The server failed on this request; its log says how.", kind="failed")
        return problem_response(told, instance=request.url.path)


def _describe(entry: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's errors, without the value that was given: it can be large, or no valid text."""
    return {"field": ".".join(str(step) for step in entry["loc"]), "message": str(entry["msg"])}

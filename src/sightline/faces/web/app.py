"""The app: routes, checks and pages put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import APIRouter, Depends, FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.concurrency import run_in_threadpool

from sightline import __version__
from sightline.faces.web import pages
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.libraries import Libraries
from sightline.faces.web.metrics import add_metrics
from sightline.faces.web.openapi import describe_api, refuse_unknown
from sightline.faces.web.problems import add_problem_handlers
from sightline.faces.web.security import Gate, HeadAsGet

ROUTERS = (
    "search",
    "images",
    "embed",
    "stats",
    "health",
    "jobs",
    "captions",
    "caption",
    "models",
    "libraries",
    "duplicates",
    "compare",
    "train",
)
"""Modules of `sightline.faces.web.routes`, each with its `router`. A router's own lifespan runs inside the app's: at
its end the libraries are still open."""

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI can send what people look for to a collector that environment variables name: not from here."""


def create_app(config: ServeConfig) -> FastAPI:
    """An ASGI app that serves some libraries. They are open when this returns, and close when the app ends.

    Raises StoreError where one can't be opened, ModelError for an unknown model.
    """
    libraries = Libraries(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        libraries.warm()
        try:
            yield
        finally:
            await run_in_threadpool(libraries.close)

    app = FastAPI(
        title="Sightline",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
        dependencies=[Depends(refuse_unknown)],
    )
    app.state.libraries = libraries
    app.state.config = config
    add_problem_handlers(app)
    for name in ROUTERS:
        router: APIRouter = import_module(f"sightline.faces.web.routes.{name}").router
        app.include_router(router)
    add_metrics(app, libraries)
    pages.add_pages(app, config)
    describe_api(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Gate, config=config)
    return app

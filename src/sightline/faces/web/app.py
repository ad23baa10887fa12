"""The app: routes, checks and the page put together.

One HTML file answers every address of the page, with scripts and styles beside it.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.telemetry import TelemetryConfig
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from sightline import __version__
from sightline.faces.service.library import Libraries
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.metrics import add_metrics
from sightline.faces.web.openapi import describe_api, refuse_unknown
from sightline.faces.web.problems import add_problem_handlers
from sightline.faces.web.routes import images, jobs, library, search
from sightline.faces.web.security import ACCESS_COOKIE, OWN_SITES, Guard, HeadAsGet

STATIC = Path(__file__).parent / "static"
PAGES = ("/", "/library", "/caption", "/compare", "/train", "/image/{image_id}")
_YEAR_S = 365 * 24 * 3600

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
    for module in (search, images, jobs, library):
        app.include_router(module.router)  # its own lifespan runs inside the app's: libraries are open to its end
    add_metrics(app, libraries)
    add_pages(app, config)
    describe_api(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Guard, config=config)
    return app


class VersionedFiles(StaticFiles):
    """Files that browsers keep for good where the address has this start's version, and ask about again elsewhere."""

    def __init__(self, directory: Path, *, version: str) -> None:
        super().__init__(directory=directory)
        self._version = version.encode()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        response = await super().get_response(path, scope)
        kept = scope["query_string"] == b"v=" + self._version
        response.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable" if kept else "no-cache"
        return response


def add_pages(app: FastAPI, config: ServeConfig) -> None:
    """Serve the page at every address of the app, and the files that it needs below `/static/`."""
    version = static_version(STATIC)

    def show_page(request: Request) -> Response:
        if config.demands_access and "token" in request.query_params:
            return _keep_access(config)
        linked = request.headers.get("sec-fetch-site", "none") not in OWN_SITES
        headers = {"Cache-Control": "no-store", "Vary": "Sec-Fetch-Site"}
        return HTMLResponse(_render(config.token, version, linked=linked), headers=headers)

    for path in PAGES:
        app.add_api_route(path, show_page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/static", VersionedFiles(STATIC, version=version), name="static")


def static_version(folder: Path) -> str:
    """A text that changes when any file of the page does."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _render(token: str, version: str, *, linked: bool) -> str:
    """`index.html` with the token of this start and the version of the files in their places.

    It says whether another site's page led here: scripts can't see that, and must not do what such an address asks.
    """
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    page = page.replace("{{opened-by}}", "another-site" if linked else "user")
    return page.replace("{{token}}", html.escape(token)).replace("{{version}}", version)


def _keep_access(config: ServeConfig) -> Response:
    """The guard has checked the token: a cookie keeps it, and the address goes without it from now on."""
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(ACCESS_COOKIE, config.access_token, httponly=True, samesite="strict", path="/")
    return response

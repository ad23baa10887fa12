"""`/metrics`: figures for Prometheus. Each app counts for itself."""

from __future__ import annotations

import time

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.faces.service.library import Libraries

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one app."""

    def __init__(self, libraries: Libraries) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "sightline_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "sightline_request_seconds", "Time to the end of an answer.", ["route"], buckets=_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.active = Gauge("sightline_requests_active", "Requests under way.", registry=self.registry)
        self._images = Gauge("sightline_images", "Images of a library.", ["library"], registry=self.registry)
        self._rankings = Gauge("sightline_rankings", "Rankings kept.", ["library"], registry=self.registry)
        self._libraries = libraries

    def render(self) -> bytes:
        """All figures as Prometheus reads them."""
        for name in self._libraries.names():
            library = self._libraries.get(name)
            self._images.labels(name).set(library.store.stats().images)
            self._rankings.labels(name).set(len(library.rankings))
        return generate_latest(self.registry)


class Counting:
    """ASGI middleware that counts and times requests by route, never by address."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start_s = time.perf_counter()
        with self._metrics.active.track_inprogress():
            try:
                await self._app(scope, receive, send_noted)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, route, status).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - start_s)


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


def add_metrics(app: FastAPI, libraries: Libraries) -> None:
    """Count an app's requests, and show the figures at `/metrics`."""
    metrics = Metrics(libraries)
    router = APIRouter(tags=["server"])

    @router.get("/metrics", response_class=Response)
    def get_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(router)
    app.add_middleware(Counting, metrics=metrics)

"""Rules of who may ask for what: hosts, origins, tokens, the size of requests, and the headers that protect a page.

Everything is decided before a route sees the request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.faces.web.config import ServeConfig
from sightline.faces.web.problems import Problem, problem_response

ACCESS_COOKIE = "sightline_access"
TOKEN_HEADER = "x-sightline-token"
SAFE_METHODS = ("GET", "HEAD")
BODY_TIMEOUT_S = 30.0
"""Time that a client may send nothing while its request is incomplete."""

OWN_SITES = frozenset({"same-origin", "none"})
"""Values of `Sec-Fetch-Site` in a request that our own page sends, or that the user typed."""

_OPEN_PATHS = ("/healthz", "/static/")
_FENCED_PATHS = ("/api/", "/mcp")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware that lets through what may pass, and answers the rest with a problem."""

    def __init__(self, app: ASGIApp, *, config: ServeConfig) -> None:
        self._app = app
        self._config = config
        self._hosts = _own_hosts(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, then pass it on with a limit on its body."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        body = _Body(receive, limit=self._config.max_upload_bytes)
        guarded = _guard(send, body)
        try:
            self._check(scope)
        except Problem as problem:
            await problem_response(problem, instance=scope["path"])(scope, receive, guarded)
            return
        await self._app(scope, body.receive, guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["path"].startswith(_FENCED_PATHS):
            self._check_sender(headers)
        if self._config.demands_access and not scope["path"].startswith(_OPEN_PATHS):
            self._check_access(scope, headers)
        if scope["method"] not in SAFE_METHODS:
            self._check_change(headers)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._config.max_upload_bytes:
            raise _too_large(self._config.max_upload_bytes)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a name that an attacker made point here is not one of ours."""
        given = headers.getlist("host")
        if len(given) != 1 or not self._is_own_host(given[0].lower()):
            raise Problem(
                421,
                f"This server isn't {', '.join(given) or 'without a name'}; {self._config.host_advice}.",
                kind="host",
            )

    def _check_sender(self, headers: Headers) -> None:
        """Against pages elsewhere that lead a browser here, another port of this machine included.

        Programs that are no browser say nothing about it, and pass.
        """
        if not {site.strip().lower() for site in headers.getlist("sec-fetch-site")} <= OWN_SITES:
            raise Problem(403, "Requests that another site's page sends are refused.", kind="cross-site")

    def _is_own_host(self, host: str) -> bool:
        name, port = _split_host(host)
        if port >= 0 and name in self._config.allow_hosts:
            return True
        if port != self._config.port:
            return False
        return name in self._hosts or (self._config.host in ("0.0.0.0", "::") and _is_ip_address(name))

    def _check_access(self, scope: Scope, headers: Headers) -> None:
        given = [_bearer(headers), cookie_parser(headers.get("cookie", "")).get(ACCESS_COOKIE, "")]
        if scope["path"] == "/" and scope["method"] in SAFE_METHODS:
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])[:1]
        if not any(_is_equal(token, self._config.access_token) for token in given if token):
            raise Problem(
                401,
                "This server demands its access token, which it printed when it started: open /?token=TOKEN, "
                "or send the header Authorization: Bearer TOKEN.",
                kind="access",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_change(self, headers: Headers) -> None:
        """Against requests that another site's page makes a browser send."""
        origin = headers.get("origin")
        if origin is not None and not self._is_own_origin(origin, headers["host"]):
            raise Problem(403, f"Requests from {origin} may not change anything here.", kind="cross-site")
        bearer = _bearer(headers)  # no browser adds it by itself, so it proves as much as the page's token
        if self._config.demands_access and bearer and _is_equal(bearer, self._config.access_token):
            return
        if not _is_equal(headers.get(TOKEN_HEADER, ""), self._config.token):
            raise Problem(
                403,
                "This request needs the header X-Sightline-Token with the token of this start, which stands in the "
                'page: <meta name="sightline-token">.',
                kind="token",
            )

    def _is_own_origin(self, origin: str, host: str) -> bool:
        """True where a page of ours sent it; a proxy may tell us another host than the browser has."""
        netloc = _netloc(origin)
        return netloc == host or _split_host(netloc.lower())[0] in self._config.allow_hosts


class HeadAsGet:
    """ASGI middleware that answers HEAD wherever GET is answered: the same status and headers, no body.

    The answer ends with its headers, so that a stream of events ends too: its client is told gone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        # Of the newer versions of ASGI, streams learn that a client has gone only when they send to it.
        asgi = {**scope.get("asgi", {}), "spec_version": "2.3"}
        await self._app({**scope, "method": "GET", "asgi": asgi}, receive, send_head)


class _Body:
    """A request's body, counted while it comes in. Raises 413 and 408 problems as long as no answer has begun."""

    def __init__(self, receive: Receive, *, limit: int) -> None:
        self.is_answered = False
        self._receive = receive
        self._limit = limit
        self._received = 0
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:  # what follows is only the news that the client has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_TIMEOUT_S)
        except TimeoutError:
            if self.is_answered:  # nobody waits for the rest of the body
                return await self._receive()
            told = f"Nothing more came for {BODY_TIMEOUT_S:g} s."
            raise Problem(408, told, kind="slow", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._received > self._limit and not self.is_answered:  # nobody said how much is still to come
                raise _too_large(self._limit, {"Connection": "close"})
        return message


def _too_large(limit: int, headers: dict[str, str] | None = None) -> Problem:
    told = f"A request may hold {limit / 2**20:g} MiB; this one is larger."
    return Problem(413, told, kind="too-large", headers=headers)


def _guard(send: Send, body: _Body) -> Send:
    """Send answers with the headers that protect a page."""

    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            body.is_answered = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_guarded


def _own_hosts(config: ServeConfig) -> set[str]:
    hosts = {"localhost", "127.0.0.1", "::1", config.host.strip("[]").lower()}
    if not config.is_local:
        name = socket.gethostname().lower()
        hosts |= {name, f"{name.partition('.')[0]}.local"}
    return hosts


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _split_host(host: str) -> tuple[str, int]:
    """`[::1]:8000` -> (`::1`, 8000); 80 where no port is given, -1 for what is no port."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, "80"
    return name.removeprefix("[").removesuffix("]"), int(port) if port.isascii() and port.isdigit() else -1


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_equal(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""

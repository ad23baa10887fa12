"""MCP over streamable HTTP, for this machine only and with a token that every request must carry.

The web app's guard decides who may ask (host, origin, token, size of requests), before the SDK sees anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import uvicorn

from sightline.errors import InputError
from sightline.faces.service.library import ServiceConfig
from sightline.faces.service.uploads import MAX_IMAGE_BYTES
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.security import Guard
from sightline.faces.web.server import bind, make_settings

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from starlette.types import ASGIApp

PATH = "/mcp"
MIN_TOKEN_CHARS = 16


@dataclass(frozen=True, kw_only=True)
class HttpConfig(ServeConfig):
    """Configuration of the server: where it listens.

    Unlike the web app, it demands its token on this machine too: any local program could ask otherwise.
    """

    port: int = 8765
    max_upload_bytes: int = 2 * MAX_IMAGE_BYTES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.is_local:
            raise InputError(
                f"--host is {self.host!r}; MCP is served on this machine only (127.0.0.1, ::1 or localhost). "
                f"From elsewhere, tunnel: ssh -L {self.port}:127.0.0.1:{self.port} MACHINE"
            )
        if len(self.access_token) < MIN_TOKEN_CHARS or not (
            self.access_token.isascii() and self.access_token.isprintable()
        ):
            raise InputError(f"The token must have at least {MIN_TOKEN_CHARS} printable ASCII characters.")
        if " " in self.access_token:
            raise InputError("The token must not hold spaces.")

    @property
    def demands_access(self) -> bool:
        """Always."""
        return True

    @property
    def host_advice(self) -> str:
        """Other names than this machine's own are never served."""
        return f"use {self.address.rstrip('/')}{PATH}"


def make_config(*, host: str, port: int, token: str | None, library: ServiceConfig) -> HttpConfig:
    """Settings of a server of an opened library; a token is made where none is given. Raises InputError."""
    return HttpConfig(
        libraries=library.libraries, host=host, port=port, access_token=token or secrets.token_urlsafe(32)
    )


def make_app(server: MCPServer[Any], config: HttpConfig) -> ASGIApp:
    """The ASGI app: the SDK's, behind the guard. No sessions: each request stands by itself."""
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        host=config.host,
        json_response=True,
        stateless_http=True,
        max_request_body_size=config.max_upload_bytes,
    )
    return Guard(app, config=config)


def run_http(server: MCPServer[Any], config: HttpConfig, *, show_token: bool, notice: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises InputError where the address can't be had."""
    with bind(config) as listener:
        config = replace(config, port=listener.getsockname()[1])
        settings = make_settings(make_app(server, config), config)
        notice(f"MCP at {config.address.rstrip('/')}{PATH}")
        if show_token:
            notice(f"Token, for the header Authorization: Bearer TOKEN: {config.access_token}")
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all has ended well
            uvicorn.Server(settings).run(sockets=[listener])

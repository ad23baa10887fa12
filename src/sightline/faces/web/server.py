"""The process that serves: a socket first, then the app, then the model."""

from __future__ import annotations

import dataclasses
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from sightline.errors import InputError
from sightline.faces.web.app import create_app
from sightline.faces.web.config import ServeConfig

_BACKLOG = 2048
_OPEN_FILES = 8192


def run_server(config: ServeConfig, *, open_page: bool, notice: Callable[[str], None]) -> None:
    """Serve until interrupted. Raises InputError where the address can't be had."""
    _allow_many_connections()
    with bind(config) as listener:
        config = dataclasses.replace(config, port=listener.getsockname()[1])
        app = create_app(config)
        server = Server(app, config)
        _announce(config, notice)
        if open_page:
            webbrowser.open(_first_page(config))
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all has ended well
            server.run(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn's server. It ends the streams of events before it waits for requests to end: they never would."""

    def __init__(self, app: FastAPI, config: ServeConfig) -> None:
        super().__init__(make_settings(app, config))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self._app.state.events.close()
        await super().shutdown(sockets)


def bind(config: ServeConfig) -> socket.socket:
    """A socket that listens where the config says: browsers that come early wait instead of being refused.

    Raises InputError where the address can't be had.
    """
    host = config.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"Nothing can listen at {host!r}: {error.strerror or error}. Try --host 127.0.0.1.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{host}:{config.port} can't be had: {error.strerror or error}. Try another --port; 0 takes any free one."
        ) from error
    return listener


def _allow_many_connections() -> None:
    """Raise this process's limit of open files to what the system grants: idle clients must not shut others out."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_settings(app: ASGIApp, config: ServeConfig) -> uvicorn.Config:
    """Settings of uvicorn for an app of ours. No log line for each request: addresses hold what people look for."""
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        lifespan="on",
        timeout_graceful_shutdown=3,
    )


def _announce(config: ServeConfig, notice: Callable[[str], None]) -> None:
    notice(f"Sightline serves {', '.join(str(path) for path in config.libraries)} at {_first_page(config)}")
    if config.allow_hosts:
        token = ", with the same token" if config.demands_access else ""
        notice(f"It answers to {', '.join(config.allow_hosts)} too{token}.")
    if not config.is_local or config.allow_hosts:
        notice(
            "Everyone who can reach this machine and has this address can see these images."
            if config.demands_access
            else "Everyone who can reach this machine can see these images: there is no access token."
        )
    notice("Ctrl-C stops it.")


def _first_page(config: ServeConfig) -> str:
    return f"{config.address}?token={config.access_token}" if config.demands_access else config.address

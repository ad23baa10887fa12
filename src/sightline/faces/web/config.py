"""Configuration of a server: what it serves, where it listens and what it allows."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sightline.errors import InputError
from sightline.faces.service.library import ServiceConfig, existing_folder

MAX_UPLOAD_BYTES = 32 * 1024 * 1024

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServiceConfig):
    """Settings of one server. Tokens are made anew for each start."""

    runs: Path | None = None
    """A folder of training runs; without it there is no page of them."""
    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    """Further names that it is reached by, at whatever port, such as a reverse proxy's."""
    require_access: bool = True
    """True where a server that others than this machine can reach demands the access token."""
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    token: str = field(default_factory=partial(secrets.token_urlsafe, 32), repr=False)
    """The token that requests that change something must carry; pages get it with their HTML."""
    access_token: str = field(default_factory=partial(secrets.token_urlsafe, 32), repr=False)
    """The token that every request to a server that demands access must carry."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}; it must be from 0 (any free one) to 65535.")
        if self.max_upload_bytes < 1:
            raise InputError(f"max_upload_bytes is {self.max_upload_bytes}; it must be at least 1.")
        object.__setattr__(self, "allow_hosts", tuple(_host_name(name) for name in self.allow_hosts))
        if self.runs is not None:
            object.__setattr__(self, "runs", existing_folder(self.runs))

    @property
    def is_local(self) -> bool:
        """True where only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def demands_access(self) -> bool:
        """True where every request needs the access token: a proxy on this machine lets others in, too."""
        return self.require_access and (not self.is_local or bool(self.allow_hosts))

    @property
    def host_advice(self) -> str:
        """Advice for who asked by a name that isn't this server's."""
        return f"use {self.address}, or start it with --allow-host NAME if it is to be reached by this name"

    @property
    def address(self) -> str:
        """Address where a browser on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}/"


def _host_name(name: str) -> str:
    """As it stands in a request, without its port."""
    bare = name.strip().lower().removeprefix("[").removesuffix("]").rstrip(".")
    if not _HOST_NAME.fullmatch(bare):
        raise InputError(f"{name!r} is no name of a host; give it as photos.example.org, without https:// and port.")
    return bare

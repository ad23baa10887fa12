"""Which addresses a list may send us to: http and https on public hosts, at every redirect.

A name is resolved once, all its addresses are checked, and the connection goes to a checked one: a second look-up
between check and connection could answer with another machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore2
import httpx2

from sightline.errors import ImageError

_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65_535
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPv4InIPv6 = ipaddress.IPv6Network("::/96")
_LOOK_UP_THREADS = 32

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(text: str, *, allow_loopback: bool = False) -> httpx2.URL:
    """A web address that may be fetched, normalised. Raises ImageError for any other, before a name is resolved."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise ImageError("malformed URL") from error
    if url.scheme not in _PORTS:
        raise ImageError("refused: neither http nor https")
    if not url.host or (url.port or 0) > _HIGHEST_PORT:
        raise ImageError("malformed URL")
    if url.userinfo:
        raise ImageError("refused: credentials in the URL")
    if url.port not in (None, *_PORTS.values()) and not allow_loopback:
        raise ImageError("refused: a port other than 80 and 443")
    return url


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet; an address within an address counts by the inner one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address in _NAT64:  # how a network without IPv4 of its own reaches public IPv4 hosts
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address.sixtofour is not None or address.teredo is not None or address in _IPv4InIPv6:
            return False
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def check_address(text: str, *, allow_loopback: bool = False) -> None:
    """Raises ImageError for an IP address that is not public (nor, where that is allowed, this machine's loopback)."""
    if is_public(text) or (allow_loopback and ipaddress.ip_address(text.partition("%")[0]).is_loopback):
        return
    raise ImageError("refused: the address is not public")


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections for httpcore2's pool: resolves, checks, and connects to what was checked.

    TLS is not its business: the pool asks for the certificate of the host's name, not of the address.
    """

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback
        self._inner = httpcore2.AnyIOBackend()
        self._look_ups = ThreadPoolExecutor(_LOOK_UP_THREADS, thread_name_prefix="look-up")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of the host that answers. Raises ImageError if one of them is not allowed."""
        addresses = await self._resolve(host, port, timeout)
        for address in addresses:
            check_address(address, allow_loopback=self._allow_loopback)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore2.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        """As httpcore2 asks for it between its own tries."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """End the threads that resolve names, without waiting for answers."""
        self._look_ups.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, host: str, port: int, timeout_s: float | None) -> list[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._look_ups, look_up)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"looking up {host} took too long") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise httpcore2.ConnectError(str(error)) from error
            raise ImageError("unknown host") from error
        except (OSError, UnicodeError) as error:
            raise ImageError("unknown host") from error

"""One image from an address that anybody may have written: checked, timed, limited, tried again if that may help.

Only http and https on public hosts are fetched from, at every redirect. A name is resolved once, all its addresses are
checked, and the connection goes to a checked one: a second look-up between check and connection could answer with
another machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import httpcore2
import httpx2
from anyio.from_thread import start_blocking_portal

from sightline.core.images.decode import read_image, read_info
from sightline.core.images.preprocess import make_thumbnail
from sightline.errors import ImageError, InputError
from sightline.kit.work import WORTH_ANOTHER_TRY, backoff_s, retry_after_s
from sightline.lab.data.writing import SUFFIX_OF_FORMAT

T = TypeVar("T")

USER_AGENT = "sightline (data set download)"
_OPTED_OUT = {"noai", "noimageai"}
"""Words of the header X-Robots-Tag by which a site says that its images are not for training models."""
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPv4InIPv6 = ipaddress.IPv6Network("::/96")

_ENOUGH_TO_CHECK_PX = 64
"""A JPEG decoded at reduced scale is read to its end all the same."""


def run_apart(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What an async function gives; where the thread runs a loop, as in a notebook, another thread runs it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(function())
    with start_blocking_portal() as portal:
        result: T = portal.call(function)
    return result


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of time, size and tries. Times are of one try."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 60.0
    max_bytes: int = 20_000_000
    tries: int = 3
    max_redirects: int = 5
    retry_wait_s: float = 1.0
    """Before the second try; doubled before each further one. A server's Retry-After counts where it asks for more."""
    allow_loopback: bool = False
    """Allow addresses of this machine, on any port: for tests."""

    def __post_init__(self) -> None:
        """Raises InputError for limits with which nothing could be fetched."""
        for name in ("connect_timeout_s", "read_timeout_s", "total_timeout_s", "max_bytes", "tries"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be more than 0; it is {getattr(self, name)}.")


def check_url(text: str, *, base: httpx2.URL | None = None, allow_loopback: bool = False) -> httpx2.URL:
    """A web address that may be fetched, normalised; as a redirect of `base` it may be relative.

    Raises ImageError for any other, before a name is resolved.
    """
    try:
        url = httpx2.URL(text) if base is None else httpx2.URL(str(base.join(text)))
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise ImageError("malformed URL") from error
    if url.scheme not in _PORTS:
        raise ImageError("refused: neither http nor https")
    if not url.host or (url.port or 0) > 65_535:
        raise ImageError("malformed URL")
    if url.userinfo:
        raise ImageError("refused: credentials in the URL")
    if url.port not in (None, *_PORTS.values()) and not allow_loopback:
        raise ImageError("refused: a port other than 80 and 443")
    return url


def is_public(text: str) -> bool:
    """True where an IP address is one of the public internet; an address within an address counts by the inner one."""
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
    kinds = ("multicast", "reserved", "private", "loopback", "link_local", "unspecified")
    return address.is_global and not any(getattr(address, f"is_{kind}") for kind in kinds)


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
        self._look_ups = ThreadPoolExecutor(32, thread_name_prefix="look-up")

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


class TemporaryFailure(ImageError):  # noqa: N818 - a kind of reason, seldom an error
    """Another try may succeed, after `wait_s` seconds where the server said so."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def check_worth_another_try(status: int, headers: httpx2.Headers) -> None:
    """Raises TemporaryFailure for a status code of what may pass."""
    if status in WORTH_ANOTHER_TRY:
        raise TemporaryFailure(f"HTTP {status}", wait_s=retry_after_s(headers.get("retry-after", "")))


class Fetcher:
    """Many connections, without cookies, credentials or the environment's proxies. An async context manager."""

    def __init__(self, limits: FetchLimits, *, connections: int) -> None:
        self._limits = limits
        self._backend = CheckedBackend(allow_loopback=limits.allow_loopback)
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=connections, keepalive_expiry=5.0, network_backend=self._backend
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()
        self._backend.close()

    async def fetch(self, url: str) -> bytes:
        """The body of an address. Raises ImageError with the reason of the last try."""
        for tried in range(1, self._limits.tries + 1):
            try:
                return await self._try_in_time(url)
            except TemporaryFailure as failure:
                if tried == self._limits.tries or failure.wait_s > 60.0:
                    raise
                await asyncio.sleep(max(backoff_s(tried, first_s=self._limits.retry_wait_s), failure.wait_s))
        raise AssertionError("tries is at least 1")

    async def _try_in_time(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(self._limits.total_timeout_s):
                return await self._follow(url)
        except httpcore2.TimeoutException as error:
            raise TemporaryFailure("timed out") from error
        except TimeoutError as error:
            raise TemporaryFailure("timed out: too slow as a whole") from error
        except httpcore2.ConnectError as error:
            if _is_about_certificate(error):
                raise ImageError("certificate not accepted") from error
            raise TemporaryFailure("no connection") from error
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError, OSError) as error:
            raise TemporaryFailure("connection broke off") from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise ImageError("not valid HTTP") from error

    async def _follow(self, text: str) -> bytes:
        url = check_url(text, allow_loopback=self._limits.allow_loopback)
        for _ in range(self._limits.max_redirects + 1):
            body = await self._request(url)
            if isinstance(body, bytes):
                return body
            url = body
        raise ImageError("too many redirects")

    async def _request(self, url: httpx2.URL) -> bytes | httpx2.URL:
        """The body, or where a redirect leads."""
        limits = self._limits
        timeouts = {"connect": limits.connect_timeout_s, "read": limits.read_timeout_s}
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": USER_AGENT,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        async with self._pool.stream(
            "GET", target, headers=headers, extensions={"timeout": {**timeouts, "write": limits.read_timeout_s}}
        ) as response:
            answer = httpx2.Headers(response.headers)
            if response.status in {301, 302, 303, 307, 308} and "location" in answer:
                return check_url(answer["location"], base=url, allow_loopback=limits.allow_loopback)
            _check_answer(response.status, answer)
            return await _read(response, limits.max_bytes)


def _is_about_certificate(error: BaseException | None) -> bool:
    """True where what caused an error was a certificate; the layers between wrap it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _check_answer(status: int, headers: httpx2.Headers) -> None:
    check_worth_another_try(status, headers)
    if status != 200:
        raise ImageError(f"HTTP {status}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageError("compressed although it was not asked for")
    said = headers.get("x-robots-tag", "").lower().replace(":", ",").split(",")
    if not _OPTED_OUT.isdisjoint(word.strip() for word in said):
        raise ImageError("its site opted out (X-Robots-Tag)")


async def _read(response: httpcore2.Response, max_bytes: int) -> bytes:
    """The body; bytes that are sent are counted, not those that are announced."""
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > max_bytes:
            raise ImageError("too many bytes", figures=f"more than {max_bytes}")
    return bytes(body)


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits of the images that are accepted, and of those that are made smaller."""

    max_pixels: int = 50_000_000
    min_side_px: int = 32
    """Sites send images of one pixel for those that are gone."""
    max_side_px: int | None = None
    """Images whose longer side is more are encoded anew as JPEG; others keep their bytes."""
    quality: int = 90

    def __post_init__(self) -> None:
        """Raises InputError for what no image or no JPEG can have."""
        check_at_least_one(self, "max_pixels", "min_side_px", "max_side_px")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be from 1 to 100; it is {self.quality}.")


def check_at_least_one(settings: object, *names: str) -> None:
    """Raises InputError for a setting below 1; None is allowed."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1; it is {value}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptImage:
    """An image as it is written."""

    data: bytes
    suffix: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str
    """The hash of the bytes that were sent."""
    fetched_bytes: int


def keep_image(data: bytes, limits: ImageLimits) -> KeptImage:
    """Decode what was sent, to be sure that it is a whole image. Raises ImageError where it is none or too large."""
    _refuse_large(*_png_size(data), limits)  # before Pillow, which decodes a PNG to look for EXIF behind its pixels
    info = read_info(data)
    _refuse_large(info.width, info.height, limits)
    if min(info.width, info.height) < limits.min_side_px:
        raise ImageError("too small", figures=f"{info.width} x {info.height} pixels")
    longer, shorter = max(info.width, info.height), min(info.width, info.height)
    smaller = limits.max_side_px is not None and longer > limits.max_side_px
    side_px = max(1, shorter * (limits.max_side_px or 1) // longer) if smaller else _ENOUGH_TO_CHECK_PX
    rgb_HW3 = read_image(data, min_side_px=side_px).rgb
    if smaller:
        assert limits.max_side_px is not None
        kept, suffix = make_thumbnail(rgb_HW3, size_px=limits.max_side_px, quality=limits.quality), "jpg"
    else:
        kept, suffix = data, SUFFIX_OF_FORMAT[info.format]
    now = read_info(kept) if smaller else info
    return KeptImage(
        data=kept,
        suffix=suffix,
        width=now.width,
        height=now.height,
        original_width=info.width,
        original_height=info.height,
        sha256=hashlib.sha256(data).hexdigest(),
        fetched_bytes=len(data),
    )


def _refuse_large(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError("too large", figures=f"{width} x {height} pixels, the limit is {limits.max_pixels}")


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's first chunk states; 0 of anything else."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        return 0, 0
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

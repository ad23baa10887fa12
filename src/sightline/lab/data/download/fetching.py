"""One picture from an address that anybody may have written: checked, timed, limited, tried again if that may help."""

from __future__ import annotations

import asyncio
import random
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpcore2
import httpx2

from sightline.errors import ImageError, InputError
from sightline.kit.retry import WORTH_ANOTHER_TRY, retry_after_s
from sightline.lab.data.download.addresses import CheckedBackend, check_url

USER_AGENT = "sightline (data set download)"
_REDIRECTS = {301, 302, 303, 307, 308}
_OPTED_OUT = {"noai", "noimageai"}
"""Words of the header X-Robots-Tag by which a site says that its pictures are not for training models."""
_KEEP_IDLE_S = 5.0
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """How long, how much and how often. Times are of one try."""

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
        for name in ("max_redirects", "retry_wait_s"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative; it is {getattr(self, name)}.")


class TemporaryFailure(ImageError):  # noqa: N818 - a kind of reason, seldom an error
    """Another try may succeed, after `wait_s` seconds where the server said so."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Fetcher:
    """Many connections, without cookies, credentials or the environment's proxies. An async context manager."""

    def __init__(self, limits: FetchLimits, *, connections: int) -> None:
        self._limits = limits
        self._backend = CheckedBackend(allow_loopback=limits.allow_loopback)
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=connections, keepalive_expiry=_KEEP_IDLE_S, network_backend=self._backend
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()
        self._backend.close()

    async def fetch(self, url: str) -> bytes:
        """The body of an address. Raises ImageError with the reason of the last try."""
        for tried in range(1, self._limits.tries + 1):
            try:
                return await self._try_in_time(url)
            except TemporaryFailure as failure:
                if tried == self._limits.tries or failure.wait_s > _LONGEST_WAIT_S:
                    raise
                backoff_s = self._limits.retry_wait_s * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
                await asyncio.sleep(max(backoff_s, failure.wait_s))
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
            if response.status in _REDIRECTS and "location" in answer:
                return _join(url, answer["location"], allow_loopback=limits.allow_loopback)
            _check_answer(response.status, answer)
            return await _read(response, limits.max_bytes)


def _is_about_certificate(error: BaseException | None) -> bool:
    """Whether what caused an error was a certificate; the layers between wrap it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _join(url: httpx2.URL, location: str, *, allow_loopback: bool) -> httpx2.URL:
    try:
        target = str(url.join(location))
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise ImageError("malformed URL") from error
    return check_url(target, allow_loopback=allow_loopback)


def _check_answer(status: int, headers: httpx2.Headers) -> None:
    if status in WORTH_ANOTHER_TRY:
        raise TemporaryFailure(f"HTTP {status}", wait_s=retry_after_s(headers.get("retry-after", "")))
    if status != 200:
        raise ImageError(f"HTTP {status}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageError("compressed although it was not asked for")
    said = headers.get("x-robots-tag", "").lower().replace(":", ",").split(",")
    if not _OPTED_OUT.isdisjoint(word.strip() for word in said):
        raise ImageError("its site opted out (X-Robots-Tag)")


async def _read(response: httpcore2.Response, max_bytes: int) -> bytes:
    """What is sent, not what is announced, is counted."""
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > max_bytes:
            raise ImageError(f"too many bytes: more than {max_bytes}")
    return bytes(body)

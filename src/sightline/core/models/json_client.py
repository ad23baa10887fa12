"""JSON out, JSON back, over HTTP to an address that the user chose: timed, limited, tried again where that may help.

Not `huggingface_hub.InferenceClient`, which has no call for a request of our own, follows redirects (images would go
on to other hosts), sends the saved hub token to whatever address it is given, reads answers of any length, and refuses
even this machine's own addresses while `HF_HUB_OFFLINE` is set. Its typed methods work with our endpoints all the same.
"""

from __future__ import annotations

import ipaddress
import json
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from sightline.errors import InputError, ModelError
from sightline.kit.text import one_line
from sightline.kit.work import WORTH_ANOTHER_TRY, backoff_s, retry_after_s

USER_AGENT = "sightline"

_TRIES_TO_CONNECT = 2
"""An address where nothing has ever answered is probably mistyped."""

_SHOWN_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class PostLimits:
    """Limits of a request: time, size, tries. Times are of one try."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    """Between two pieces of an answer, and before the first."""
    total_timeout_s: float = 300.0
    max_answer_bytes: int = 64_000_000
    tries: int = 8
    retry_wait_s: float = 0.5
    """Before the second try; doubled before each further one, with jitter. The server's Retry-After counts where it
    asks for more."""
    longest_wait_s: float = 60.0
    """A server that asks for more than this is not waited for."""
    requests_per_minute: float | None = None
    """Requests are spaced so that there are no more; None for no limit of our own."""

    def __post_init__(self) -> None:
        """Raises InputError for limits with which nothing could be asked."""
        names = ("connect_timeout_s", "read_timeout_s", "total_timeout_s", "max_answer_bytes", "tries")
        for name in (*names, *(("requests_per_minute",) if self.requests_per_minute is not None else ())):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be more than 0; it is {getattr(self, name)}.")
        for name in ("retry_wait_s", "longest_wait_s"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative; it is {getattr(self, name)}.")


class _Passing(Exception):  # noqa: N818 - another try may succeed
    """A failure that may pass, and the seconds after which the server wants to be asked again."""

    def __init__(self, reason: str, *, wait_s: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.connected = connected


class JsonClient:
    """One address, with kept connections. Safe to share between threads."""

    def __init__(self, url: str, *, key: str | None = None, limits: PostLimits | None = None) -> None:
        """Raises InputError for what is no http(s) address, and for a key that would travel unencrypted."""
        self.limits = limits or PostLimits()
        self._url = _check_url(url, key=key)
        self.name = self._url.netloc.decode("ascii")
        """Host and port, for messages: never path, query or key."""
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        timeout = httpx2.Timeout(self.limits.read_timeout_s, connect=self.limits.connect_timeout_s)
        self._client = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False)
        self._closer = weakref.finalize(self, self._client.close)  # encoders are never closed by their users
        self._answered = False
        self._turn = threading.Lock()
        self._next_s = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._closer()

    def post(self, payload: Mapping[str, Any]) -> Any:
        """The answer to a request. Raises ModelError with what went wrong at the last try."""
        for tried in range(1, self.limits.tries + 1):
            try:
                answer = self._try(payload)
            except _Passing as failure:
                lost = not failure.connected and not self._answered and tried >= _TRIES_TO_CONNECT
                if lost or tried == self.limits.tries or failure.wait_s > self.limits.longest_wait_s:
                    asked = f"; it asks to wait {failure.wait_s:,.0f} s" if failure.wait_s else ""
                    told = f"{self.name} failed: {failure}{asked} (tried {tried} {'time' if tried == 1 else 'times'})"
                    raise ModelError(f"The endpoint {told}. Try again once it answers.") from failure
                wait_s = backoff_s(tried, first_s=self.limits.retry_wait_s, longest_s=self.limits.longest_wait_s)
                time.sleep(max(wait_s, failure.wait_s))
            else:
                self._answered = True
                return answer
        raise AssertionError("tries is at least 1")

    def _wait_for_turn(self) -> None:
        if self.limits.requests_per_minute is None:
            return
        with self._turn:
            now_s = time.monotonic()
            start_s = max(now_s, self._next_s)
            self._next_s = start_s + 60 / self.limits.requests_per_minute
        time.sleep(start_s - now_s)

    def _try(self, payload: Mapping[str, Any]) -> Any:
        self._wait_for_turn()
        ends_s = time.monotonic() + self.limits.total_timeout_s
        try:
            with self._client.stream("POST", self._url, json=payload) as response:
                body = self._read(response, ends_s)
        except httpx2.ConnectError as error:
            raise _Passing("no connection", connected=False) from error
        except httpx2.TimeoutException as error:
            raise _Passing("no answer in time", connected=not isinstance(error, httpx2.ConnectTimeout)) from error
        except httpx2.TransportError as error:
            raise _Passing(f"the connection broke off ({type(error).__name__})") from error
        return self._parse(response, body)

    def _read(self, response: httpx2.Response, ends_s: float) -> bytes:
        """The body; what comes is counted, not what was announced."""
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > self.limits.max_answer_bytes:
                raise ModelError(f"The endpoint {self.name} answers more than {self.limits.max_answer_bytes:,} bytes.")
            if time.monotonic() > ends_s:
                raise _Passing("no whole answer in time")
        return bytes(body)

    def _parse(self, response: httpx2.Response, body: bytes) -> Any:
        status = response.status_code
        if status in WORTH_ANOTHER_TRY:
            raise _Passing(f"HTTP {status}", wait_s=retry_after_s(response.headers.get("retry-after", "")))
        if response.is_redirect:
            raise ModelError(
                f"The endpoint {self.name} redirects to {shown(response.headers.get('location', ''))!r}; what is sent "
                "isn't passed on to other addresses. Give that address if you trust it."
            )
        if status in (401, 403):
            raise ModelError(f"The endpoint {self.name} refuses access (HTTP {status}). Check the key.")
        if status != 200:
            raise ModelError(f"The endpoint {self.name} refuses the request (HTTP {status}): {_reason(body)}")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Passing("its answer is no JSON") from error


def shown(value: Any) -> str:
    """A text of a server, short and on one line, so that it can't do anything to a terminal."""
    return one_line(value, max_chars=_SHOWN_CHARS)


def _reason(body: bytes) -> str:
    """The `error` of an answer, as text generation servers and Hugging Face's endpoints name it, else its beginning."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return shown(body[:_SHOWN_CHARS].decode("utf-8", "replace")) or "it gives no reason"
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return shown(error.get("message", error) if isinstance(error, dict) else error)


def _check_url(text: str, *, key: str | None) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise InputError(f"{shown(text)!r} is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{shown(text)!r} is no address of an endpoint; it must begin with https:// or http://.")
    if url.userinfo:
        raise InputError("An endpoint's address must not hold a user name or password; give the key by itself.")
    if key is not None and url.scheme == "http" and not _is_this_machine(url.host):
        raise InputError(f"The key for {url.host} would travel unencrypted; use its https:// address.")
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise InputError("The endpoint's key must be printable ASCII, without line breaks.")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

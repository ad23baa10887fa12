"""One large file over HTTP, from where an earlier run stopped, if it is still the same file."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from sightline.errors import DataError
from sightline.kit.files import write_json
from sightline.kit.work import Progress, backoff_s
from sightline.lab.data.download.fetching import USER_AGENT, TemporaryFailure, check_worth_another_try

_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Patience with a server. Tries in a row without a byte more are counted."""

    timeout_s: float = 30.0
    """Without a byte, or a connection."""
    tries: int = 6
    retry_wait_s: float = 1.0
    """Before the second try; doubled before each further one, up to a minute."""


def download_file(
    url: str, target: Path, *, options: ResumeOptions | None = None, on_bytes: Progress | None = None
) -> None:
    """Fetch a file to `target`, which has its name only once it is complete; the environment's proxies are used.

    What an earlier run fetched, in `.NAME.partial`, is continued. The length is checked against the server's.
    Raises DataError where the server has no such file or doesn't give it after several tries; OSError where the
    disk refuses it.
    """
    _Download(url, target, options or ResumeOptions(), on_bytes or (lambda *_: None)).finish()


class _Download:
    def __init__(self, url: str, target: Path, options: ResumeOptions, on_bytes: Progress) -> None:
        self._url = url
        self._target = target
        self._options = options
        self._on_bytes = on_bytes
        self._partial = target.with_name(f".{target.name}.partial")
        self._version_file = target.with_name(f".{target.name}.partial.json")
        self._begun_s = time.monotonic()
        self._received = 0

    def finish(self) -> None:
        fruitless = 0
        with httpx2.Client(
            timeout=self._options.timeout_s,
            follow_redirects=True,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        ) as client:
            while True:
                before = self._received
                try:
                    self._try(client)
                    break
                except TemporaryFailure as failure:
                    fruitless = 1 if self._received > before else fruitless + 1
                    if fruitless >= self._options.tries:
                        raise DataError(
                            f"{self._url} can't be fetched: {failure}, {fruitless} times in a row. What came before is "
                            "kept: run the same command again to go on."
                        ) from failure
                    wait_s = backoff_s(fruitless, first_s=self._options.retry_wait_s, longest_s=_LONGEST_WAIT_S)
                    time.sleep(max(wait_s, min(failure.wait_s, _LONGEST_WAIT_S)))
        self._partial.replace(self._target)
        self._version_file.unlink(missing_ok=True)

    def _try(self, client: httpx2.Client) -> None:
        have_bytes, headers = self._where_to_go_on()
        with _explained(), client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code == 416 and _total_of(answer) == have_bytes:
                return  # all bytes were there already
            if answer.status_code in (412, 416):
                self._partial.unlink(missing_ok=True)
                raise TemporaryFailure("the file changed on the server")
            check_worth_another_try(answer.status_code, answer.headers)
            if answer.status_code not in (200, 206):
                raise DataError(
                    f"{self._url} can't be fetched: HTTP {answer.status_code}. Look whether its publisher moved it; a "
                    "copy elsewhere can be used with --mirror URL."
                )
            sent = answer.headers.get("content-range", "")
            continues = answer.status_code == 206 and sent.startswith(f"bytes {have_bytes}-")
            if answer.status_code == 206 and not continues:
                self._partial.unlink(missing_ok=True)
                raise TemporaryFailure("the server sent another part than was asked for")
            # A strong ETag, or Last-Modified, tells whether it is the file that was begun; without, none is continued.
            etag = answer.headers.get("etag", "")
            validator = etag if etag and not etag.startswith("W/") else answer.headers.get("last-modified", "")
            write_json(self._version_file, {"url": self._url, "validator": validator})
            self._receive(answer, have_bytes if continues else 0)

    def _receive(self, answer: httpx2.Response, have_bytes: int) -> None:
        total = _total_of(answer)
        with self._partial.open("ab" if have_bytes else "wb") as file:
            self._on_bytes(have_bytes, total, "")
            for piece in answer.iter_raw():
                file.write(piece)
                have_bytes += len(piece)
                self._received += len(piece)
                self._on_bytes(have_bytes, total, self._describe(have_bytes, total))
        if total is not None and have_bytes < total:
            raise TemporaryFailure("connection broke off")

    def _describe(self, have_bytes: int, total: int | None) -> str:
        rate = self._received / max(time.monotonic() - self._begun_s, 1e-9)
        words = f"{rate / 1e6:.1f} MB/s"
        if total is None:
            return words
        minutes, seconds = divmod(round((total - have_bytes) / max(rate, 1)), 60)
        return f"{words}, {minutes}:{seconds:02d} left"

    def _where_to_go_on(self) -> tuple[int, dict[str, str]]:
        """Bytes that are there, and the headers that ask for the rest if the file is still the same."""
        have_bytes = self._partial.stat().st_size if self._partial.is_file() else 0
        try:
            known = json.loads(self._version_file.read_text(encoding="utf-8"))
            validator = known["validator"] if known["url"] == self._url else ""
        except (OSError, ValueError, TypeError, KeyError):
            validator = ""
        if not have_bytes or not validator:
            self._partial.unlink(missing_ok=True)
            return 0, {}
        return have_bytes, {"Range": f"bytes={have_bytes}-", "If-Range": validator}


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise TemporaryFailure("no answer in time") from error
    except httpx2.UnsupportedProtocol as error:
        raise DataError(f"Only http and https addresses can be fetched: {error}.") from error
    except httpx2.HTTPError as error:
        raise TemporaryFailure(str(error) or type(error).__name__) from error


def _total_of(answer: httpx2.Response) -> int | None:
    """Length of the whole file, where the server says it."""
    if answer.status_code in (206, 416):
        match = re.search(r"/(\d+)$", answer.headers.get("content-range", ""))
        return int(match[1]) if match else None
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None

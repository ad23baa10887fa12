"""Events of the server, told to pages as they happen: Server-Sent Events.

Only the latest event of each subject (a job, a library) is kept, since each tells the whole state of its subject. So
memory doesn't grow with clients or time, a slow client misses nothing but what is superseded, and a client that comes
back with `Last-Event-ID` gets exactly what has changed since.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from fastapi.sse import format_sse_event

PING_S = 15.0
RETRY_MS = 2000


@dataclass(frozen=True, kw_only=True)
class Event:
    """The state of one subject at one moment."""

    number: int
    name: str
    """The type that scripts listen for: `job`, `library`."""
    subject: str
    """The thing that it tells of, among those of its name."""
    data: str
    """JSON."""
    lasting: bool
    """True where clients that come later are told, too."""


class Events:
    """Publishes from any thread; any number of clients follow in event loops, each at its own pace."""

    def __init__(self) -> None:
        self._start = secrets.token_hex(4)
        self._lock = threading.RLock()  # `close` may be called by a signal handler, in the midst of anything
        self._latest: dict[tuple[str, str], Event] = {}
        self._number = 0
        self._wakers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._closed = False

    def publish(self, name: str, subject: str, data: str, *, lasting: bool = True) -> None:
        """Tell all who follow that a subject has changed; `data` is its state as JSON."""
        with self._lock:
            self._number += 1
            event = Event(number=self._number, name=name, subject=subject, data=data, lasting=lasting)
            self._latest[name, subject] = event
        self._wake()

    def forget(self, name: str, subject: str) -> None:
        """Drop a subject that is no more."""
        with self._lock:
            self._latest.pop((name, subject), None)

    def close(self) -> None:
        """End all streams, now and later: a server that stops waits for none."""
        self._closed = True
        self._wake()

    async def stream(
        self, *, last_id: str | None = None, wanted: Callable[[Event], bool] = lambda event: True
    ) -> AsyncIterator[bytes]:
        """The wire format of a stream, for one client, until it goes or the server stops.

        It begins with what the client lacks that has seen the event `last_id`; without one of this start of the
        server, with all that lasts. A `ping` follows, which carries the id that such a client may come back with.
        """
        waker = asyncio.Event()
        with self._lock:
            self._wakers[waker] = asyncio.get_running_loop()
        try:
            seen = self._number_of(last_id)
            events, newest = self._changes(seen)
            yield format_sse_event(comment="sightline", retry=RETRY_MS)
            for event in events:
                if wanted(event) and (event.lasting or seen is not None):
                    yield self._wire(event)
            yield self._ping(newest)
            while not self._closed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(waker.wait(), PING_S)
                if not waker.is_set():
                    yield self._ping(newest)
                waker.clear()
                events, newest = self._changes(newest)
                for event in filter(wanted, events):
                    yield self._wire(event)
        finally:
            with self._lock:
                del self._wakers[waker]

    def _number_of(self, last_id: str | None) -> int | None:
        """The number in an id of this start; None for any other text."""
        start, _, digits = (last_id or "").partition("-")
        if start != self._start or not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
            return None
        return int(digits)

    def _changes(self, seen: int | None) -> tuple[list[Event], int]:
        """Events after a number (None: all that are kept), in order, and the number of the latest of all."""
        with self._lock:
            events = [event for event in self._latest.values() if seen is None or event.number > seen]
            newest = self._number
        return sorted(events, key=lambda event: event.number), newest

    def _ping(self, number: int) -> bytes:
        return format_sse_event(event="ping", data_str="{}", id=f"{self._start}-{number}")

    def _wire(self, event: Event) -> bytes:
        return format_sse_event(event=event.name, data_str=event.data, id=f"{self._start}-{event.number}")

    def _wake(self) -> None:
        with self._lock:
            loops: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
            for waker, loop in self._wakers.items():
                loops.setdefault(loop, []).append(waker)
        for loop, wakers in loops.items():
            with suppress(RuntimeError):  # the loop has ended, and its clients with it
                loop.call_soon_threadsafe(_set_all, wakers)


def _set_all(wakers: list[asyncio.Event]) -> None:
    for waker in wakers:
        waker.set()

"""Server-sent events, as a client reads them (WHATWG's HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sightline.faces.web.models import JobAnswer, LibraryEvent

Event = JobAnswer | LibraryEvent
"""What a server tells of: a job in its state now, or a library in its size now."""

PING: Final = "ping"
"""Comes right after what is so now, and then every 15 s."""


def read_events(lines: Iterable[str]) -> Iterator[Event | str]:
    """The events of a stream, with pings; what a later version may tell besides is passed over."""
    name, data = "", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line:
            if data and name == "job":
                yield JobAnswer.model_validate_json("\n".join(data))
            elif data and name == "library":
                yield LibraryEvent.model_validate_json("\n".join(data))
            elif name == PING:
                yield PING
            name, data = "", []


def has_ended(job: JobAnswer) -> bool:
    """Whether nothing of a job is left to do."""
    return job.state in ("done", "failed", "cancelled")

"""The one error tree: a class for each thing that a caller handles differently.

A message says what was wrong, what is allowed and what to do next.
"""

from __future__ import annotations

DISTRIBUTION = "sightline-images"
"""The name that a package index knows us by: `sightline` is another project there."""


class SightlineError(Exception):
    """Base of every error that Sightline raises on purpose; `kind` is a word for programs, where there is one."""

    def __init__(self, *args: object, kind: str | None = None) -> None:
        super().__init__(*args)
        self.kind = kind


class InputError(SightlineError):
    """Something given by the caller that can't be used: a query, a filter, a path, an option."""


class NotFoundError(InputError):
    """Something named that isn't there: an image, a library, a job, a file."""


class GoneError(NotFoundError):
    """Something named that was there, and isn't kept any more."""


class ForbiddenError(InputError):
    """A request for something that isn't allowed here."""


class ConflictError(InputError):
    """A request that doesn't go with how things are, such as resuming a job that runs."""


class CursorError(InputError):
    """A cursor is none of ours, or belongs to another query."""


class ImageError(InputError):
    """One image file can't be read; `reason` is a short phrase without the path, fit for counting.

    `figures` are what the message adds to it of this file. `may_pass` is True where the same file may be readable
    later: something gets installed, set, freed or connected.
    """

    def __init__(self, reason: str, *, figures: str = "", may_pass: bool = False) -> None:
        super().__init__(f"{reason}: {figures}" if figures else reason)
        self.reason = reason
        self.may_pass = may_pass


class DataError(SightlineError):
    """A set of pairs can't be downloaded, unpacked or written."""


class ModelError(SightlineError):
    """A model is unknown, can't be fetched, or can't be loaded or run here."""


class StoreError(SightlineError):
    """A library can't be opened, read or written, or refuses what it is given."""


class UnknownImageError(StoreError):
    """No image of the library has one of the ids that were asked for; `ids` are those that it lacks."""

    def __init__(self, message: str, *, ids: frozenset[int]) -> None:
        super().__init__(message)
        self.ids = ids


class BusyError(StoreError):
    """Others are at it, and as many as may wait do; worth another try after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, kind="busy")
        self.retry_after_s = retry_after_s


class OverloadedError(BusyError):
    """More is asked at once than can be answered at all."""


class TrainingError(SightlineError):
    """A training run can't start or can't go on."""


def install_advice(extra: str = "") -> str:
    """The command that a message gives to who lacks a part of Sightline: one of its extras, or what all of it needs."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"

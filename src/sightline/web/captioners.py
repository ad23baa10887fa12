"""The generator of captions that a server uses, loaded once, and how many may ask for captions at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sightline.library import default_captioner
from sightline.models.base import Captioner
from sightline.models.captioners import load_captioner
from sightline.web.problems import Problem

MAX_WAITING = 4


class CaptionDesk:
    """One picture is captioned at a time; a few requests may wait, the others are told to come back.

    Captions take as long as a hundred searches: waiting for them must not use up the threads that answer searches.
    """

    def __init__(self, captioner: str | None) -> None:
        self._name = captioner
        self._captioner: Captioner | None = None
        self._places = threading.BoundedSemaphore(1 + MAX_WAITING)
        self._turn = threading.Lock()

    @contextmanager
    def take_turn(self) -> Iterator[Captioner | None]:
        """Wait for one's turn, then have the captioner; None where the server was started with `none`.

        Raises a 429 problem where too many wait already, ModelError where the model can't be loaded.
        """
        if not self._places.acquire(blocking=False):
            raise Problem(
                429, "Other pictures are being captioned; try again.", kind="busy", headers={"Retry-After": "2"}
            )
        try:
            with self._turn:
                yield self._load()
        finally:
            self._places.release()

    def _load(self) -> Captioner | None:
        name = self._name or default_captioner()
        if self._captioner is None and name != "none":
            self._captioner = load_captioner(name)
        return self._captioner

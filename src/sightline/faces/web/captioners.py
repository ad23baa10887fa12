"""The generator of captions that a server uses, loaded once, and how many may ask for captions at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sightline.core.library import default_captioner
from sightline.core.models.base import Captioner
from sightline.core.models.loading import load_captioner
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.encoders import names_here, require_name
from sightline.faces.web.lanes import Lane
from sightline.faces.web.problems import Problem

MAX_WAITING = 4


class CaptionDesk:
    """One picture is captioned at a time; a few requests may wait, the others are told to come back.

    Captions take as long as a hundred searches: those that wait for them are in a lane of their own.
    """

    def __init__(self, captioner: str | None) -> None:
        self._name = captioner
        self._captioner: Captioner | None = None
        self._places = threading.BoundedSemaphore(1 + MAX_WAITING)
        self._turn = threading.Lock()
        self.lane = Lane(threads=1 + MAX_WAITING, max_waiting=MAX_WAITING)

    @contextmanager
    def take_turn(self, *, own_candidates: bool = False) -> Iterator[Captioner | None]:
        """Wait for one's turn, then have the captioner; None where the server was started with `none`.

        It is also None for `own_candidates` where the server was started without naming a captioner.

        Raises a 429 problem where too many wait already, ModelError where the model can't be loaded.
        """
        if not self._places.acquire(blocking=False):
            raise Problem(
                429, "Other pictures are being captioned; try again.", kind="busy", headers={"Retry-After": "2"}
            )
        try:
            with self._turn:
                yield self._load(self._name or default_captioner(own_candidates=own_candidates))
        finally:
            self._places.release()

    def _load(self, name: str) -> Captioner | None:
        if name == "none":
            return None
        if self._captioner is None:
            self._captioner = load_captioner(name)
        return self._captioner


def require_captioner(name: str | None, config: ServeConfig) -> str:
    """The generator that a request names, or the server's own. Raises ModelError for one that it may not use."""
    own = config.captioner or default_captioner()
    return own if name is None else require_name(name, ["none", own, *names_here("captioner")])

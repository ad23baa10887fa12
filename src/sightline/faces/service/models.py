"""The models that open libraries share: each is loaded once, has threads of its own, and lets requests take turns.

Which of them a request may name is decided by `require_name` alone, against lists that hold no name of a request's own
making: those of a library's vectors, of the command line and, for jobs, of the registry's models that are here.

A model that loads, or an endpoint that says nothing, holds the threads of its own lane. Searches with other models,
pages and thumbnails have theirs, and requests that wait in a line hold no thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar, TypeVarTuple

import anyio
import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import Captioner, Encoder, Matcher
from sightline.core.models.cards import ModelCard, find_card, known_cards
from sightline.core.models.files import is_available
from sightline.core.models.inputs import WrappedEncoder
from sightline.core.models.loading import default_captioner, load_captioner, load_matcher
from sightline.errors import BusyError, ModelError, OverloadedError

Given = TypeVarTuple("Given")
Done = TypeVar("Done")
Tower = Literal["words", "pictures"]

THREADS = 4
MAX_LINE = 100
RETRY_AFTER_S = 2

ANSWER_S = 20.0
"""Time that an endpoint may take for an answer, twice: a search that takes longer is given up."""

MAX_WAITING = 4
"""Requests that may wait for the one whose image is captioned."""


class Lane:
    """Some threads and a line of bounded length. For one event loop."""

    def __init__(self, *, threads: int = THREADS, max_waiting: int = MAX_LINE) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._places = threads + max_waiting

    async def run(self, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work in one of the threads, when it is its turn. Raises OverloadedError where the line is full."""
        if self._places == 0:
            raise OverloadedError("Too many requests wait for this already; try again.", retry_after_s=RETRY_AFTER_S)
        self._places -= 1
        try:
            return await anyio.to_thread.run_sync(work, *given, limiter=self._limiter)
        finally:
            self._places += 1


class SharedEncoder(WrappedEncoder):
    """An encoder that threads share: each of its two towers is run by one of them at a time.

    Words never wait for a batch of pictures: searches stay quick while a library is indexed.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._image_lock = threading.Lock()
        self._text_lock = threading.Lock()

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._image_lock:
            return self._encoder.encode_images(pixels_BHW3)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._text_lock:
            return self._encoder.encode_texts(texts)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        with self._image_lock:
            return self._encoder.encode_maps(pixels_BHW3)


class Encoders:
    """Models by name, each loaded once, whichever library asks first. Only `open_remote` opens a socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, SharedEncoder] = {}
        self._remote: dict[str, SharedEncoder] = {}

    def open_remote(self, endpoint: str) -> SharedEncoder:
        """The encoder behind an `endpoint:URL` of the command line, which stands for its model's name from now on.

        Raises InputError for a bad address, ModelError where it doesn't answer.
        """
        from sightline.core.models.json_client import PostLimits
        from sightline.core.models.remote import RemoteConfig, load_remote_encoder

        if endpoint not in self._remote:
            limits = PostLimits(read_timeout_s=ANSWER_S, total_timeout_s=ANSWER_S, tries=2)
            encoder = SharedEncoder(load_remote_encoder(endpoint, config=RemoteConfig(limits=limits)))
            self._remote[endpoint] = self._loaded[encoder.card.name] = encoder
        return self._remote[endpoint]

    def is_remote(self, name: str) -> bool:
        """True where an endpoint of the command line stands for a full model name."""
        return any(encoder.card.name == name for encoder in self._remote.values())

    def get(self, name: str) -> SharedEncoder:
        """The encoder of a full model name, loaded. Raises ModelError where it can't be."""
        from sightline.core.models.loading import load_encoder

        with self._lock:
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            if name not in self._loaded:
                require_here(name)  # or the name of a repository would be looked up on the hub
                self._loaded[name] = SharedEncoder(load_encoder(name))
            return self._loaded[name]


class Matchers:
    """What reads image and words together, each loaded once. It has a lane of its own: BLIP's head takes minutes."""

    def __init__(self, captioner: str | None) -> None:
        self._default = None if captioner == "none" else captioner
        self._lock = threading.Lock()
        self._loaded: dict[str | None, Matcher] = {}
        self.lane = Lane(threads=1, max_waiting=MAX_WAITING)

    def get(self, name: str | None) -> Matcher:
        """A matcher or captioner by name; without one the captioner chosen at the start, or what `load_matcher` takes.

        Raises ModelError where it can't be loaded.
        """
        chosen = name or self._default
        with self._lock:
            if chosen not in self._loaded:
                self._loaded[chosen] = load_matcher(chosen)
            return self._loaded[chosen]


class CaptionDesk:
    """The generator of captions, loaded once. One image is captioned at a time; the requests beyond some are sent away.

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
        """Wait for one's turn, then have the captioner; None where it was chosen to be `none`.

        It is also None for `own_candidates` where no captioner was chosen.

        Raises BusyError where too many wait already, ModelError where the model can't be loaded.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("Other pictures are being captioned; try again.", retry_after_s=RETRY_AFTER_S)
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


def require_name(name: str, among: Iterable[str]) -> str:
    """A model's name, if it is one of those that may be used here, letter for letter.

    Raises ModelError for any other, whatever it names and whether that exists or not.
    """
    allowed = list(dict.fromkeys(among))
    if name not in allowed:
        known = ", ".join(allowed) or "none, since the library has no vectors yet"
        raise ModelError(
            f"{name!r} can't be chosen from here; these can: {known}. Others are added at the command line: "
            "sightline models pull NAME for a known one, sightline index --model NAME for any."
        )
    return name


def require_here(name: str) -> ModelCard:
    """The card of a model that a library holds. Raises ModelError where it could only be fetched, or isn't there."""
    return find_card(name, fetch=False)


def require_captioner(name: str | None, chosen: str | None) -> str:
    """The generator that a request names, or the one chosen at the start.

    Raises ModelError for one that a request may not use.
    """
    own = chosen or default_captioner()
    return own if name is None else require_name(name, ["none", own, *names_here("captioner")])


def names_here(kind: Literal["encoder", "captioner"]) -> list[str]:
    """Names of the registry's models whose files are on this machine."""
    return [name for name, card in known_cards().items() if card.kind == kind and is_available(card)]


def lower_priority() -> None:
    """Let the threads of searches go first. What this thread starts (readers, ONNX Runtime) inherits it on Linux."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)

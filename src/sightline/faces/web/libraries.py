"""The libraries that a server has open, and the models that they share."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, TypeVarTuple
from urllib.parse import quote

import anyio
from fastapi import Depends, Query, Request

from sightline.core.library import Library
from sightline.core.models.cards import ENDPOINT_PREFIX
from sightline.core.store.database import DATABASE_NAME
from sightline.errors import StoreError
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.encoders import Encoders, require_here, require_name
from sightline.faces.web.lanes import ModelLanes, Tower
from sightline.faces.web.problems import Problem
from sightline.faces.web.rankings import Rankings
from sightline.faces.web.thumbnails import Thumbnails
from sightline.faces.web.uploads import Uploads

if TYPE_CHECKING:
    from sightline.core.models.base import Encoder
    from sightline.core.models.cards import ModelCard
    from sightline.core.types import ImageRecord, StoreStats

Given = TypeVarTuple("Given")
Done = TypeVar("Done")

_log = logging.getLogger(__name__)


class ServedLibrary(Library):
    """A library whose models are shared with the server's others."""

    encoders: Encoders

    @property
    def encoder(self) -> Encoder:
        """The model in use, loaded."""
        return self.encoders.get(self.model)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the libraries of a server have in common."""

    encoders: Encoders = field(default_factory=Encoders)
    uploads: Uploads = field(default_factory=Uploads)
    lanes: ModelLanes = field(default_factory=ModelLanes)
    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(max(2, os.cpu_count() or 1)))
    """Pictures are decoded by no more threads than there are processors, so that searches find a free one, however many
    thumbnails a page asks for. Requests that wait for their turn hold no thread."""


class OpenLibrary:
    """One library that is served, with what is kept beside it while it is open."""

    def __init__(self, path: Path, *, name: str, config: ServeConfig, shared: Shared, read_only: bool = False) -> None:
        self.name = name
        model = config.model
        remote = shared.encoders.open_remote(model) if model and model.startswith(ENDPOINT_PREFIX) else None
        self.library = ServedLibrary.open(
            path, model=model if remote is None else None, create=not read_only, read_only=read_only
        )
        assert isinstance(self.library, ServedLibrary)  # `open` makes what it is called on
        self.library.encoders = shared.encoders
        if remote is not None:
            self.library.use_encoder(remote)
        self._opened = () if config.model is None else (self.library.model,)
        self.path = self.library.path.resolve()
        self.config = config
        self.is_default = False
        self.uploads = shared.uploads
        self.thumbnails = Thumbnails(self.path / "thumbnails")
        self.rankings = Rankings()
        self._encoders = shared.encoders
        self._decoding = shared.decoding
        self._lanes = shared.lanes
        self._checked: set[str] = set()
        self._changes = 0
        self._counted: tuple[str, StoreStats] | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder of searches, loaded."""
        return self.library.encoder

    def models(self) -> list[str]:
        """Names of the models that a request may use: those with vectors here, and that of the command line."""
        return list(dict.fromkeys([*self.library.store.models(), self.library.model, *self._opened]))

    def model_name(self, model: str | None) -> str:
        """The name of the model that a request asks for, or that searches use. Raises ModelError for any other."""
        return self.library.model if model is None else require_name(model, self.models())

    def encoder_of(self, model: str) -> Encoder:
        """The encoder of a model whose name was checked. Raises ModelError where it can't run."""
        return self._encoders.get(model)

    def is_remote(self, model: str) -> bool:
        """Whether the command line opened an endpoint for a model."""
        return self._encoders.is_remote(model)

    def card(self) -> ModelCard:
        """The card of the model that searches use. Raises ModelError where it isn't on this machine."""
        model = self.library.model
        return self._encoders.get(model).card if self.is_remote(model) else require_here(model)

    def checked_encoder(self, model: str) -> Encoder:
        """The encoder of a model whose vectors the library has.

        Raises StoreError where other weights made them under the same name.
        """
        encoder = self._encoders.get(model)
        if model not in self._checked:
            self.library.store.add_model(encoder.identity)  # known already: this only compares
            self._checked.add(model)
        return encoder

    @property
    def quoted_name(self) -> str:
        """The name as it stands in an address."""
        return quote(self.name, safe="")

    @property
    def version(self) -> str:
        """What differs after any write to the library, this server's or another process's."""
        states = [self._changes]
        for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
            with suppress(OSError):
                stat = (self.path / name).stat()
                states += [stat.st_mtime_ns, stat.st_size]
        return hashlib.blake2b(repr(states).encode(), digest_size=8).hexdigest()

    @property
    def stats(self) -> StoreStats:
        """The library's figures, counted again after a write: counting 100,000 rows takes as long as ranking them."""
        version = self.version
        if self._counted is None or self._counted[0] != version:
            self._counted = version, self.library.store.stats()
        return self._counted[1]

    def changed(self) -> None:
        """Say that the library was written to: new searches rank anew, while pages of older ones stay in order."""
        self._changes += 1

    def image(self, id_: int) -> ImageRecord:
        """The record of a row. Raises a 404 problem where there is none."""
        found = self.records([id_])
        if id_ not in found:
            raise Problem(404, f"The library {self.name!r} has no image with the id {id_}.", kind="unknown-image")
        return found[id_]

    def records(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """The records of rows, in the order given; rows that are gone are left out."""
        try:
            records = self.library.store.get(ids)
        except StoreError as error:
            if len(ids) > 1:  # some of them are gone since they were ranked
                return {id_: record for one in ids for id_, record in self.records([one]).items()}
            if "no image with the id" in str(error):
                return {}
            raise
        return dict(zip(ids, records, strict=True))

    async def compute(self, model: str, tower: Tower, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work that runs a model (or loads it) in one of that model's own threads: a slow one holds no others.

        Raises a 503 problem where too many requests wait for it.
        """
        return await self._lanes.of(model, tower).run(work, *given)

    async def decode(self, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work that decodes pictures in a thread, as soon as there is a processor for it."""
        return await anyio.to_thread.run_sync(work, *given, limiter=self._decoding)

    def close(self) -> None:
        """Release files."""
        self.thumbnails.close()
        self.library.close()


class Libraries:
    """Every library of a server."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.shared = Shared()
        self._open: dict[str, OpenLibrary] = {}
        self._at_close: list[Callable[[], None]] = []
        self._warming: threading.Thread | None = None
        self.failure: str | None = None
        """Why the default model could not be loaded."""
        for path, name in zip(config.libraries, _unique_names(config.libraries), strict=True):
            self._open[name] = OpenLibrary(path, name=name, config=config, shared=self.shared)
        self.get().is_default = True

    @property
    def default(self) -> str:
        """The name of the library that is used where none is named."""
        return next(iter(self._open))

    def names(self) -> list[str]:
        """Names of the libraries, in the order given."""
        return list(self._open)

    def get(self, name: str | None = None) -> OpenLibrary:
        """A library by name, or the default one. Raises a 404 problem for an unknown name."""
        found = self._open.get(self.default if name is None else name)
        if found is None:
            known = ", ".join(self._open)
            raise Problem(404, f"There is no library {name!r} here; there are: {known}.", kind="unknown-library")
        return found

    @property
    def is_ready(self) -> bool:
        """Whether the default library's model is loaded."""
        return self._warming is not None and not self._warming.is_alive() and self.failure is None

    def warm(self) -> None:
        """Load the default library's model in a thread, and run it once: the first search shall be quick."""
        self._warming = threading.Thread(target=self._warm, name="sightline-warm", daemon=True)
        self._warming.start()

    def _warm(self) -> None:
        start_s = time.perf_counter()
        try:
            library = self.get()
            library.encoder.encode_texts(["warm"])
            _log.info("%s is ready after %.1f s", library.library.model, time.perf_counter() - start_s)
        except Exception as error:  # the page must come up all the same, and say why searches fail
            self.failure = str(error)
            _log.warning("The model can't be loaded: %s", error)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call this before the libraries close, latest first: what runs in the background ends its work here."""
        self._at_close.append(callback)

    def close(self) -> None:
        """End what runs in the background, then release the libraries."""
        while self._at_close:
            self._at_close.pop()()
        if self._warming is not None:
            self._warming.join()
        for library in self._open.values():
            library.close()


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Folder names; a second library of the same name gets a number."""
    names: list[str] = []
    for path in paths:
        base = path.resolve().name or "library"
        name, number = base, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


async def libraries_of(request: Request) -> Libraries:
    """The libraries of the app that a request came to."""
    found: Libraries = request.app.state.libraries
    return found


async def pick_library(
    request: Request,
    library: Annotated[
        str | None, Query(max_length=255, description="Name of a library; the first one where it isn't given.")
    ] = None,
) -> OpenLibrary:
    """The library that a request names."""
    libraries: Libraries = request.app.state.libraries
    return libraries.get(library)


def pick_model(
    library: Annotated[OpenLibrary, Depends(pick_library)],
    model: Annotated[
        str | None,
        Query(
            max_length=500,
            description="A model whose vectors the library has; the library's default where it isn't given.",
            examples=["starter"],
        ),
    ] = None,
) -> str:
    """The name of the model that a request asks for. Raises ModelError for one that may not be used."""
    return library.model_name(model)


AllLibraries = Annotated[Libraries, Depends(libraries_of)]
PickedLibrary = Annotated[OpenLibrary, Depends(pick_library)]
PickedModel = Annotated[str, Depends(pick_model)]

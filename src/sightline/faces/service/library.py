"""Open libraries: the session on one, and the registry of all, with the models that they share."""

from __future__ import annotations

import atexit
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar, TypeVarTuple

import anyio

from sightline import __version__
from sightline.core.library import Library
from sightline.core.models.base import Encoder
from sightline.core.models.cards import ENDPOINT_PREFIX, ModelCard, known_cards, resolve_name
from sightline.core.models.files import is_available
from sightline.core.search.rerank import SecondLook
from sightline.core.store.database import DATABASE_NAME
from sightline.core.store.sqlite import open_store
from sightline.core.types import ImageRecord, StoreStats
from sightline.errors import InputError, ModelError, NotFoundError, UnknownImageError
from sightline.faces.service.duplicates import DuplicateFinder
from sightline.faces.service.models import CaptionDesk, Encoders, Lane, Matchers, Tower, require_here, require_name
from sightline.faces.service.rankings import Rankings
from sightline.faces.service.schemas import LibraryAnswer, ModelAnswer, ModelsAnswer, SkippedFile, StatsAnswer
from sightline.faces.service.thumbnails import Thumbnails
from sightline.faces.service.uploads import Uploads
from sightline.kit import config as user_config
from sightline.kit.config import expand
from sightline.kit.text import valid_text
from sightline.kit.work import usable_cpus

Given = TypeVarTuple("Given")
Done = TypeVar("Done")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The libraries to open and what may be done with them."""

    libraries: tuple[Path, ...]
    """Folders of libraries; the first is the default."""
    model: str | None = None
    """The encoder of searches; None takes each library's own."""
    captioner: str | None = None
    """The generator of captions; None takes that of `loading.default_captioner`."""
    allow_roots: tuple[Path, ...] = ()
    """Folders below which a page may add folders to a library."""
    create: bool = True
    """True makes a library where there is none."""
    read_only: bool = False
    """True where nothing in the libraries' folders may change."""

    def __post_init__(self) -> None:
        if not self.libraries:
            raise InputError("No library was given: name at least one folder.")
        object.__setattr__(self, "libraries", tuple(expand(path) for path in self.libraries))
        object.__setattr__(self, "allow_roots", tuple(existing_folder(path) for path in self.allow_roots))


def existing_folder(path: Path) -> Path:
    """A folder of the settings, links followed. Raises InputError where there is none."""
    folder = expand(path).resolve()
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Name one that exists.")
    return folder


class Shared:
    """Parts that open libraries have in common."""

    def __init__(self, captioner: str | None = None) -> None:
        self.encoders = Encoders()
        self.uploads = Uploads()
        self.lanes: dict[tuple[str, Tower], Lane] = {}
        """Two for each model: words never wait for images."""
        self.desk = CaptionDesk(captioner)
        self.matchers = Matchers(captioner)
        self.duplicates = DuplicateFinder()
        self.decoding = anyio.CapacityLimiter(max(2, usable_cpus()))
        """Images are decoded by no more threads than there are processors, so that searches find a free one, however
        many thumbnails a page asks for. Requests that wait for their turn hold no thread."""


class OpenLibrary(Library):
    """One library whose models are shared with others, and what is kept beside it while it is open.

    Threads may share it. Raises StoreError where it can't be opened, ModelError for an unknown model.
    """

    def __init__(self, path: Path, *, name: str, config: ServiceConfig, shared: Shared) -> None:
        remote = named = None
        if config.model and config.model.startswith(ENDPOINT_PREFIX):
            remote = shared.encoders.open_remote(config.model)
        elif config.model is not None:
            named = resolve_name(config.model, kind="encoder")
        store = open_store(expand(path), create=config.create, read_only=config.read_only)
        super().__init__(store, expand(path).resolve(), model=named)
        if remote is not None:
            self.use_encoder(remote)
        self._opened = () if config.model is None else (self.model,)
        self.name = name
        self.config = config
        self.shared = shared
        self.is_default = False
        self.thumbnails = Thumbnails(self.path / "thumbnails")
        if config.read_only:
            self.thumbnails.close()  # nothing is kept in the library's folder
        self.rankings = Rankings()
        self._checked: set[str] = set()
        self._changes = 0
        self._counted: tuple[str, StoreStats] | None = None
        self._look: SecondLook | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder of searches, loaded."""
        return self.shared.encoders.get(self.model)

    def models(self) -> list[str]:
        """Names of the models that a request may use: those with vectors here, and that of the command line."""
        return list(dict.fromkeys([*self.store.models(), self.model, *self._opened]))

    def second_look(self, reranker: str | None = None) -> SecondLook:
        """What reads hits again, with the matcher that all libraries share. Raises ModelError where it can't run."""
        if self._look is None:
            self._look = SecondLook(self.shared.matchers.get(reranker), None if self.config.read_only else self.path)
        return self._look

    def model_name(self, model: str | None) -> str:
        """The name of the model that a request asks for, or that searches use. Raises ModelError for any other."""
        return self.model if model is None else require_name(model, self.models())

    def encoder_of(self, model: str) -> Encoder:
        """The encoder of a model whose name was checked. Raises ModelError where it can't run."""
        return self.shared.encoders.get(model)

    def card(self) -> ModelCard:
        """The card of the model that searches use. Raises ModelError where it isn't on this machine."""
        return self.encoder.card if self.shared.encoders.is_remote(self.model) else require_here(self.model)

    def checked_encoder(self, model: str) -> Encoder:
        """The encoder of a model whose vectors the library has.

        Raises StoreError where other weights made them under the same name.
        """
        encoder = self.encoder_of(model)
        if model not in self._checked:
            self.store.add_model(encoder.identity)  # known already: this only compares
            self._checked.add(model)
        return encoder

    @property
    def allow_write(self) -> bool:
        """True where anything in the library may change."""
        return not self.config.read_only

    @property
    def version(self) -> str:
        """A text that differs after any write to the library, this process's or another's."""
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
            self._counted = version, self.store.stats()
        return self._counted[1]

    def changed(self) -> None:
        """Say that the library was written to: new searches rank anew, while pages of older ones stay in order."""
        self._changes += 1

    def image(self, id_: int) -> ImageRecord:
        """The record of a row. Raises NotFoundError where there is none."""
        found = self.records([id_])
        if id_ not in found:
            raise NotFoundError(f"The library {self.name!r} has no image with the id {id_}.", kind="unknown-image")
        return found[id_]

    def records(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """The records of rows, in the order given; rows that are gone are left out."""
        try:
            records = self.store.get(ids)
        except UnknownImageError as error:  # gone since they were ranked
            return self.records([id_ for id_ in ids if id_ not in error.ids])
        return dict(zip(ids, records, strict=True))

    async def compute(self, model: str, tower: Tower, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work that runs a model (or loads it) in one of that model's own threads: a slow one holds no others.

        Raises OverloadedError where too many requests wait for it.
        """
        lane = self.shared.lanes.setdefault((model, tower), Lane())  # kept: the name was checked
        return await lane.run(work, *given)

    async def decode(self, work: Callable[[*Given], Done], *given: *Given) -> Done:
        """Do work that decodes images in a thread, as soon as there is a processor for it."""
        return await anyio.to_thread.run_sync(work, *given, limiter=self.shared.decoding)

    def close(self) -> None:
        """Release files."""
        self.thumbnails.close()
        super().close()


class Libraries:
    """Every library that is open, each once; they share their models. Closes at the end of a `with` block."""

    def __init__(self, config: ServiceConfig | None = None, *, captioner: str | None = None) -> None:
        """Open the libraries of `config`, the default one first; without it, `open_folder` opens them.

        Raises as `OpenLibrary` does.
        """
        self.shared = Shared(captioner if config is None else config.captioner)
        self._lock = threading.Lock()
        self._open: dict[str, OpenLibrary] = {}
        self._warming: threading.Thread | None = None
        self.failure: str | None = None
        """Why the default model could not be loaded."""
        if config is not None:
            for path, name in zip(config.libraries, _unique_names(config.libraries), strict=True):
                self._open[name] = OpenLibrary(path, name=name, config=config, shared=self.shared)
            self.get().is_default = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def default(self) -> str:
        """The name of the library that is used where none is named."""
        return next(iter(self._open))

    def names(self) -> list[str]:
        """Names of the libraries, in the order given."""
        return list(self._open)

    def get(self, name: str | None = None) -> OpenLibrary:
        """A library by name, or the default one. Raises NotFoundError for an unknown name."""
        found = self._open.get(self.default if name is None else name)
        if found is None:
            known = ", ".join(self._open)
            raise NotFoundError(f"There is no library {name!r} here; there are: {known}.", kind="unknown-library")
        return found

    def open_folder(
        self, folder: str | Path | None = None, *, model: str | None = None, allow_write: bool = False
    ) -> OpenLibrary:
        """The library in a folder (default: the user's own), opened once for all who name it, if it is there.

        Raises as `OpenLibrary` does.
        """
        path = Path(folder) if folder else user_config.library_dir()
        key = f"{path.absolute()} {model or ''} {allow_write}"
        with self._lock:
            if key not in self._open:
                config = ServiceConfig(libraries=(path,), model=model or None, create=False, read_only=not allow_write)
                self._open[key] = OpenLibrary(config.libraries[0], name="library", config=config, shared=self.shared)
            return self._open[key]

    @property
    def is_ready(self) -> bool:
        """True where the default library's model is loaded."""
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
            _log.info("%s is ready after %.1f s", library.model, time.perf_counter() - start_s)
        except Exception as error:  # the faces must come up all the same, and say why searches fail
            self.failure = str(error)
            _log.warning("The model can't be loaded: %s", error)

    def close(self) -> None:
        """End what runs in the background, then release the libraries; a folder can be opened again."""
        if self._warming is not None:
            self._warming.join()
        self.shared.duplicates.close()
        self.shared.duplicates = DuplicateFinder()
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


shared_libraries = Libraries()
"""Those of this process: tools of agents name a library by its folder, since their code must stand by itself."""

atexit.register(shared_libraries.close)


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


def list_libraries(libraries: Libraries) -> list[LibraryAnswer]:
    """The libraries that are open, the default one first."""
    return [
        LibraryAnswer(name=name, images=libraries.get(name).store.stats().images, default=name == libraries.default)
        for name in libraries.names()
    ]


def show_stats(library: OpenLibrary, *, pages: Sequence[str] = ()) -> StatsAnswer:
    """Contents of a library; `pages` are those of an app that has some."""
    stats, failures = library.store.stats(), library.store.failures()
    return StatsAnswer(
        library=library.name,
        images=stats.images,
        captions=stats.captions,
        model=library.default_model,
        models=dict(stats.models),
        folders=[valid_text(root) for root in stats.roots],
        offline_folders=[valid_text(root) for root in stats.extra["offline_roots"]],
        unreadable=len(failures),
        unreadable_files=[
            SkippedFile(path=valid_text(failure.root / failure.relative), reason=failure.reason)
            for failure in islice(failures, 200)
        ],
        size_bytes=stats.size_bytes,
        version=__version__,
        pages=list(pages),
    )


def list_models(library: OpenLibrary) -> ModelsAnswer:
    """Models with vectors in the library first, then those that Sightline knows."""
    vectors = library.store.stats().models
    models = [_show_indexed_model(name, count) for name, count in vectors.items()]
    models += [_show_model(card) for name, card in known_cards().items() if name not in vectors]
    return ModelsAnswer(default=library.model, models=models)


def use_model(library: OpenLibrary, name: str) -> ModelsAnswer:
    """Let searches use a model that the library has vectors of. Raises ModelError where it can't run."""
    library.encoder_of(name)  # says now, not at the next search, that it can't run
    library.use_model(name)
    library.changed()
    return list_models(library)


def _show_indexed_model(name: str, vectors: int) -> ModelAnswer:
    """A model of the library, whose files may be gone by now."""
    try:
        return _show_model(require_here(name), vectors=vectors)
    except ModelError:
        return ModelAnswer(
            name=valid_text(name),
            kind="encoder",
            vectors=vectors,
            available=False,
            dim=None,
            licence="unknown",
            size_bytes=None,
        )


def _show_model(card: ModelCard, *, vectors: int = 0) -> ModelAnswer:
    return ModelAnswer(
        name=valid_text(card.name),
        kind=card.kind,
        vectors=vectors,
        available=is_available(card),
        dim=card.dim,
        licence=card.licence,
        size_bytes=card.size_bytes,
        figures=dict(card.figures),
    )

"""A library that tools work on, opened for reading unless writing is allowed, and what is kept beside it."""

from __future__ import annotations

import atexit
import logging
import threading
from pathlib import Path
from typing import Self

from sightline.core.library import Library
from sightline.faces.web.captioners import CaptionDesk
from sightline.faces.web.config import ServeConfig
from sightline.faces.web.duplicates import DuplicateFinder
from sightline.faces.web.libraries import OpenLibrary, Shared
from sightline.kit import config

_log = logging.getLogger(__name__)


class ToolLibrary:
    """One open library. Threads may share it; it closes at the end of a `with` block."""

    def __init__(self, opened: OpenLibrary, *, captioner: str | None, allow_write: bool) -> None:
        self.opened = opened
        self.allow_write = allow_write
        self.desk = CaptionDesk(captioner)
        self.duplicates = DuplicateFinder()
        self._warming: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        model: str | None = None,
        captioner: str | None = None,
        allow_write: bool = False,
        shared: Shared | None = None,
    ) -> ToolLibrary:
        """Open the library in a folder (default: `SIGHTLINE_LIBRARY`, else the user's own).

        `shared` lets several libraries share their models. Raises StoreError where there is no library, or where it
        can't be read; ModelError for an unknown model.
        """
        folder = Path(path) if path is not None else config.library_dir()
        Library.open(folder, create=False, read_only=not allow_write).close()  # never makes one
        settings = ServeConfig(libraries=(folder,), model=model, captioner=captioner)
        shared = shared or Shared()
        opened = OpenLibrary(
            settings.libraries[0], name="library", config=settings, shared=shared, read_only=not allow_write
        )
        opened.is_default = True
        if not allow_write:
            opened.thumbnails.close()  # nothing is kept in the library's folder
        return cls(opened, captioner=captioner, allow_write=allow_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm(self) -> None:
        """Load the model in a thread and run it once: the first search shall be quick."""
        self._warming = threading.Thread(target=self._warm, name="sightline-warm", daemon=True)
        self._warming.start()

    def _warm(self) -> None:
        try:
            self.opened.encoder.encode_texts(["warm"])
        except Exception as error:  # the tools must come up all the same: a search says why it fails
            _log.warning("The model can't be loaded: %s", error)

    def close(self) -> None:
        """End what runs in the background, then release the files."""
        if self._warming is not None:
            self._warming.join()
        self.duplicates.close()
        self.opened.close()


class SharedLibraries:
    """Libraries by folder, each opened once for all tools that name it; their models are shared too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared = Shared()
        self._open: dict[tuple[Path, str, bool], ToolLibrary] = {}

    def get(self, library: str = "", *, model: str = "", allow_write: bool = False) -> ToolLibrary:
        """The library in a folder; an empty name takes the default one. Raises as `ToolLibrary.open` does."""
        folder = Path(library) if library else config.library_dir()
        key = (folder.absolute(), model, allow_write)
        with self._lock:
            if key not in self._open:
                self._open[key] = ToolLibrary.open(
                    folder, model=model or None, allow_write=allow_write, shared=self._shared
                )
            return self._open[key]

    def close(self) -> None:
        """Close all of them; one that is asked for again is opened again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


shared_libraries = SharedLibraries()
"""Those of this process: tools of agents name a library by its folder, since their code must stand by itself."""

atexit.register(shared_libraries.close)

"""A library of indexed images: the one object that most users need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sightline import config
from sightline.errors import InputError, ModelError
from sightline.search.query import parse_query

if TYPE_CHECKING:
    from sightline.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.indexing.report import IndexConfig, IndexReport, Progress
    from sightline.models.base import Encoder
    from sightline.search.duplicates import DuplicateGroup
    from sightline.search.engine import Match
    from sightline.store.sqlite import SqliteStore
    from sightline.types import Caption, Hit

_MODEL_SETTING = "model"
_CAPTION_ROWS = 64


class Library:
    """Images of any number of folders, their vectors and their captions, in one folder on disk.

    Open one with `Library.open`; it closes at the end of a `with` block. Models load when they are first needed.
    """

    def __init__(self, store: SqliteStore, path: Path, *, model: str | None, runtime: str = "auto") -> None:
        self.path = path
        self.store = store
        self._chosen_model = model
        self._runtime = runtime
        self._encoders: dict[str, Encoder] = {}

    @classmethod
    def open(
        cls, path: str | Path | None = None, *, model: str | None = None, create: bool = True, read_only: bool = False
    ) -> Library:
        """Open the library in folder `path` (default: `SIGHTLINE_LIBRARY`, else one in the user's data folder).

        `model` picks the model for this session; without it an existing library uses its own default and a new one
        `ViT-B-32/openai` where that can run now without network, else `starter`. Raises StoreError where the folder
        holds no library and `create` is False, or where it can't be read.
        """
        from sightline.store.sqlite import open_store

        folder = Path(path).expanduser() if path is not None else config.library_dir()
        store = open_store(folder, create=create, read_only=read_only)
        return cls(store, folder, model=model)

    @staticmethod
    def exists(path: str | Path | None = None) -> bool:
        """Whether a folder (default: as for `open`) holds a library."""
        from sightline.store.connection import DATABASE_NAME

        folder = Path(path).expanduser() if path is not None else config.library_dir()
        return (folder / DATABASE_NAME).is_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the library's files."""
        self.store.close()

    # --- models -------------------------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """Name of the model in use: the one asked for, else the library's default, else a new library's choice."""
        if self._chosen_model is None:
            self.choose_model()
        assert self._chosen_model is not None  # choose_model sets it
        return self._chosen_model

    def choose_model(self, *, confirm: Callable[[str], bool] | None = None) -> str | None:
        """Settle which model is used, where that is still open; a line that tells the user of a choice, or None.

        `confirm` is asked once, with a question, before anything large would be downloaded; without it nothing is.
        """
        from sightline.models.encoders import default_model_name

        reason = None
        if self._chosen_model is None:
            self._chosen_model = self.store.setting(_MODEL_SETTING)
        if self._chosen_model is None:
            self._chosen_model, reason = default_model_name(confirm=confirm)
        return reason

    @property
    def encoder(self) -> Encoder:
        """The model in use, loaded."""
        if self.model not in self._encoders:
            from sightline.models.encoders import load_encoder

            self._encoders[self.model] = load_encoder(self.model)
        return self._encoders[self.model]

    def use_model(self, name: str) -> None:
        """Make `name` the default. Raises ModelError where this library has no vectors of it."""
        known = self.store.models()
        if name not in known:
            raise ModelError(
                f"This library has no vectors of {name!r}; it has {_listed(known)}. "
                f"Add it with: sightline index --model {name} FOLDER"
            )
        self.store.set_setting(_MODEL_SETTING, name)
        self._chosen_model = name

    def remove_model(self, name: str) -> int:
        """Drop a model's vectors; the number dropped. The default can't be dropped while others are there."""
        known = self.store.models()
        if name not in known:
            raise ModelError(f"This library has no vectors of {name!r}; it has {_listed(known)}.")
        if name == self.store.setting(_MODEL_SETTING) and len(known) > 1:
            raise ModelError(f"{name!r} is the library's default. First choose another: sightline models use NAME")
        return self.store.remove_model(name)

    # --- indexing -----------------------------------------------------------------------------------------------

    def index(
        self,
        *folders: str | Path,
        config: IndexConfig | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IndexReport:
        """Bring the library up to date with folders; without any, with all folders that it knows.

        Only what is new or changed is read. Raises InputError for a missing folder where the library
        can't be written. See `IndexReport` for what was done and what couldn't be read.
        """
        from sightline.indexing.indexer import index
        from sightline.indexing.report import IndexConfig

        roots = [Path(folder).expanduser() for folder in folders] or list(self.store.stats().roots)
        if not roots:
            raise InputError("No folder was given and this library knows none yet: sightline index FOLDER")
        encoder = self.encoder
        self.store.add_model(encoder.identity)
        if self.store.setting(_MODEL_SETTING) is None:
            self.store.set_setting(_MODEL_SETTING, self.model)
        return index(self.store, encoder, roots, config=config or IndexConfig(), on_progress=on_progress)

    def remove(self, *, paths: Iterable[str | Path] = (), where: str | None = None) -> int:
        """Forget images by path (a folder stands for all below it) or filter; files on disk stay. The number forgotten.

        Raises InputError where a path names nothing in the library, or where neither is given.
        """
        given = [Path(path).expanduser().absolute() for path in paths]
        if not given and where is None:
            raise InputError("Say what to remove: paths, or a filter with --where.")
        ids: set[int] = set()
        for path in given:
            below = [r.id for r in self.store.scan() if r.path == path or path in r.path.parents]
            if not below:
                raise InputError(f"Nothing in this library lies at {path}. `sightline info` lists its folders.")
            ids.update(row for row in below if row is not None)
        if where is not None:
            ids.update(r.id for r in self.store.scan(where=where) if r.id is not None)
        return self.store.delete(ids)

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
        self,
        *query: str,
        top: int = 10,
        where: str | None = None,
        min_similarity: float | None = None,
        match: Match = "pictures",
        add: Sequence[str] = (),
        subtract: Sequence[str] = (),
    ) -> list[Hit]:
        """Find images by words, `./photo.jpg`, or parts joined with `+` and `-`, weighted as in `2:snow`; best first.

        `add` and `subtract` are further parts. `match` is `pictures` (cosine), `captions` (full text) or `both`.
        Raises InputError for a broken query or filter.
        """
        from sightline.search.engine import SearchConfig, search

        parts = parse_query(query, add=add, subtract=subtract)
        settings = SearchConfig(top=top, where=where, min_similarity=min_similarity, match=match)
        if not self._require_vectors():
            return []
        return search(self.store, self.encoder, parts, config=settings)

    def similar(self, photo: str | Path, *, top: int = 10, where: str | None = None) -> list[Hit]:
        """Images most like a photo, which need not be in the library; the photo itself is left out."""
        from sightline.search.engine import SearchConfig, search
        from sightline.search.query import Part

        path = Path(photo).expanduser()
        if not path.is_file():
            raise InputError(f"There is no picture {path}.")
        if not self._require_vectors():
            return []
        return search(self.store, self.encoder, [Part(image=path)], config=SearchConfig(top=top, where=where))

    def duplicates(self, *, min_similarity: float | None = None) -> list[DuplicateGroup]:
        """Groups of exact copies; with a similarity (0.95, say) also of near ones."""
        from sightline.search.duplicates import find_exact, find_near

        if min_similarity is None:
            return find_exact(self.store)
        return find_near(self.store, self.model, min_similarity=min_similarity) if self._require_vectors() else []

    def _require_vectors(self) -> bool:
        """Whether there is anything to search; raises ModelError where only other models have been indexed."""
        known = self.store.models()
        if known and self.model not in known:
            raise ModelError(
                f"This library has no vectors of {self.model!r}; it has {_listed(known)}. "
                f"Add it with: sightline index --model {self.model} FOLDER"
            )
        return bool(known)

    # --- captions and facts -------------------------------------------------------------------------------------

    def caption(
        self,
        paths: Iterable[str | Path] | None = None,
        *,
        config: CaptionConfig | None = None,
        captioner: str | None = None,
        skip_existing: bool = False,
    ) -> Iterator[DualCaption | CaptionFailure]:
        """Caption pictures both ways, in order; the captions of those in this library are kept and found by full text.

        `paths` are pictures and folders; None means every picture of the library. `captioner` is the name of the
        generator, `none` for ranked candidates only (default: `blip-base` where it can run now, else the starter).
        `skip_existing` passes over pictures of this library that have captions. Raises InputError for a path that
        isn't there, ModelError where a model can't run.
        """
        chosen = self.pictures() if paths is None else list_pictures(paths)
        if skip_existing:
            chosen = [path for path in chosen if not self._has_captions(path)]
        results = _caption(chosen, encoder=self.encoder, captioner=captioner, config=config)
        yield from self._keep_captions(results)

    def _has_captions(self, path: Path) -> bool:
        row = self.store.find_path(path.absolute())
        return row is not None and row.id is not None and bool(self.store.captions([row.id])[row.id])

    def _keep_captions(self, results: Iterable[DualCaption | CaptionFailure]) -> Iterator[DualCaption | CaptionFailure]:
        """Pass results on, and write them in batches; what was passed on is written even where the caller stops."""
        from sightline.captioning.dual import DualCaption

        waiting: dict[int, list[Caption]] = {}
        try:
            for result in results:
                row = self.store.find_path(result.path.absolute()) if isinstance(result, DualCaption) else None
                if isinstance(result, DualCaption) and row is not None and row.id is not None:
                    waiting[row.id] = _captions_to_keep(result)
                if len(waiting) >= _CAPTION_ROWS:
                    self.store.put_captions(waiting)
                    waiting = {}
                yield result
        finally:
            if waiting:
                self.store.put_captions(waiting)

    def pictures(self, *, where: str | None = None) -> list[Path]:
        """Files of the library's images, by folder and path, under a filter."""
        return [record.path for record in self.store.scan(where=where)]

    def info(self) -> dict[str, Any]:
        """Counts, folders, models and what could not be read, as plain values."""
        stats = self.store.stats()
        return {
            "library": str(self.path.absolute()),
            "images": stats.images,
            "captions": stats.captions,
            "model": self.store.setting(_MODEL_SETTING),
            "models": dict(stats.models),
            "folders": [str(root) for root in stats.roots],
            "unreadable": len(self.store.failures()),
            "size_bytes": stats.size_bytes,
        }


def _captions_to_keep(result: DualCaption) -> list[Caption]:
    """The fused best, the best candidate and every generated sentence: lower candidates would only blur full text."""
    kept = [result.best, *result.clip[:1], *result.generated]
    return list(dict.fromkeys(kept))


def caption(
    paths: Iterable[str | Path],
    *,
    model: str | None = None,
    captioner: str | None = None,
    config: CaptionConfig | None = None,
) -> Iterator[DualCaption | CaptionFailure]:
    """Caption pictures and folders of pictures both ways, without a library; see `Library.caption`."""
    from sightline.models.encoders import default_model_name, load_encoder

    encoder = load_encoder(model or default_model_name(confirm=None)[0])
    return _caption(list_pictures(paths), encoder=encoder, captioner=captioner, config=config)


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """Pictures as given, and those below folders, each once. Raises InputError for a path that isn't there."""
    from sightline.images.walk import walk_images

    pictures: dict[Path, None] = {}
    for path in (Path(given).expanduser() for given in paths):
        if path.is_dir():
            pictures.update((file.path, None) for file in walk_images(path, on_problem=lambda *_: None))
        elif path.exists():
            pictures[path] = None
        else:
            raise InputError(f"There is no picture or folder {path}.")
    return list(pictures)


def _caption(
    paths: Sequence[Path], *, encoder: Encoder, captioner: str | None, config: CaptionConfig | None
) -> Iterator[DualCaption | CaptionFailure]:
    from sightline.captioning.dual import caption_images
    from sightline.models.captioners import load_captioner

    name = captioner or _default_captioner()
    generator = None if name == "none" else load_captioner(name)
    return caption_images(paths, encoder=encoder, captioner=generator, config=config)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none yet"


def _default_captioner() -> str:
    from sightline.models.registry import find_card
    from sightline.models.resolve import is_available

    return "blip-base" if is_available(find_card("blip-base")) else "starter-captioner"

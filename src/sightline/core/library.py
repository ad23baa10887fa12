"""A library of indexed images: the one object that most users need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sightline.errors import InputError, ModelError
from sightline.kit import config
from sightline.kit.config import expand, is_file

if TYPE_CHECKING:
    from sightline.core.captioning.dual import CaptionConfig, CaptionFailure, DualCaption
    from sightline.core.indexing.report import IndexConfig, IndexProgress, IndexReport
    from sightline.core.indexing.text import TextReport
    from sightline.core.models.base import Encoder
    from sightline.core.search.duplicates import DuplicateGroup
    from sightline.core.search.engine import Hits, Match, SearchConfig, Sort
    from sightline.core.search.query import Part
    from sightline.core.search.rerank import SecondLook
    from sightline.core.search.set_aside import MoveReport
    from sightline.core.store.sqlite import SqliteStore
    from sightline.core.types import ModelIdentity, TaughtWord
    from sightline.kit.work import Progress

_MODEL_SETTING = "model"


class Library:
    """Images of any number of folders, their vectors and their captions, in one folder on disk.

    Open one with `Library.open`; it closes at the end of a `with` block. Models load when they are first needed.
    """

    def __init__(self, store: SqliteStore, path: Path, *, model: str | None) -> None:
        self.path = path
        self.store = store
        self._chosen_model = model
        self._encoders: dict[str, Encoder] = {}
        self._looks: dict[str | None, SecondLook] = {}

    @classmethod
    def open(
        cls, path: str | Path | None = None, *, model: str | None = None, create: bool = True, read_only: bool = False
    ) -> Library:
        """Open the library in folder `path` (default: `SIGHTLINE_LIBRARY`, else one in the user's data folder).

        `model` picks the model for this session; without it an existing library uses its own default and a new one
        `ViT-B-32/openai` where that can run now without network, else `starter`. Raises StoreError where the folder
        holds no library and `create` is False, or where it can't be read.
        """
        from sightline.core.models.cards import ENDPOINT_PREFIX, resolve_name
        from sightline.core.store.sqlite import open_store

        folder = expand(path) if path is not None else config.library_dir()
        encoder = None
        if model is not None and model.startswith(ENDPOINT_PREFIX):
            from sightline.core.models.loading import load_encoder

            encoder = load_encoder(model)
        name = resolve_name(model, kind="encoder") if model is not None and encoder is None else None
        library = cls(open_store(folder, create=create, read_only=read_only), folder, model=name)
        if encoder is not None:
            library.use_encoder(encoder)
        return library

    @staticmethod
    def exists(path: str | Path | None = None) -> bool:
        """True where a folder (default: as for `open`) holds a library."""
        from sightline.core.store.database import DATABASE_NAME

        folder = expand(path) if path is not None else config.library_dir()
        return (folder / DATABASE_NAME).is_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        from sightline.core.models.loading import default_model_name

        reason = None
        if self._chosen_model is None:
            self._chosen_model = self.default_model
        if self._chosen_model is None:
            self._chosen_model, reason = default_model_name(confirm=confirm)
        return reason

    @property
    def default_model(self) -> str | None:
        """The default that was set, as long as its vectors are there, else the model that came first."""
        return self._default_of(self.store.models())

    def _default_of(self, known: Mapping[str, ModelIdentity]) -> str | None:
        if len(known) > 1 and (default := self.store.setting(_MODEL_SETTING)) in known:
            return default
        return next(iter(known), None)

    @property
    def encoder(self) -> Encoder:
        """The model in use, loaded."""
        if self.model not in self._encoders:
            from sightline.core.models.loading import load_encoder

            self._encoders[self.model] = load_encoder(self.model)
        return self._encoders[self.model]

    def use_encoder(self, encoder: Encoder) -> None:
        """Take a loaded encoder for this session: one that computes elsewhere, say, or that expands queries.

        Its vectors are kept under the name of its card, whoever computes them.
        """
        self._chosen_model = encoder.card.name
        self._encoders[encoder.card.name] = encoder

    def use_model(self, name: str) -> None:
        """Make `name` the default. Raises ModelError where this library has no vectors of it."""
        name = self._known_model(name)
        self.store.set_setting(_MODEL_SETTING, name)
        self._chosen_model = name

    def remove_model(self, name: str) -> int:
        """Drop a model's vectors; the number dropped. The default can't be dropped while others are there."""
        name = self._known_model(name)
        if name == self.default_model and len(self.store.models()) > 1:
            raise ModelError(f"{name!r} is the library's default. First choose another: sightline models use NAME")
        return self.store.remove_model(name)

    def _known_model(self, name: str) -> str:
        """The name under which this library has a model's vectors. Raises ModelError where it has none."""
        from sightline.core.models.cards import resolve_name

        known = self.store.models()
        full_name = name if name in known else resolve_name(name, kind="encoder")
        if full_name not in known:
            raise ModelError(
                f"This library has no vectors of {full_name!r}; it has {', '.join(known) or 'none yet'}. "
                f"Add them with: sightline index --model {full_name}"
            )
        return full_name

    # --- indexing -----------------------------------------------------------------------------------------------

    def index(
        self,
        *folders: str | Path,
        config: IndexConfig | None = None,
        on_progress: Callable[[IndexProgress], None] | None = None,
    ) -> IndexReport:
        """Bring the library up to date with folders; without any, with all folders that it knows.

        Only what is new or changed is read. With the precision `auto`, a model that runs in fp32 is first judged in
        int8 on 256 of these images, once, and runs so from then on where it passes. Raises InputError for a missing
        folder, StoreError where the library can't be written. See `IndexReport` for what was done and what couldn't be
        read.
        """
        from sightline.core.indexing.indexer import index
        from sightline.core.indexing.report import IndexConfig

        roots = [expand(folder) for folder in folders] or list(self.store.stats().roots)
        if not roots:
            raise InputError("No folder was given and this library knows none yet: sightline index FOLDER")
        config = config or IndexConfig()
        report = index(self.store, self._judged_encoder(roots, config), roots, config=config, on_progress=on_progress)
        if not report.interrupted:
            self._learn_words()
        if self.store.setting(_MODEL_SETTING) != (default := self.default_model) and default is not None:
            self.store.set_setting(_MODEL_SETTING, default)
        return report

    def read_text(self, *folders: str | Path, on_progress: Progress | None = None) -> TextReport:
        """Read the words in images that were never read, of all folders or of some; searches find them at once.

        What was read is kept: a run that was cut short goes on. Raises ModelError where the extra `ocr` isn't
        installed, StoreError where the library can't be written.
        """
        from sightline.core.indexing.text import RapidReader, read_text

        roots: list[Path | None] = [expand(folder) for folder in folders]
        return read_text(self.store, RapidReader(), roots=roots or [None], on_progress=on_progress)

    def _learn_words(self) -> None:
        """Show the model the examples of taught words that it hasn't seen, while they are there."""
        if words := self.store.words():
            from sightline.core.search.teaching import learn

            for word in words:
                with suppress(InputError):  # a search with the word will say that it has to be taught again
                    learn(self.store, self.encoder, word)

    def _judged_encoder(self, roots: Sequence[Path], config: IndexConfig) -> Encoder:
        """The encoder, in int8 where the gate lets it: asked now, where it never was and there are enough pictures."""
        from sightline.core.indexing.reading import sample_images
        from sightline.core.models.loading import load_encoder
        from sightline.core.models.precision import EncoderGate
        from sightline.core.models.quantise.gate import needs_gate, quantise_encoder

        if needs_gate(self.encoder):
            least = EncoderGate().min_images
            pixels = sample_images(roots, self.encoder.card.preprocessing, least, config=config)
            if len(pixels) >= least:
                quantise_encoder(self.encoder.card, pixels, sample="pictures of a library")
                self._encoders[self.model] = load_encoder(self.model)
        return self.encoder

    def remove(self, *, paths: Iterable[str | Path] = (), where: str | None = None) -> int:
        """Forget images by path (a folder stands for all below it) or filter; files on disk stay. The number forgotten.

        Raises InputError where a path names nothing in the library, or where neither is given.
        """
        given = [expand(path) for path in paths]
        if not given and where is None:
            raise InputError("Say what to remove: paths, or a filter with --where.")
        ids: set[int] = set()
        for path in given:
            found = [*self.store.scan(root=path), *filter(None, [self.store.find_path(path)])]
            if not found:
                raise InputError(f"Nothing in this library lies at {path}. `sightline info` lists its folders.")
            ids.update(r.id for r in found if r.id is not None)
        if where is not None:
            ids.update(r.id for r in self.store.scan(where=where) if r.id is not None)
        return self.store.delete(ids)

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
        self,
        *query: str,
        top: int = 10,
        where: str | Mapping[str, str] | None = None,
        min_similarity: float | None = None,
        match: Match = "both",
        each_copy: bool = False,
        add: Sequence[str] = (),
        subtract: Sequence[str] = (),
        like: Sequence[str | Path] = (),
        unlike: Sequence[str | Path] = (),
        rerank: int = 0,
        reranker: str | None = None,
        hub_correction: bool = True,
        min_probability: float | None = None,
        sort: Sort = "relevance",
        plain: bool = False,
    ) -> Hits:
        """Find images by words, `./photo.jpg`, or parts joined with `+` and `-`, weighted as in `2:snow`; best first.

        `add` and `subtract` are further parts. `like` and `unlike` are images that are right and wrong, such as hits
        of a search before: the list is ranked anew, with the right ones in it and without the wrong ones. `match` is
        `both` (what is shown and what is written: names, folders, captions, keywords, text; `Hit.why` says which),
        `pictures` (what is shown alone) or `captions` (only images about which a word of the query is written). Exact
        copies take one place (`Hit.copies` counts them), with `each_copy` one each. The first `rerank` are read again
        by `reranker`, a matcher or a captioner (default: `blip-itm-base` where it can run now, else the default
        captioner). The answer is a list whose `verdict` says whether anything matches; it has `top` hits all the same,
        unless they are to have a `min_probability`, or `sort` is `date`, which gives the newest of those that are
        likely right. Dates and places in the words become filters (`Hits.read_as`), unless `plain`; of a query of
        nothing else the newest come first. `where` may be the short form `{"folder": "holiday", "after": "2023"}`
        (`core.store.filters.join_filters`). Raises InputError for a broken query or filter and for an image that isn't
        there or can't be read, ModelError for the reranker.
        """
        from sightline.core.search.engine import SearchConfig
        from sightline.core.search.query import Part, parse_query
        from sightline.core.store.filters import join_filters

        settings = SearchConfig(
            top=top,
            where=where if where is None or isinstance(where, str) else join_filters(None, **where),
            min_similarity=min_similarity,
            match=match,
            each_copy=each_copy,
            rerank=rerank,
            hub_correction=hub_correction,
            min_probability=min_probability,
            sort=sort,
        )
        marked = [(path, 1.0) for path in like] + [(path, -1.0) for path in unlike]
        marks = [Part(image=self._marked(expand(path)), weight=sign, is_mark=True) for path, sign in marked]
        parts = parse_query(query, add=add, subtract=subtract) if query or add or subtract or not marks else []
        return self._search([*parts, *marks], settings, reranker=reranker, plain=plain)

    def _marked(self, path: Path) -> Path:
        """A file, or an image of the library whose file may be gone. Raises InputError for neither."""
        if is_file(path) or self._row(path) is not None:
            return path
        raise InputError(f"There is no picture {path}, and none in this library. Mark one that a search has found.")

    def similar(self, image: str | Path, *, top: int = 10, where: str | None = None) -> Hits:
        """Images most like another one, which need not be in the library and is left out itself."""
        from sightline.core.search.engine import SearchConfig
        from sightline.core.search.query import Part

        path = expand(image)
        if not is_file(path):
            raise InputError(f"There is no picture {path}.")
        return self._search([Part(image=path)], SearchConfig(top=top, where=where))

    def _search(
        self, parts: Sequence[Part], config: SearchConfig, *, reranker: str | None = None, plain: bool = False
    ) -> Hits:
        from sightline.core.indexing.hubs import fill_aside
        from sightline.core.search.engine import Hits, search
        from sightline.core.search.when_where import KINDS, read_when_where

        if not self._require_vectors():
            return Hits()
        fill_aside(self.store, self.encoder)
        read = read_when_where(self.store, parts, config.where, plain=KINDS if plain else ())
        config = replace(config, where=read.where)
        look_again = partial(self.second_look, reranker)
        if read.parts:
            hits = search(self.store, self.encoder, read.parts, config=config, look_again=look_again)
        else:
            config = replace(config, sort="date", min_probability=0.0, match="pictures", rerank=0)
            hits = search(self.store, self.encoder, parts, config=config)
            hits = Hits(replace(hit, probability=None, why=()) for hit in hits)
        hits.read_as, hits.offered = read.read_as, read.offered
        return hits

    def second_look(self, reranker: str | None = None) -> SecondLook:
        """What reads hits again: a matcher or captioner by name, loaded. Raises ModelError where it can't run."""
        if reranker not in self._looks:
            from sightline.core.models.loading import load_matcher
            from sightline.core.search.rerank import SecondLook

            self._looks[reranker] = SecondLook(load_matcher(reranker), self.path)
        return self._looks[reranker]

    def look_ahead(self, reranker: str | None = None, *, on_progress: Progress | None = None) -> int:
        """Keep what a second look sees of each image, so that `rerank` reads no files; how many images are kept.

        Raises InputError where it is too large to be kept, ModelError where the model can't run.
        """
        return self.second_look(reranker).look_ahead(self.store.scan(), on_progress=on_progress)

    def teach(self, name: str, images: Iterable[str | Path], *, kind: str | None = None) -> TaughtWord:
        """Teach a word of one's own by three to ten images, which queries use like any other; the word as it is now.

        A word that is known gets further examples. `kind` says what it is in a word of the language, such as `dog`: it
        stands for the name inside of sentences. Raises InputError for a name that can't be one, an image that can't be
        read, and a library without images.
        """
        from sightline.core.search.teaching import read_example, teach

        if not self._require_vectors():
            raise InputError("The library is empty, and a word is taught against its images: sightline index FOLDER")
        examples = (read_example(self.store, expand(path)) for path in images)
        return teach(self.store, self.encoder, name, examples, kind=kind)

    def forget(self, name: str) -> None:
        """Forget a taught word; images stay. Raises InputError where there is none of that name."""
        from sightline.core.search.teaching import forget

        forget(self.store, name)

    def words(self) -> list[TaughtWord]:
        """Words that were taught by example, by name."""
        return self.store.words()

    def duplicates(
        self, *, exact_only: bool = False, min_similarity: float | None = None, on_progress: Progress | None = None
    ) -> list[DuplicateGroup]:
        """Groups of exact copies and of copies by their pixels; with a cosine (0.9, say) also of what is alike.

        Images that were indexed before there were sketches are read first, which is kept. `on_progress` takes what is
        done of how many and the name of the step; what it raises ends the search. Images whose file can't be read are
        compared by their bytes alone.
        """
        from sightline.core.search.duplicates import draw_sketches, find_duplicates, find_exact

        if exact_only:
            return find_exact(self.store)
        tell = on_progress or (lambda done, total, what: None)
        if not self.store.read_only:
            draw_sketches(self.store, on_progress=tell)
        model = self.model if min_similarity is not None and self._require_vectors() else None
        return find_duplicates(self.store, model=model, min_similarity=min_similarity, on_progress=tell)

    def set_aside(self, groups: Iterable[DuplicateGroup], folder: str | Path) -> MoveReport:
        """Move all files but the one to keep of each group of copies to a folder; see `core.search.set_aside`."""
        from sightline.core.search.set_aside import set_aside

        return set_aside(self.store, groups, expand(folder))

    def undo_set_aside(self, log: str | Path) -> MoveReport:
        """Move the files that a log of `set_aside` names back to where they were."""
        from sightline.core.search.set_aside import undo

        return undo(self.store, expand(log))

    def _require_vectors(self) -> bool:
        """True where there is anything to search.

        Raises ModelError where only other models have been indexed, StoreError where the vectors were made by other
        weights or another preprocessing under the same name.
        """
        known = self.store.models()
        if not known:
            return False
        if self._chosen_model is None:
            self._chosen_model = self._default_of(known)
        if self.model not in known:
            self._known_model(self.model)
        if known.get(self.model) != self.encoder.identity:
            self.store.add_model(self.encoder.identity)  # known already: this says what differs
        return True

    # --- captions and facts -------------------------------------------------------------------------------------

    def caption(
        self,
        paths: Iterable[str | Path] | None = None,
        *,
        config: CaptionConfig | None = None,
        captioner: str | None = None,
        skip_existing: bool = False,
    ) -> Iterator[DualCaption | CaptionFailure]:
        """Caption images both ways, in order; the captions of those in this library are kept and found by full text.

        `paths` are images and folders; None means every image of the library. `captioner` is the name of the
        generator, `none` for ranked candidates only (default: `blip-base` where it can run now, else the starter;
        `none` with `config.candidates`, whose captions are kept only for images that have none). `skip_existing`
        passes over images of this library that have captions. A file that isn't there or can't be read is given as a
        failure. Raises ModelError where a model can't run, before the first picture.
        """
        chosen = self.images() if paths is None else list_images(paths)
        if skip_existing:
            chosen = [path for path in chosen if not self._has_captions(self._row(path))]
        results = _caption(chosen, encoder=self.encoder, captioner=captioner, config=config)
        return self._keep_captions(results, own_candidates=config is not None and config.candidates is not None)

    def _row(self, path: Path) -> int | None:
        record = self.store.find_path(path.absolute())
        return None if record is None else record.id

    def _has_captions(self, row: int | None) -> bool:
        return row is not None and bool(self.store.captions([row])[row])

    def _keep_captions(
        self, results: Iterable[DualCaption | CaptionFailure], *, own_candidates: bool
    ) -> Iterator[DualCaption | CaptionFailure]:
        """Write each result's captions before it is passed on: what the caller has seen is kept."""
        from sightline.core.captioning.dual import DualCaption

        for result in results:
            row = self._row(result.path) if isinstance(result, DualCaption) else None
            if isinstance(result, DualCaption) and row is not None:
                self.keep_captions(row, result, own_candidates=own_candidates)
            yield result

    def keep_captions(self, image_id: int, result: DualCaption, *, own_candidates: bool = False) -> None:
        """Keep an image's captions in place of earlier ones; one that the user wrote stays, and stays the best.

        Those of `own_candidates` answer a question of their own: they are kept where the image has none, and replace
        nothing. Raises StoreError for an unknown id.
        """
        if own_candidates and self._has_captions(image_id):
            return
        # Lower candidates than the best would only blur full text.
        captions = list(dict.fromkeys([result.best, *result.clip[:1], *result.generated]))
        if any(known.best and known.source == "user" for known in self.store.captions([image_id])[image_id]):
            captions = [replace(caption, best=False) for caption in captions]
        self.store.put_captions({image_id: captions})

    def images(self, *, where: str | None = None) -> list[Path]:
        """Files of the library's images, by folder and path, under a filter."""
        return [record.path for record in self.store.scan(where=where)]

    def info(self, image: str | Path | None = None) -> dict[str, Any]:
        """Counts, folders, models and what could not be read, as plain values; or all that is known of one image.

        Of an image, `text` holds the lines that were read in it, each with its corners in parts of the upright image's
        sides; None where it was never read. Raises InputError for an image that isn't in the library.
        """
        if image is not None:
            return self._image_info(expand(image).absolute())
        stats = self.store.stats()
        return {
            "library": str(self.path.absolute()),
            "images": stats.images,
            "captions": stats.captions,
            "model": self.default_model,
            "models": dict(stats.models),
            "folders": [str(root) for root in stats.roots],
            "unreadable": len(self.store.failures()),
            "size_bytes": stats.size_bytes,
        }

    def _image_info(self, path: Path) -> dict[str, Any]:
        record = self.store.find_path(path)
        if record is None or record.id is None:
            raise InputError(f"{path} isn't in this library. Index its folder, or give the path as a search shows it.")
        reading = self.store.readings([record.content_hash]).get(record.content_hash)
        return {
            "id": record.id,
            "path": str(record.path),
            **{name: value for name, value in asdict(record.info).items() if name != "pixels_version"},
            "facts": record.info.facts.told,
            "captions": [asdict(caption) for caption in self.store.captions([record.id])[record.id]],
            "text": None if reading is None else [asdict(line) for line in reading.lines],
        }


def caption(
    paths: Iterable[str | Path],
    *,
    model: str | None = None,
    captioner: str | None = None,
    config: CaptionConfig | None = None,
) -> Iterator[DualCaption | CaptionFailure]:
    """Caption images and folders of images both ways, without a library; see `Library.caption`."""
    from sightline.core.models.loading import default_model_name, load_encoder

    encoder = load_encoder(model or default_model_name(confirm=None)[0])
    return _caption(list_images(paths), encoder=encoder, captioner=captioner, config=config)


def list_images(paths: Iterable[str | Path]) -> list[Path]:
    """Images as given, and those below folders, each once; what can't be read or isn't there stays in the list."""
    from sightline.core.images.files import walk_images

    images: dict[Path, None] = {}
    for path in map(expand, paths):
        if path.is_dir():
            files = walk_images(path, on_problem=lambda problem, _: images.setdefault(problem))
            images.update((file.path, None) for file in files)
        else:
            images[path] = None
    return list(images)


def _caption(
    paths: Sequence[Path], *, encoder: Encoder, captioner: str | None, config: CaptionConfig | None
) -> Iterator[DualCaption | CaptionFailure]:
    from sightline.core.captioning.dual import caption_images
    from sightline.core.models.loading import default_captioner, load_captioner

    name = captioner or default_captioner(own_candidates=config is not None and config.candidates is not None)
    generator = None if name == "none" else load_captioner(name)
    return caption_images(paths, encoder=encoder, captioner=generator, config=config)

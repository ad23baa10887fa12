"""The embedded store: SQLite holds the truth, a memory-mapped int8 matrix derived from it is scanned exactly.

One folder is one library: `library.db`, `vectors/` (derived, may be deleted), `README.txt`. See `docs/format.md`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.store import rows, texts, vectors, words
from sightline.core.store.base import Entry, Failure, Lift, Store, WordRows
from sightline.core.store.database import DATABASE_NAME, SCHEMA_VERSION, connect, explain
from sightline.core.store.filters import FIELDS, compile_filter, make_functions
from sightline.core.store.matrix import READ_ROWS, Matrices, Wanted
from sightline.core.store.rows import Roots, Sql
from sightline.core.types import (
    SIDECAR_MARK,
    Caption,
    CaptionSource,
    ImageRecord,
    ModelIdentity,
    StoreStats,
    TaughtWord,
    TextReading,
)
from sightline.errors import InputError, StoreError

_SCAN_ROWS = 1000
_KEPT_ANSWERS = 8
_BY_PATH = "(select path from roots where roots.id = images.root_id), images.relative"
_NEWEST_FIRST = f"coalesce(images.taken_at, {FIELDS['modified_at'].sql}) desc, images.id desc"
_HAS_VECTOR = "exists (select 1 from vectors where image_id = images.id and model_id = ?)"
_README = """\
This folder is a Sightline library: what is known of your images, not the images themselves.

library.db  the truth: paths, captions, vectors. Copy it to keep a backup (while no sightline is running).
vectors/    derived from library.db for fast search; may be deleted, and is made again.
"""


def open_store(path: Path, *, create: bool = True, read_only: bool = False) -> SqliteStore:
    """Open the library in a folder, made when missing if `create`.

    With `read_only` nothing in `library.db` changes and a read-only medium will do; the derived matrices are still
    refreshed where the folder can be written. Raises StoreError where there is no library, it can't be opened, it was
    written by a newer Sightline, or the file is damaged or something else.
    """
    folder = rows.normalise(path)
    if not (folder / DATABASE_NAME).exists():
        if read_only or not create:
            raise StoreError(f"There is no library at {folder}. `sightline index DIR --library {folder}` makes one.")
        _make_folder(folder)
    return SqliteStore(folder, read_only=read_only)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (readme := folder / "README.txt").exists():
            readme.write_text(_README, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"No library can be made at {folder}: {error.strerror or error}. Choose a folder that you may write."
        ) from error


class Database:
    """A connection that threads share under a lock; a write is one transaction, a read sees one state.

    Not to be carried over a fork: open the library again in the child.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self.path = folder / DATABASE_NAME
        self.read_only = read_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = connect(self.path, read_only=read_only)
        make_functions(self._connection)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"The library at {self.path.parent} was closed; open it again.")
        return self._connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, with every statement inside seeing the same state. Raises StoreError."""
        with self._lock:
            db = self._connected()
            is_inner = db.in_transaction
            try:
                if not is_inner:
                    db.execute("begin")
                yield db
            except (sqlite3.Error, UnicodeEncodeError) as error:
                raise explain(error, self.path) from error
            finally:
                if not is_inner:
                    # After some errors SQLite has ended the transaction by itself.
                    with suppress(sqlite3.Error):
                        db.execute("rollback")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a write transaction: committed at the end, undone on any exception. Raises StoreError."""
        with self._lock:
            db = self._connected()
            if self.read_only:
                raise StoreError(f"The library at {self.path.parent} was opened for reading only.")
            try:
                if db.in_transaction:  # a read that Ctrl-C cut short just before it ended
                    db.execute("rollback")
                db.execute("begin immediate")
                yield db
                db.execute("commit")
            except BaseException as error:
                # A rollback that fails too (the disk again) leaves the log uncommitted, which SQLite ignores later.
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("rollback")
                if isinstance(error, (sqlite3.Error, UnicodeEncodeError)):
                    raise explain(error, self.path) from error
                raise


@contextmanager
def _read_apart(folder: Path) -> Iterator[sqlite3.Connection]:
    """A library as a connection of its own sees it."""
    with closing(Database(folder, read_only=True)) as reader, reader.reading() as db:
        yield db


class SqliteStore(Store):
    """A library in one folder. Threads may share it; processes open it each for itself.

    `Store` says what each method promises; here stands only what this backend adds.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._database = Database(folder, read_only=read_only)
        self._roots = Roots(folder)
        self._matrices = Matrices(folder / "vectors", open_reader=partial(_read_apart, folder))
        self._aside: dict[str, threading.Thread] = {}
        self._written = 0
        self._state: tuple[int, int] | None = None
        self._answers: OrderedDict[Sql, NDArray[np.int64]] = OrderedDict()
        self._equal_rows: dict[int, int] | None = None
        self._place_names: frozenset[str] | None = None

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def read_only(self) -> bool:
        """True where nothing of the library can be changed."""
        return self._database.read_only

    def run_aside(self, name: str, work: Callable[[], object]) -> None:
        """Do some work on the library in a thread, unless work of this name is under way; closing waits for it.

        Of a library that is damaged or busy the next call tells, so StoreError ends the work silently.
        """

        def run() -> None:
            with suppress(StoreError):
                work()

        running = self._aside.get(name)
        if running is None or not running.is_alive():
            self._aside[name] = threading.Thread(target=run, name=f"sightline-{name}", daemon=True)
            self._aside[name].start()

    def close(self) -> None:
        """Release files; closing twice is harmless, any other use afterwards raises StoreError.

        Where many vectors were written or a matrix is being made, this waits until its file is there: the next process
        shall search at once. Ctrl-C cuts that short.
        """
        for thread in list(self._aside.values()):
            thread.join()
        self._aside.clear()
        if self._written > READ_ROWS:
            with suppress(StoreError), self._database.reading() as db:  # what is lacking is made by the next search
                for model in vectors.list_models(db).values():
                    self._matrices.current(db, model)
        self._written = 0
        self._matrices.close()
        self._database.close()

    # Models and their vectors

    def add_model(self, identity: ModelIdentity) -> None:
        with self._database.reading() as db:
            if vectors.is_known(db, identity):
                return
        with self._database.writing() as db:
            vectors.add_model(db, identity)

    def models(self) -> dict[str, ModelIdentity]:
        with self._database.reading() as db:
            return {name: model.identity for name, model in vectors.list_models(db).items()}

    def set_model_aside(self, name: str) -> str:
        """Keep a model's vectors as `NAME@HASH`, which is given, so that its own name is free for new ones."""
        with self._database.writing() as db:
            model = vectors.get_model(db, name)
            aside = f"{name}@{model.identity.weights_hash[:8]}"
            db.execute("update models set name = ? where id = ?", (aside, model.id))
        return aside

    def remove_model(self, name: str) -> int:
        with self._database.writing() as db:
            model = vectors.get_model(db, name)
            dropped = db.execute("delete from vectors where model_id = ?", (model.id,)).rowcount
            db.execute("delete from models where id = ?", (model.id,))
        self._matrices.remove(model.id)
        return dropped

    def vectors(self, model: str, ids: Sequence[int] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        with self._database.reading() as db:
            return vectors.gather_vectors(db, vectors.get_model(db, model), ids)

    def missing_vectors(self, model: str, root: Path | None = None) -> set[int]:
        with self._database.reading() as db:
            known = vectors.get_model(db, model)
            scope = self._condition(db, root=root)
            return set(rows.read_ids(db, Sql(f"{scope.text} and not {_HAS_VECTOR}", (*scope.parameters, known.id))))

    # Copies

    def sketches(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        with self._database.reading() as db:
            return rows.read_sketches(db)

    def missing_sketches(self) -> set[int]:
        with self._database.reading() as db:
            return rows.read_unsketched(db)

    def put_sketches(self, sketches: Mapping[str, NDArray[np.uint8]]) -> None:
        with self._database.writing() as db:
            rows.put_sketches(db, sketches)

    def unread(self, root: Path | None = None) -> list[ImageRecord]:
        with self._database.reading() as db:
            scope = self._condition(db, root=root)
            never = "not exists (select 1 from readings where readings.content_hash = images.content_hash)"
            ids = rows.read_ids(db, Sql(f"{scope.text} and {never}", scope.parameters), order_by=_BY_PATH)
        first: dict[str, ImageRecord] = {}
        for record in self._scan(ids):
            first.setdefault(record.content_hash, record)
        return list(first.values())

    def put_readings(self, readings: Mapping[str, TextReading]) -> None:
        with self._database.writing() as db:
            rows.put_readings(db, readings)

    def readings(self, content_hashes: Iterable[str]) -> dict[str, TextReading]:
        with self._database.reading() as db:
            return rows.read_readings(db, content_hashes)

    def equal_rows(self) -> Mapping[int, int]:
        """The rows that share their content with others -> the lowest id among those; kept until the next write."""
        with self._database.reading() as db:
            self._forget_if_written(db)
            if self._equal_rows is None:
                self._equal_rows = rows.read_equal_rows(db)
            return self._equal_rows

    def query(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        model: str,
        where: str | None = None,
        exclude: Iterable[int] = (),
        hub_weight: float = 0.0,
        lift: Lift | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> list[tuple[int, float]]:
        excluded = np.array(sorted({int(id_) for id_ in exclude}), dtype=np.int64)
        with self._database.reading() as db:
            known = vectors.get_model(db, model)
            kept = self._kept(db, where)
            if among is not None:
                kept = among if kept is None else np.intersect1d(among, kept)
            wanted = Wanted(
                query=vector, k=_checked_k(k), kept=kept, excluded=excluded, hub_weight=hub_weight, lift=lift
            )
            return self._matrices.nearest(db, known, wanted)

    def background(
        self, vector: NDArray[np.float32], sample: int, *, model: str, where: str | None = None, hub_weight: float = 0.0
    ) -> tuple[int, NDArray[np.float32]]:
        """How many rows a filter leaves, and what `sample` of them (S,), evenly spread by id, rank by as in `query`.

        Cosines are those of the int8 rows, exact to about 0.002. Raises InputError as `query` does.
        """
        none = np.empty(0, dtype=np.int64)
        with self._database.reading() as db:
            kept = self._kept(db, where)
            wanted = Wanted(query=vector, k=_checked_k(sample), kept=kept, excluded=none, hub_weight=hub_weight)
            return self._matrices.sample(db, vectors.get_model(db, model), wanted)

    def _kept(self, db: sqlite3.Connection, where: str | None) -> NDArray[np.int64] | None:
        return None if where is None else self._select_ids(db, self._condition(db, where=where))

    def knows_hubness(self, model: str, bank: str) -> bool:
        with self._database.reading() as db:
            known = vectors.list_models(db).get(model)
            return known is not None and known.hub_bank == bank and self._matrices.current(db, known).knows_hubs

    def hubness(self, model: str, ids: Sequence[int]) -> dict[int, float]:
        with self._database.reading() as db:
            if not vectors.has_hubness(db):
                return {}
            found_N, hubness_N = vectors.read_hubness(db, vectors.get_model(db, model), ids)
            return dict(zip(found_N.tolist(), hubness_N.tolist(), strict=True))

    def missing_hubness(self, model: str, bank: str) -> NDArray[np.int64]:
        with self._database.reading() as db:
            known = vectors.get_model(db, model)
            ids_N, _, hubness_N = vectors.read_table(db, known)
            return ids_N[np.isnan(hubness_N)] if known.hub_bank == bank else ids_N

    def put_hubness(self, model: str, bank: str, values: Mapping[int, float]) -> None:
        with self._database.writing() as db:
            vectors.take_hub_bank(db, vectors.get_model(db, model), bank)
            if values:
                vectors.put_hubness(db, vectors.get_model(db, model), values)

    # Images

    def upsert(self, entries: Sequence[Entry], *, failures: Sequence[Failure] = ()) -> list[int]:
        """Write entries and failures in one transaction; the ids of the rows, in order.

        An image whose root lies inside a known root is kept under that one; known roots inside a new root become part
        of it. A row that another one is renamed onto is removed.
        """
        with self._database.writing() as db:
            ids = rows.put_entries(db, self._roots, entries, failures=failures)
        self._written += sum(len(entry.embeddings) for entry in entries)
        return ids

    def delete(self, ids: Iterable[int]) -> int:
        with self._database.writing() as db:
            removed = rows.delete_images(db, ids)
            rows.prune_roots(db)
        return removed

    def get(self, ids: Sequence[int]) -> list[ImageRecord]:
        with self._database.reading() as db:
            records = rows.get_records(db, self._roots, ids)
            if len(records) < len(ids):
                rows.check_known(db, ids)
            return records

    def scan(self, *, where: str | None = None, root: Path | None = None) -> Iterator[ImageRecord]:
        """All records by root and path, under a filter, below a folder; rows deleted meanwhile are left out."""
        with self._database.reading() as db:
            ids = rows.read_ids(db, self._condition(db, where=where, root=root), order_by=_BY_PATH)
        return self._scan(ids)

    def _scan(self, ids: Sequence[int]) -> Iterator[ImageRecord]:
        for start in range(0, len(ids), _SCAN_ROWS):
            with self._database.reading() as db:
                records = rows.get_records(db, self._roots, ids[start : start + _SCAN_ROWS])
            yield from records

    def outdated(self, *, facts: int, pixels: int) -> Iterator[ImageRecord]:
        older = Sql(f"images.facts_version % {SIDECAR_MARK} < ? or images.pixels_version < ?", (facts, pixels))
        with self._database.reading() as db:
            return self._scan(rows.read_ids(db, older, order_by=_BY_PATH))

    def ids(self, *, where: str | None = None, model: str | None = None) -> NDArray[np.int64]:
        with self._database.reading() as db:
            ids_N = self._select_ids(db, Sql(f"true order by {_NEWEST_FIRST}"))
            if where is not None:
                ids_N = ids_N[vectors.are_among(ids_N, self._select_ids(db, self._condition(db, where=where)))]
            if model is not None:
                embedded = self._select_ids(db, Sql(_HAS_VECTOR, (vectors.get_model(db, model).id,)))
                ids_N = ids_N[vectors.are_among(ids_N, embedded)]
            return ids_N

    def count(self, *, where: str) -> int:
        with self._database.reading() as db:
            return len(self._select_ids(db, self._condition(db, where=where)))

    def _select_ids(self, db: sqlite3.Connection, condition: Sql) -> NDArray[np.int64]:
        """Ids of the images that meet a condition, in its order; the latest answers are kept until the next write."""
        self._forget_if_written(db)
        if condition not in self._answers:
            # By way of one text, which takes half the time of rows.
            sql = f"select group_concat(id) from (select images.id as id from images where {condition.text})"
            joined = db.execute(sql, condition.parameters).fetchone()[0]
            self._answers[condition] = np.fromstring(joined or "", dtype=np.int64, sep=",")
            self._answers[condition].setflags(write=False)
        self._answers.move_to_end(condition)
        if len(self._answers) > _KEPT_ANSWERS:
            self._answers.popitem(last=False)
        return self._answers[condition]

    def _forget_if_written(self, db: sqlite3.Connection) -> None:
        # The first number changes with every commit of other connections, the second with every change of this one.
        state = int(db.execute("pragma data_version").fetchone()[0]), db.total_changes
        if state != self._state:
            self._state = state
            self._answers.clear()
            self._equal_rows = None
            self._place_names = None

    def find_path(self, path: Path) -> ImageRecord | None:
        with self._database.reading() as db:
            return rows.find_record(db, self._roots, path)

    def find_hash(self, content_hash: str) -> list[ImageRecord]:
        with self._database.reading() as db:
            return rows.read_records(db, self._roots, Sql("content_hash = ? order by id", (content_hash,)))

    def resolve_root(self, path: Path) -> tuple[Path, str]:
        """Under which root a folder is indexed, and its path below that root (empty for the root itself).

        Known roots inside a new folder become part of it at once (their rows keep ids, vectors and captions), unless
        the library is open for reading only.
        """
        folder = rows.resolve(path)
        with self._database.reading() as db:
            related = self._roots.related(db, folder)
            for scope, holds in related:
                if holds:
                    return self._roots.load(db)[scope.root_id], scope.prefix
        if related and not self._database.read_only:
            with self._database.writing() as db:
                self._roots.ensure(db, folder)
        return folder, ""

    # Facts and places

    def written_ns(self, id_: int) -> int:
        with self._database.reading() as db:
            row = db.execute("select indexed_at_ns from images where id = ?", (id_,)).fetchone()
        return 0 if row is None else int(row[0])

    def unplaced(self) -> dict[int, tuple[float, float]]:
        with self._database.reading() as db:
            return rows.read_unplaced(db)

    def put_places(self, places: Mapping[int, tuple[str | None, str | None, str | None]]) -> None:
        with self._database.writing() as db:
            rows.put_places(db, places)

    def place_names(self) -> frozenset[str]:
        """Kept until the next write."""
        with self._database.reading() as db:
            self._forget_if_written(db)
            if self._place_names is None:
                self._place_names = rows.read_place_names(db)
            return self._place_names

    # Captions and text

    def match(
        self, text: str, k: int, *, where: str | None = None, without: Sequence[str] = (), typing: bool = False
    ) -> list[tuple[int, float]]:
        """Full-text matches in all that is written about images: (id, relevance), best first.

        Rows match that hold any of the words, in any of their forms; with `typing`, also the beginning that the last
        word is. Relevance is BM25, so rows with more and rarer words come first; it is comparable within one result
        only. Rows that hold all words of a text of `without`, stop words aside, are left out.
        """
        with self._database.reading() as db:
            condition = self._condition(db, where=where)
            return texts.match_texts(db, text, _checked_k(k), condition, without=without, typing=typing)

    def find_words(self, text: str, *, typing: bool = False) -> tuple[list[WordRows], int]:
        with self._database.reading() as db:
            return texts.find_words(db, text, typing=typing)

    def find_names(self, text: str) -> NDArray[np.int64]:
        with self._database.reading() as db:
            return texts.find_names(db, text)

    def holding(self, unwanted: Sequence[str]) -> NDArray[np.int64]:
        with self._database.reading() as db:
            return texts.find_holding(db, unwanted)

    def put_captions(self, captions: Mapping[int, Sequence[Caption]]) -> None:
        with self._database.writing() as db:
            rows.put_captions(db, captions)

    def remove_captions(self, ids: Iterable[int], source: CaptionSource) -> int:
        with self._database.writing() as db:
            return rows.remove_captions(db, ids, source)

    def captions(self, ids: Sequence[int]) -> dict[int, list[Caption]]:
        with self._database.reading() as db:
            return rows.read_captions(db, ids)

    # Words of the user's own

    def words(self) -> list[TaughtWord]:
        with self._database.reading() as db:
            return words.list_words(db)

    def put_word(self, word: TaughtWord) -> None:
        with self._database.writing() as db:
            words.put_word(db, word)

    def remove_word(self, name: str) -> bool:
        with self._database.writing() as db:
            return words.remove_word(db, name)

    def example_vectors(self, model: str, name: str) -> dict[str, NDArray[np.float32]]:
        with self._database.reading() as db:
            return words.read_example_vectors(db, vectors.get_model(db, model), name)

    def put_example_vectors(self, model: str, name: str, given: Mapping[str, NDArray[np.float32]]) -> None:
        with self._database.writing() as db:
            words.put_example_vectors(db, vectors.get_model(db, model), name, given)

    # Failures, settings, figures

    def failures(self, root: Path | None = None) -> list[Failure]:
        with self._database.reading() as db:
            return rows.read_failures(db, self._roots, root)

    def forget_failures(self, root: Path, relatives: Iterable[str]) -> None:
        with self._database.writing() as db:
            rows.forget_failures(db, self._roots, root, relatives)
            rows.prune_roots(db)

    def setting(self, name: str) -> str | None:
        with self._database.reading() as db:
            row = db.execute("select value from settings where name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, name: str, value: str) -> None:
        with self._database.writing() as db:
            db.execute("insert or replace into settings (name, value) values (?, ?)", (name, value))

    def stats(self) -> StoreStats:
        """Counts, roots and size on disk. `extra` has `failures`, `schema_version` and `offline_roots`."""
        with self._database.reading() as db:
            images, captions, failures = (
                int(db.execute(f"select count(*) from {table}").fetchone()[0])
                for table in ("images", "captions", "failures")
            )
            per_model = "select count(*) from vectors where model_id = ?"
            models = {
                name: int(db.execute(per_model, (model.id,)).fetchone()[0])
                for name, model in vectors.list_models(db).items()
            }
            roots = tuple(self._roots.load(db).values())
        return StoreStats(
            images=images,
            captions=captions,
            roots=roots,
            models=models,
            size_bytes=self._size_bytes(),
            extra={
                "failures": failures,
                "schema_version": SCHEMA_VERSION,
                "offline_roots": tuple(root for root in roots if not root.exists()),
            },
        )

    def _size_bytes(self) -> int:
        size_bytes = 0
        for file in (*self.folder.glob(f"{DATABASE_NAME}*"), *(self.folder / "vectors").glob("*")):
            with suppress(FileNotFoundError):  # another process can end its log, or rename a matrix
                size_bytes += file.stat().st_size
        return size_bytes

    def _condition(self, db: sqlite3.Connection, *, where: str | None = None, root: Path | None = None) -> Sql:
        """A filter and a folder as one condition over `images`."""
        scope = Sql("true") if root is None else self._roots.condition(db, root, table="images")
        if where is None:
            return scope
        asked = compile_filter(where, self._roots.load(db))
        return Sql(f"({scope.text} and {asked.text})", (*scope.parameters, *asked.parameters))


def _checked_k(k: int) -> int:
    if k < 1:
        raise InputError(f"{k} results were asked for; ask for at least 1.")
    return min(k, 2**31)

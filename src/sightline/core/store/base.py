"""The contract of a store: what keeps images, captions and vectors. Every backend passes `tests/contract`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.core.types import (
    Caption,
    CaptionSource,
    Embedding,
    ImageRecord,
    ModelIdentity,
    StoreStats,
    TaughtWord,
    TextKind,
    TextReading,
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image to write, with what was computed for it."""

    image: ImageRecord
    """`image.id` None makes a new row (or replaces the row of the same root and relative path); an id updates that
    row, its path too: a renamed file keeps its row, its vectors and its captions. An id whose row is gone counts as
    None."""
    embeddings: Sequence[Embedding] = ()
    keep_vectors: bool = True
    """False drops vectors of other models: the pixels changed. Captions are dropped with them, but the user's stay."""
    keep_captions: bool = False
    """True keeps all captions where vectors are dropped: the same picture, whose pixels are read otherwise."""
    same_pixels_as: int | None = None
    """A row with the same content: this one gets its vectors too, and, where its own were dropped, its captions in
    place of all it had, also the user's; all as they were before this write. Nothing is taken from a row that is gone
    or has other content by then."""
    sketch: NDArray[np.uint8] | None = None
    """`make_sketch` of the pixels, where they were decoded; kept for the content, whichever rows have it."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be read, remembered so that an unchanged one is not tried at every run."""

    root: Path
    relative: str
    size_bytes: int
    mtime_ns: int
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class WordRows:
    """Where a word of a query is written, or words that begin with it."""

    position: int
    """Of the word in the query, among those that tell something."""
    count: int
    """Rows that hold it, anywhere."""
    rows: Mapping[TextKind, NDArray[np.int64]]
    """Ids (N,), ascending, of those that hold it there."""
    is_debris: bool = False
    """True for digits and what cameras put into names: of a name they tell something only together with the rest."""
    is_beginning: bool = False
    """True for longer words that begin with it, while it is being typed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lift:
    """What some rows rank by beside their cosine."""

    ids: NDArray[np.int64]
    """(N,), without repetitions."""
    values: NDArray[np.float32]
    """(N,), added to the cosine."""

    def of(self, ids_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """The lift (M,) of rows; 0 of all others."""
        values = np.zeros(self.ids.max(initial=0) + 2, dtype=np.float32)  # by id; the last one stands for all above
        values[self.ids] = self.values
        lift_M: NDArray[np.float32] = values[np.minimum(ids_M, len(values) - 1)]
        return lift_M


class Store(Protocol):
    """Images, captions and vectors of several models. A write is all or nothing. Errors are StoreError."""

    @property
    def read_only(self) -> bool:
        """True where writes are refused."""

    def close(self) -> None:
        """Release files; the store is not used afterwards."""

    def add_model(self, identity: ModelIdentity) -> None:
        """Make room for a model's vectors. Raises StoreError where the name is known with another identity."""

    def models(self) -> dict[str, ModelIdentity]:
        """The models whose vectors are kept, in order of arrival."""

    def set_model_aside(self, name: str) -> str:
        """Keep a model's vectors under another name, which is given, so that its own is free for new ones."""

    def remove_model(self, name: str) -> int:
        """Drop a model and its vectors; the number of vectors dropped. Raises StoreError for an unknown name."""

    def upsert(self, entries: Sequence[Entry], *, failures: Sequence[Failure] = ()) -> list[int]:
        """Write entries and failures in one transaction; the ids of the rows, in order.

        A written path's old failure is forgotten. Raises StoreError for an unknown model, a vector that is refused, or
        a full disk.
        """

    def delete(self, ids: Iterable[int]) -> int:
        """Remove rows with their vectors and captions; the number removed."""

    def get(self, ids: Sequence[int]) -> list[ImageRecord]:
        """Records in the order asked. Raises StoreError for an unknown id."""

    def scan(self, *, where: str | None = None, root: Path | None = None) -> Iterator[ImageRecord]:
        """All records by root and path, under a filter, below a folder."""

    def outdated(self, *, facts: int, pixels: int) -> Iterator[ImageRecord]:
        """The records whose facts or pixels were read by older rules than these versions, by root and path."""

    def ids(self, *, where: str | None = None, model: str | None = None) -> NDArray[np.int64]:
        """Ids (N,) of all rows under a filter, of those with a vector of a model; newest first, ties by higher id.

        What counts is when an image was taken, or, where that isn't known, when its file was last changed.
        """

    def find_path(self, path: Path) -> ImageRecord | None:
        """The record of a file, by absolute path, also through symbolic links."""

    def resolve_root(self, path: Path) -> tuple[Path, str]:
        """Under which root a folder is indexed, and its path below that root (empty for the root itself).

        Symbolic links are followed; no root lies inside another.
        """

    def find_hash(self, content_hash: str) -> list[ImageRecord]:
        """Every record with these bytes, by id."""

    def vectors(self, model: str, ids: Sequence[int] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids (N,) ascending and unit vectors (N, D) of a model; of all rows, or of those of `ids` that have one."""

    def missing_vectors(self, model: str, root: Path | None = None) -> set[int]:
        """Ids of the rows, all or those below a folder, that have no vector of this model."""

    def sketches(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Of each content that has a sketch: the lowest id (N,) of its rows, ascending, and the sketch (N, 32, 32)."""

    def missing_sketches(self) -> set[int]:
        """Ids of the rows whose content has no sketch."""

    def put_sketches(self, sketches: Mapping[str, NDArray[np.uint8]]) -> None:
        """Keep sketches by content hash, in one transaction; those of content that no row has are left out."""

    def unread(self, root: Path | None = None) -> list[ImageRecord]:
        """One record for each content, all or those below a folder, whose text was never read, by root and path."""

    def put_readings(self, readings: Mapping[str, TextReading]) -> None:
        """Keep what was read by content hash, in one transaction, and find the images by it.

        Readings of content that no row has are left out.
        """

    def readings(self, content_hashes: Iterable[str]) -> dict[str, TextReading]:
        """What was read in contents; those that were never read are left out."""

    def equal_rows(self) -> Mapping[int, int]:
        """The rows that share their content with others -> the lowest id among those."""

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
        """The k best rows (id, cosine), best first, ties by id. `vector` is (D,) and is normalised here.

        Exact under filters and exclusions, and among some ids. Rows rank by `cosine - hub_weight * hubness`, or by
        cosine alone where a vector's hubness isn't known, and by their lift beside. Raises InputError for a vector of
        another dimension, zero or not finite, and for a filter that can't be read.
        """

    def background(
        self, vector: NDArray[np.float32], sample: int, *, model: str, where: str | None = None, hub_weight: float = 0.0
    ) -> tuple[int, NDArray[np.float32]]:
        """How many rows a filter leaves, and what `sample` of them (S,) rank by as in `query`."""

    def knows_hubness(self, model: str, bank: str) -> bool:
        """True where a bank has measured every vector of a model: only then hubs are corrected."""

    def hubness(self, model: str, ids: Sequence[int]) -> dict[int, float]:
        """The hubness of those of some images that have one, by id."""

    def missing_hubness(self, model: str, bank: str) -> NDArray[np.int64]:
        """Ids (N,) ascending of the images whose vectors have no hubness by this bank."""

    def put_hubness(self, model: str, bank: str, values: Mapping[int, float]) -> None:
        """Keep the hubness of images by id, as a bank measured it, in one transaction.

        What another bank measured is forgotten, so that there is one measure for all of a model's vectors. Images
        without a vector are passed over. Raises StoreError for a number that is no mean of cosines.
        """

    def count(self, *, where: str) -> int:
        """The number of images that pass a filter."""

    def written_ns(self, id_: int) -> int:
        """When a row was last written; 0 where it is gone."""

    def unplaced(self) -> Mapping[int, tuple[float, float]]:
        """Latitude and longitude of the rows whose place was not looked up."""

    def put_places(self, places: Mapping[int, tuple[str | None, str | None, str | None]]) -> None:
        """Give rows city, region and country, where their files tell of none; they count as looked up."""

    def place_names(self) -> Set[str]:
        """Names of cities, regions and countries in which images were taken."""

    def match(
        self, text: str, k: int, *, where: str | None = None, without: Sequence[str] = (), typing: bool = False
    ) -> list[tuple[int, float]]:
        """Full-text matches in all that is written about images: (id, relevance), best first.

        With `typing` the last word may be the beginning of one, after all that hold whole words. Images that hold all
        words of a text of `without`, stop words aside, are left out.
        """

    def find_words(self, text: str, *, typing: bool = False) -> tuple[list[WordRows], int]:
        """Where the words of a query are written, stop words aside, and the number of images in all.

        Of a word that very many rows hold, only those are given that hold all words of the query in one place.
        """

    def find_names(self, text: str) -> NDArray[np.int64]:
        """Ids (N,), ascending, of images whose file has this name, with or without its extension, in any spelling."""

    def holding(self, unwanted: Sequence[str]) -> NDArray[np.int64]:
        """Ids (N,), ascending, of images about which all words of one of some texts are written, stop words aside."""

    def put_captions(self, captions: Mapping[int, Sequence[Caption]]) -> None:
        """Replace each image's captions of the sources given, in one transaction; other sources stay.

        Where one of them is the best, the image's former best is no longer. Raises StoreError for an unknown id.
        """

    def remove_captions(self, ids: Iterable[int], source: CaptionSource) -> int:
        """Drop the captions of one source, in one transaction; the number dropped."""

    def captions(self, ids: Sequence[int]) -> dict[int, list[Caption]]:
        """Captions of images, the best first; images without captions map to an empty list."""

    def words(self) -> list[TaughtWord]:
        """Words that were taught by example, by name."""

    def put_word(self, word: TaughtWord) -> None:
        """Keep a word in place of one of the same name (in any case); vectors of examples that it had before stay."""

    def remove_word(self, name: str) -> bool:
        """Forget a word with its examples; False where there is none."""

    def example_vectors(self, model: str, name: str) -> dict[str, NDArray[np.float32]]:
        """Unit vectors (D,) of a word's examples by content hash: those that this model has."""

    def put_example_vectors(self, model: str, name: str, given: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors (D,) of a word's examples by content hash, also without the images being in the library.

        Raises StoreError for a vector that is refused.
        """

    def failures(self, root: Path | None = None) -> list[Failure]:
        """Files that could not be read, by path; all or those below a folder."""

    def forget_failures(self, root: Path, relatives: Iterable[str]) -> None:
        """Drop remembered failures of files that are gone."""

    def setting(self, name: str) -> str | None:
        """A value kept with the library, such as the default model; None where unset."""

    def set_setting(self, name: str, value: str) -> None:
        """Keep a value with the library."""

    def stats(self) -> StoreStats:
        """Counts, roots and size on disk."""

"""What every format becomes: a `Dataset` of `Pair`s of one split. Shape suffixes: H W height and width."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class ImageSource(Protocol):
    """Where one picture comes from: a file, a stretch of a tar, a row of a table, a scene that is rendered.

    Small, hashable and picklable, so that datasets of millions fit in memory and worker processes can read.
    """

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where it can't be read.

        With `min_side_px` the picture may come smaller than it is, its shorter side at least that (or its full size),
        where a source can do so faster; a source that can't ignores it.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FileImage:
    """A picture in a file of its own."""

    path: Path

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the file can't be read."""
        from sightline.core.images.decode import read_picture

        return read_picture(self.path, min_side_px=min_side_px).rgb


@dataclass(frozen=True, kw_only=True, slots=True)
class HardNegative:
    """A sentence that is false of a picture and differs in one thing from one that is true of it."""

    caption: str
    """The true sentence."""
    negative: str
    kind: str
    """What differs: `attribute` and `relation` are swaps (the words are the same), `count`, `negation`, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One picture and all that is said of it."""

    id: str
    """Unique in its dataset, and the same in every run: a file name, a key in a tar."""
    image: ImageSource
    captions: tuple[str, ...]
    """At least one, unless the dataset has labels."""
    negatives: tuple[HardNegative, ...] = ()
    """Sentences that are almost right but false of this picture, where a dataset knows some."""
    label: int | None = None
    """Class of the picture, an index into the dataset's `class_names`, where it has classes."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The pairs of one split, in a fixed order, with what identifies them. Iterate it, index it, take its length."""

    name: str
    """How it is addressed: `flickr8k:PATH`, `scenes:0`."""
    split: Split
    pairs: Sequence[Pair]
    fingerprint: str
    """Changes whenever ids, captions or files change: what caches and checkpoints compare."""
    class_names: tuple[tuple[str, ...], ...] | None = None
    """For each class its names, the most usual first; None where the dataset has no classes."""
    sizes: tuple[int, ...] = ()
    """Of a joined dataset the lengths of its parts, in order."""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        """The pairs in order."""
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        """One pair."""
        return self.pairs[index]

    @property
    def n_captions(self) -> int:
        """Number of captions of all pictures."""
        return sum(len(pair.captions) for pair in self.pairs)

    def take(self, rows: Sequence[int], *, why: str) -> Dataset:
        """The pairs of these rows, in this order; `why` makes the fingerprint another: `limit=500 seed=0`."""
        fingerprint = fingerprint_of([self.fingerprint, why])
        return replace(self, pairs=[self.pairs[row] for row in rows], fingerprint=fingerprint, sizes=())


def join_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """One after the other, in order; classes are counted on, so that those of different sets stay apart.

    Ids get the number of their set. Raises InputError where sets of different splits would be joined.
    """
    first = datasets[0]
    if len({dataset.split for dataset in datasets}) > 1:
        splits = ", ".join(f"{dataset.name} {dataset.split}" for dataset in datasets)
        raise InputError(f"Only sets of one split can be joined; these are {splits}.")
    class_names: list[tuple[str, ...]] = []
    pairs: list[Pair] = []
    for number, dataset in enumerate(datasets):
        start = len(class_names)
        pairs += [
            replace(pair, id=f"{number}/{pair.id}", label=None if pair.label is None else start + pair.label)
            for pair in dataset
        ]
        class_names += dataset.class_names or ()
    return Dataset(
        name=" + ".join(dataset.name for dataset in datasets),
        split=first.split,
        pairs=pairs,
        fingerprint=fingerprint_of([dataset.fingerprint for dataset in datasets]),
        class_names=tuple(class_names) or None,
        sizes=tuple(len(dataset) for dataset in datasets),
    )


class DatasetReader(Protocol):
    """One format: each module of this room gives one, and `data/addressing.py` lists them."""

    kind: str
    """What stands before the colon of an address: `coco`."""

    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like this format; cheap, never raises."""
        ...

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split. Raises InputError naming file, line and what was expected."""
        ...


Warn = Callable[[str], None]
"""Takes one line for the user."""


def check_split(split: str) -> Split:
    """Raises InputError for another word than train, val or test."""
    for known in SPLITS:
        if split == known:
            return known
    raise InputError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")


def fingerprint_of(parts: Iterable[str]) -> str:
    """A short hash of strings, each with its length so that borders count."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def fingerprint_of_pairs(pairs: Iterable[Pair]) -> str:
    """The fingerprint of ids, captions and labels; pictures count by their source's repr (path, offset, row)."""
    return fingerprint_of(
        part
        for pair in pairs
        for part in (pair.id, repr(pair.image), str(pair.label), repr(pair.negatives), *pair.captions)
    )

"""A `Dataset` of `Pair`s of one split, which every format becomes, and choices of its rows.

What a step takes is a pure function of seed and step, so that resuming needs only the step's number.
Shape suffixes: H W height and width, N rows of a dataset, B rows of one rank in one batch.
"""

from __future__ import annotations

import hashlib
import heapq
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from sightline.core.images.files import explain_os_error
from sightline.errors import ImageError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_ORDER_STREAM, _STEP_STREAM = 0, 1
"""Spawn keys that keep shuffling and augmentation independent at equal numbers."""


class ImageSource(Protocol):
    """Origin of one image: a file, a stretch of a tar, a row of a table, a scene that is rendered.

    Small, hashable and picklable, so that datasets of millions fit in memory and worker processes can read. One that
    keeps an encoded file is an `EncodedImage`.
    """

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where it can't be read.

        With `min_side_px` the image may come smaller than it is, its shorter side at least that (or its full size),
        where a source can do so faster; a source that can't ignores it.
        """
        ...


class EncodedImage(ABC):
    """An image whose source keeps it as an encoded file."""

    __slots__ = ()

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The encoded file. Raises ImageError where it can't be read."""

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where it can't be read or decoded."""
        from sightline.core.images.decode import read_image

        return read_image(self.read_bytes(), min_side_px=min_side_px).rgb


@dataclass(frozen=True, kw_only=True, slots=True)
class FileImage(EncodedImage):
    """An image in a file of its own."""

    path: Path

    def read_bytes(self) -> bytes:
        """The file as it is. Raises ImageError where it can't be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(explain_os_error(error)) from error

    def read(self, *, min_side_px: int | None = None) -> NDArray[np.uint8]:
        """Upright RGB (H, W, 3) uint8. Raises ImageError where the file can't be read."""
        from sightline.core.images.decode import read_image

        return read_image(self.path, min_side_px=min_side_px).rgb


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart(EncodedImage):
    """An image in a file that holds many: a stretch of its bytes."""

    path: Path
    offset: int
    size_bytes: int

    def read_bytes(self) -> bytes:
        """The stretch. Raises ImageError where it can't be read, or is cut off."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size_bytes)
        except OSError as error:
            raise ImageError(explain_os_error(error)) from error
        if len(data) < self.size_bytes:
            raise ImageError("cut off")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An image that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HardNegative:
    """A sentence that is false of an image and differs in one thing from one that is true of it."""

    caption: str
    """The true sentence."""
    negative: str
    kind: str
    """The difference: `attribute` and `relation` are swaps (the words are the same), `count`, `negation`, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One image and all that is said of it."""

    id: str
    """Unique in its dataset, and the same in every run: a file name, a key in a tar."""
    image: ImageSource
    captions: tuple[str, ...]
    """At least one, unless the dataset has labels."""
    negatives: tuple[HardNegative, ...] = ()
    """Sentences that are almost right but false of this image, where a dataset knows some."""
    label: int | None = None
    """Class of the image, an index into the dataset's `class_names`, where it has classes."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The pairs of one split, in a fixed order, with what identifies them. Iterate it, index it, take its length."""

    name: str
    """Its address: `flickr8k:PATH`, `scenes:0`."""
    split: Split
    pairs: Sequence[Pair]
    fingerprint: str
    """Changes whenever ids, captions or files change: what caches and checkpoints compare."""
    class_names: tuple[tuple[str, ...], ...] | None = None
    """For each class its names, the most usual first; None where the dataset has no classes."""
    sizes: tuple[int, ...] = ()
    """Lengths of the parts of a joined dataset, in order."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    @property
    def n_captions(self) -> int:
        """Number of captions of all images."""
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
    """The word before the colon of an address: `coco`."""

    def recognises(self, path: Path) -> bool:
        """True where `path` looks like this format; cheap, never raises."""
        ...

    def splits(self, path: Path) -> tuple[Split, ...]:
        """The splits that are there, in the order train, val, test. Raises InputError where it can't be read."""
        ...

    def load(self, path: Path, *, split: Split) -> Dataset:
        """Read one split. Raises InputError naming file, line and what was expected."""
        ...


def check_split(split: str) -> Split:
    """Raises InputError for another word than train, val or test."""
    for known in SPLITS:
        if split == known:
            return known
    raise InputError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")


def in_order(splits: Container[Split | None]) -> tuple[Split, ...]:
    """The splits that are among some, in the order train, val, test."""
    return tuple(split for split in SPLITS if split in splits)


def fingerprint_of(parts: Iterable[str]) -> str:
    """A short hash of strings, each with its length so that borders count."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def fingerprint_of_pairs(pairs: Iterable[Pair]) -> str:
    """The fingerprint of ids, captions and labels; images count by their source's repr (path, offset, row)."""
    return fingerprint_of(
        part
        for pair in pairs
        for part in (pair.id, repr(pair.image), str(pair.label), repr(pair.negatives), *pair.captions)
    )


def choose_subset(dataset: Dataset, *, limit: int, seed: int = 0) -> Dataset:
    """`limit` pairs of a dataset at random, in the dataset's own order; all of it where it has no more.

    A pair is taken by the hash of its id and the seed: so a choice is the same on every machine, a smaller one of the
    same seed is part of a larger, and what is added to a dataset changes it little. Raises InputError for a limit
    below 1.
    """
    check_limit(limit)
    if limit >= len(dataset):
        return dataset

    def rank(row: int) -> tuple[bytes, int]:
        key = f"{seed}:{dataset[row].id}".encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(key, digest_size=8).digest(), row

    rows = sorted(heapq.nsmallest(limit, range(len(dataset)), key=rank))
    return dataset.take(rows, why=f"limit={limit} seed={seed}")


def check_limit(limit: int) -> None:
    """Raises InputError for a limit below 1."""
    if limit < 1:
        raise InputError(f"The limit is {limit}; it must be at least 1. Leave it out to take all.")


@lru_cache(maxsize=2)  # a step needs its epoch's order: shuffling millions of rows takes longer than the step
def epoch_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of a dataset of `n` as one epoch goes through them: a permutation (N,), read-only.

    The same for the same numbers under one numpy version.
    """
    import numpy as np

    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER_STREAM, epoch)))
    order_N = generator.permutation(n).astype(np.int64, copy=False)
    order_N.flags.writeable = False
    return order_N


def steps_per_epoch(n: int, *, batch_size: int) -> int:
    """Number of whole batches that `n` rows give; the rest of an epoch's order is left out of that epoch.

    Raises InputError where not even one batch is full.
    """
    if batch_size > n:
        raise InputError(f"A batch of {batch_size} needs as many pairs and there are {n}; lower the batch size.")
    return n // batch_size


def batch_rows(n: int, *, seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
    """The rows (B,) of the batch of a step, counted from 0 over all epochs; of all ranks together.

    Raises InputError for a batch that is larger than the dataset.
    """
    epoch, batch = divmod(step, steps_per_epoch(n, batch_size=batch_size))
    return epoch_order(n, seed=seed, epoch=epoch)[batch * batch_size : (batch + 1) * batch_size]


def step_seed(seed: int, step: int) -> int:
    """The seed of the augmentation and dropout of one step: below 2 ** 63, unrelated to its neighbours'."""
    import numpy as np

    sequence = np.random.SeedSequence(seed, spawn_key=(_STEP_STREAM, step, 0))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1

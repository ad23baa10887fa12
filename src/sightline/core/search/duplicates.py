"""Images that are in a library more than once: the same bytes, copies by their pixels, or merely alike.

Exact copies are known by the hash of their bytes, other copies by their sketches (`copies`), which the index draws. A
model's cosine only proposes what is alike, such as the shots of a burst; aligned pixels have to confirm it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sightline.core.images.files import file_stamp
from sightline.core.search.alignment import correlate_aligned
from sightline.core.search.copies import Joined, find_copies
from sightline.errors import ImageError, InputError
from sightline.kit.work import map_ahead, usable_cpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord
    from sightline.kit.work import Progress

Kind = Literal["exact", "copy", "alike"]

MIN_ALIKE_CORRELATION = 0.5
"""Of aligned gradients: below it, what a model finds alike are mostly other scenes of the same kind."""

_BLOCK_ROWS = 2048
_ROUNDING = 1e-6
_FAINT = 24
"""A mean colour nearer to grey than this, in levels, is none."""
_DRAWN_AT_ONCE = 256
_DRAWN_FROM_PX = 128
_JUDGED_FROM_PX = 512


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that show the same. Nothing is deleted from disk: what to do with them is the user's choice."""

    kind: Kind
    """`exact`: the same bytes. `copy`: the same picture in other bytes. `alike`: other shots of one scene."""
    images: tuple[ImageRecord, ...]
    """First the one to keep, then by path."""
    similarity: float
    """Of the pair that joined the group by the least: 1 for exact copies, the correlation of pixels for copies, the
    cosine of what is alike."""
    reason: str
    """Why the first one is to be kept, such as `most pixels`."""
    links: frozenset[int] = frozenset()
    """Ids of images that are no files of their own: links, and further names of a file in the group."""

    @property
    def rest(self) -> tuple[ImageRecord, ...]:
        """The files that could go: neither the one to keep nor links."""
        return tuple(image for image in self.images[1:] if image.id not in self.links)

    @property
    def movable(self) -> int:
        """The number of files that are set aside: `rest` of copies, none of what is merely alike."""
        return 0 if self.kind == "alike" else len(self.rest)


def _ignore(done: int, total: int | None, what: str) -> None:
    pass


def find_exact(store: Store) -> list[DuplicateGroup]:
    """Groups of files with the same bytes. One file that the library has by several names is none."""
    groups = (_make_group("exact", store.get(rows), 1.0) for rows in _equal_rows(store).values())
    return [group for group in groups if group is not None]


def _equal_rows(store: Store) -> dict[int, list[int]]:
    """The lowest id of each content that several rows have -> their ids."""
    by_first: dict[int, list[int]] = defaultdict(list)
    for row, first in store.equal_rows().items():
        by_first[first].append(row)
    return by_first


def find_duplicates(
    store: Store,
    *,
    model: str | None = None,
    min_similarity: float | None = None,
    max_pairs: int | None = None,
    on_progress: Progress = _ignore,
) -> list[DuplicateGroup]:
    """Exact copies, copies by pixels and, where a model's cosine is given as `min_similarity`, what is alike.

    A group of copies has their exact copies too; a group of what is alike has the one to keep of each group of copies.
    Every pair is looked at, in blocks; `on_progress` is called before each, and what it raises ends the search. Images
    whose content has no sketch are compared by their bytes alone: `draw_sketches` draws those that are missing.
    Raises InputError for a similarity outside (0, 1], and where more than `max_pairs` are that close.
    """
    if min_similarity is not None and not 0 < min_similarity <= 1:
        raise InputError(f"min_similarity is {min_similarity:g}; it is a cosine above 0, at most 1.")
    first_N, sketches_NSS = store.sketches()
    joined, weakest = Joined(len(first_N)), dict[int, float]()
    colours = _Colours(store)
    pairs = find_copies(
        sketches_NSS,
        on_block=lambda done, total: on_progress(done, total, "comparing pixels"),
        accept=lambda a, b: colours.agree(*(first_N[joined.members(row)].tolist() for row in (a, b))),
    )
    for a, b, correlation in pairs:
        joined.join(a, b)
        weakest[a], weakest[b] = (min(correlation, weakest.get(row, 1.0)) for row in (a, b))
    copies = [(first_N[members].tolist(), min(weakest[member] for member in members)) for members in joined.groups()]
    groups = [*_with_equal_rows(store, copies)]
    if model is not None and min_similarity is not None:
        settings = _Alike(model, min_similarity, max_pairs, on_progress)
        groups += _find_alike(store, settings, groups)
    return groups


class _Colours:
    """Mean colours of images, read where two have the same grey levels: a red shape is no copy of a green one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, NDArray[np.float64] | None] = {}

    def agree(self, rows: Iterable[int], others: Iterable[int]) -> bool:
        """False where images of both groups have a colour, and none of one has that of one of the other.

        What has none, or can't be read, goes with all, but makes no group of those that it goes with.
        """
        ours, theirs = (
            [colour_2 for row in group if (colour_2 := self._of(row)) is not None] for group in (rows, others)
        )
        return not (ours and theirs) or any(
            np.linalg.norm(one_2 - other_2) < min(np.linalg.norm(one_2), np.linalg.norm(other_2))
            for one_2, other_2 in product(ours, theirs)
        )

    def _of(self, row: int) -> NDArray[np.float64] | None:
        """Red against green, and blue against both, on the average (2,).

        None for a faint one, and for a file that isn't as its row says.
        """
        if row not in self._known:
            rgb_HW3, colour_2 = _read(self._store.get([row])[0]), np.zeros(2)
            if rgb_HW3 is not None:
                red, green, blue = rgb_HW3.reshape(-1, 3).mean(axis=0)
                colour_2 = np.array([red - green, blue - (red + green) / 2])
            self._known[row] = colour_2 if np.linalg.norm(colour_2) >= _FAINT else None
        return self._known[row]


def draw_sketches(store: Store, *, on_progress: Progress = _ignore) -> int:
    """Draw the sketches of images that have none, as of a library from before them; the number that still has none.

    Those are of files that are gone, changed or can't be read. What was drawn is kept however it ends.
    """
    missing = sorted(store.missing_sketches())
    if not missing:
        return 0
    contents: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in store.get(missing):
        contents[record.content_hash].append(record)
    drawn = map_ahead(_draw_first, contents.values(), threads=usable_cpus(), ahead=4 * usable_cpus())
    named = zip(contents, drawn, strict=True)
    for done in range(0, len(contents), _DRAWN_AT_ONCE):
        on_progress(done, len(contents), "reading images")
        batch = islice(named, _DRAWN_AT_ONCE)
        store.put_sketches({content: sketch for content, sketch in batch if sketch is not None})
    return len(store.missing_sketches())


def _draw_first(equal: Sequence[ImageRecord]) -> NDArray[np.uint8] | None:
    """The sketch of the first of some equal files that can be read."""
    return next((sketch for sketch in map(_draw, equal) if sketch is not None), None)


def _draw(record: ImageRecord) -> NDArray[np.uint8] | None:
    """The sketch of a file that is as its row says; None for any other."""
    from sightline.core.images.preprocess import make_sketch

    rgb_HW3 = _read(record)
    return None if rgb_HW3 is None else make_sketch(rgb_HW3)


def _read(record: ImageRecord) -> NDArray[np.uint8] | None:
    """Upright RGB (H, W, 3) of a file that is as its row says, reduced; None for any other."""
    from sightline.core.images.decode import read_image

    try:
        if file_stamp(record.path.stat()) != (record.size_bytes, record.mtime_ns):
            return None
        return read_image(record.path, min_side_px=_DRAWN_FROM_PX).rgb
    except (OSError, ImageError, MemoryError):
        return None


def _with_equal_rows(store: Store, copies: Iterable[tuple[list[int], float]]) -> Iterator[DuplicateGroup]:
    """Exact copies, then groups of copies with the exact copies of each."""
    equal = _equal_rows(store)
    of_copies = [
        (sorted(row for first in firsts for row in equal.pop(first, [first])), least) for firsts, least in copies
    ]
    made = [_make_group("exact", store.get(rows), 1.0) for rows in equal.values()]
    made += [_make_group("copy", store.get(rows), least) for rows, least in of_copies]
    return (group for group in made if group is not None)


# --- what is alike ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Alike:
    model: str
    min_similarity: float
    max_pairs: int | None
    on_progress: Progress


def _find_alike(store: Store, asked: _Alike, copies: Sequence[DuplicateGroup]) -> list[DuplicateGroup]:
    """Groups joined by pairs that are near by their vectors and whose aligned pixels agree."""
    left_out = [image.id for group in copies for image in group.images[1:] if image.id is not None]
    ids_N, vectors_ND = store.vectors(asked.model)
    wanted_N = ~np.isin(ids_N, left_out)
    ids_N, vectors_ND = ids_N[wanted_N], vectors_ND[wanted_N]
    near = list(_close_pairs(vectors_ND, asked))
    left, right = (np.array([pair[side] for pair in near], dtype=np.intp) for side in (0, 1))
    agree = _pixels_agree(store, ids_N[left], ids_N[right])
    joined, weakest = Joined(len(ids_N)), dict[int, float]()
    for (a, b, similarity), confirmed in zip(near, agree.tolist(), strict=True):
        if confirmed and joined.join(a, b):
            weakest[a], weakest[b] = (min(similarity, weakest.get(row, 1.0)) for row in (a, b))
    found = [
        _make_group("alike", store.get(ids_N[members].tolist()), min(weakest[m] for m in members))
        for members in joined.groups()
    ]
    return [group for group in found if group is not None]


def _pixels_agree(store: Store, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the pairs of rows whose sketches agree once they are aligned; those without sketches don't."""
    first_N, sketches_NSS = store.sketches()
    equal = store.equal_rows()
    place_of = {first: place for place, first in enumerate(first_N.tolist())}

    def places(rows: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.array([place_of.get(equal.get(row, row), -1) for row in rows.tolist()], dtype=np.intp)

    left_P, right_P = places(left), places(right)
    agree_P = (left_P >= 0) & (right_P >= 0)
    both = np.flatnonzero(agree_P)
    correlation_P = correlate_aligned(sketches_NSS[left_P[both]], sketches_NSS[right_P[both]])
    agree_P[both] = correlation_P >= MIN_ALIKE_CORRELATION
    return agree_P


def _close_pairs(vectors_ND: NDArray[np.float32], asked: _Alike) -> Iterator[tuple[int, int, float]]:
    """Pairs (a < b, cosine), block by block. Raises InputError where there are too many."""
    # Vectors are kept in fp16, so their norms are a hair off 1: identical images must come out at 1.
    vectors_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    starts = range(0, len(vectors_ND), _BLOCK_ROWS)
    blocks = [(start, other) for start in starts for other in starts[start // _BLOCK_ROWS :]]
    found = 0
    for done, (start, other) in enumerate(blocks):
        asked.on_progress(done, len(blocks), "comparing vectors")
        cosines = vectors_ND[start : start + _BLOCK_ROWS] @ vectors_ND[other : other + _BLOCK_ROWS].T
        for i, j in np.argwhere(cosines >= asked.min_similarity - _ROUNDING):
            a, b = start + int(i), other + int(j)
            if a < b:
                found += 1
                if asked.max_pairs is not None and found > asked.max_pairs:
                    raise InputError(
                        f"More than {asked.max_pairs:,} pairs of images have a similarity of {asked.min_similarity:g} "
                        "or more: hardly shots of one scene. Ask for a higher similarity."
                    )
                yield a, b, float(cosines[i, j])


# --- links, and which one to keep -------------------------------------------------------------------------------


def _make_group(kind: Kind, records: Sequence[ImageRecord], similarity: float) -> DuplicateGroup | None:
    """A group with its links and the one to keep; None where all are one file."""
    records = sorted(records, key=lambda record: str(record.path))
    links, files = _find_links(records)
    if files < 2:
        return None
    kept, reason = _choose([record for record in records if record.id not in links] or records, kind)
    others = [record for record in records if record is not kept]
    return DuplicateGroup(
        kind=kind, images=(kept, *others), similarity=min(similarity, 1.0), reason=reason, links=links
    )


def _find_links(records: Sequence[ImageRecord]) -> tuple[frozenset[int], int]:
    """Ids of those that are links or further names of a file, and how many different files there are.

    Files that can't be looked at count as different.
    """
    names: dict[object, list[ImageRecord]] = defaultdict(list)
    for record in records:
        names[_identify(record)].append(record)
    links = set[int]()
    for same in names.values():
        own = next((record for record in same if not _is_linked(record)), None)
        links.update(record.id for record in same if record is not own and record.id is not None)
    return frozenset(links), len(names)


def _identify(record: ImageRecord) -> object:
    """Device and inode: the file itself, whatever name led to it."""
    try:
        status = record.path.stat()
    except (OSError, ValueError):
        return record.path
    return (status.st_dev, status.st_ino) if status.st_ino else record.path.resolve()


def _is_linked(record: ImageRecord) -> bool:
    """True where the path leads through a symbolic link below its root."""
    try:
        return record.path.resolve() != record.root.resolve() / record.relative
    except (OSError, ValueError):
        return False


def _choose(records: Sequence[ImageRecord], kind: Kind) -> tuple[ImageRecord, str]:
    """The image to keep, and what distinguishes it, in the order of what counts."""
    reasons, left = [], list(records)
    for reason, value in _CRITERIA:
        if len(left) < 2 or (value is _sharpness and kind != "alike"):
            continue
        values = [value(record) for record in left]
        best = [record for record, given in zip(left, values, strict=True) if given == max(values)]
        if len(best) < len(left):
            reasons.append(reason)
            left = best
    return left[0], ", ".join(reasons)


def _sharpness(record: ImageRecord) -> float:
    """Standard deviation of the Laplacian over that of the grey levels; 0 where the file can't be read."""
    from sightline.core.images.decode import read_image

    try:
        grey_HW = read_image(record.path, min_side_px=_JUDGED_FROM_PX).rgb.mean(axis=2, dtype=np.float32)
    except (OSError, ImageError, MemoryError):
        return 0.0
    if min(grey_HW.shape) < 3:
        return 0.0
    around_HW = grey_HW[:-2, 1:-1] + grey_HW[2:, 1:-1] + grey_HW[1:-1, :-2] + grey_HW[1:-1, 2:]
    return float((4 * grey_HW[1:-1, 1:-1] - around_HW).std() / max(float(grey_HW.std()), 1.0))


_CRITERIA: tuple[tuple[str, Callable[[ImageRecord], Any]], ...] = (
    ("the file is there", lambda record: record.path.is_file()),
    ("most pixels", lambda record: record.info.width * record.info.height),
    ("has the camera's data", lambda record: record.info.taken_at is not None or record.info.camera is not None),
    ("sharpest", _sharpness),
    ("largest file", lambda record: record.size_bytes),
    ("oldest file", lambda record: -record.mtime_ns),
    ("highest folder", lambda record: -len(record.path.parts)),
    ("shortest name", lambda record: -len(record.path.name)),
    ("first by name", lambda record: [-ord(character) for character in str(record.path)]),
)
"""What the one to keep has more of, with its reason; sharpness is only compared between different shots."""

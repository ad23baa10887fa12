"""Images that are in a library more than once: exactly, by content, or nearly, by similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord

_BLOCK_ROWS = 2048
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that show the same. Nothing is deleted from disk: what to do with them is the user's choice."""

    kind: Literal["exact", "near"]
    images: tuple[ImageRecord, ...]
    """Largest image first, then by path."""
    similarity: float
    """Smallest cosine that joined the group; 1 for exact copies."""


def find_exact(store: Store) -> list[DuplicateGroup]:
    """Groups of files with the same bytes."""
    by_hash: dict[str, list[ImageRecord]] = {}
    for record in store.scan():
        by_hash.setdefault(record.content_hash, []).append(record)
    return [_group(records, 1.0) for records in by_hash.values() if len(records) > 1]


def find_near(
    store: Store,
    model: str,
    *,
    min_similarity: float,
    max_pairs: int | None = None,
    on_block: Callable[[], None] = lambda: None,
) -> list[DuplicateGroup]:
    """Groups joined by pairs at or above a cosine, exact copies included (transitively: A~B and B~C join all three).

    Every pair is compared, in blocks: N * N / 2 products of D, memory of one block of 2,048 rows. `on_block` is
    called before each of them; what it raises ends the search. Raises InputError for a similarity outside (0, 1], and
    where more than `max_pairs` are close.
    """
    if not 0 < min_similarity <= 1:
        raise InputError(f"min_similarity is {min_similarity:g}; near duplicates need a cosine above 0, at most 1.")
    ids, vectors_ND = store.vectors(model)
    parent = list(range(len(ids)))
    weakest: dict[int, float] = {}
    for count, (a, b, similarity) in enumerate(_close_pairs(vectors_ND, min_similarity, on_block), start=1):
        if max_pairs is not None and count > max_pairs:
            raise InputError(
                f"More than {max_pairs:,} pairs of pictures have a similarity of {min_similarity:g} or more: hardly "
                "duplicates. Ask for a higher similarity."
            )
        root_a, root_b = _find(parent, a), _find(parent, b)
        if root_a != root_b:
            parent[root_b] = root_a
            weakest[root_a] = min(similarity, weakest.pop(root_a, 1.0), weakest.pop(root_b, 1.0))
    members: dict[int, list[int]] = {}
    for row in range(len(ids)):
        members.setdefault(_find(parent, row), []).append(int(ids[row]))
    return [_group(store.get(members[root]), weakest[root]) for root in sorted(weakest)]


def _close_pairs(
    vectors_ND: NDArray[np.float32], min_similarity: float, on_block: Callable[[], None]
) -> Iterator[tuple[int, int, float]]:
    """Pairs (a < b, cosine), block by block."""
    # Vectors are kept in fp16, so their norms are a hair off 1: identical pictures must come out at 1.
    vectors_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    count = len(vectors_ND)
    for start in range(0, count, _BLOCK_ROWS):
        left = vectors_ND[start : start + _BLOCK_ROWS]
        for other in range(start, count, _BLOCK_ROWS):
            on_block()
            cosines = left @ vectors_ND[other : other + _BLOCK_ROWS].T
            for i, j in np.argwhere(cosines >= min_similarity - _ROUNDING):
                a, b = start + int(i), other + int(j)
                if a < b:
                    yield a, b, float(cosines[i, j])


def _find(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _group(records: list[ImageRecord], similarity: float) -> DuplicateGroup:
    kind: Literal["exact", "near"] = "exact" if len({record.content_hash for record in records}) == 1 else "near"
    ordered = sorted(records, key=lambda r: (-r.info.width * r.info.height, -r.size_bytes, str(r.path)))
    return DuplicateGroup(kind=kind, images=tuple(ordered), similarity=min(similarity, 1.0))

"""A part of a dataset, chosen by a seed."""

from __future__ import annotations

import hashlib
import heapq

from sightline.errors import InputError
from sightline.lab.data.base import Dataset


def choose_subset(dataset: Dataset, *, limit: int, seed: int = 0) -> Dataset:
    """`limit` pairs of a dataset at random, in the dataset's own order; all of it where it has no more.

    A pair is taken by the hash of its id and the seed: so a choice is the same on every machine, a smaller one of the
    same seed is part of a larger, and what is added to a dataset changes it little. Raises InputError for a limit
    below 1.
    """
    check_limit(limit)
    if limit >= len(dataset):
        return dataset
    ranks = ((_rank(pair.id, seed=seed), row) for row, pair in enumerate(dataset))
    rows = sorted(row for _, row in heapq.nsmallest(limit, ranks))
    return dataset.take(rows, why=f"limit={limit} seed={seed}")


def check_limit(limit: int) -> None:
    """Raises InputError for a limit below 1."""
    if limit < 1:
        raise InputError(f"The limit is {limit}; it must be at least 1. Leave it out to take all.")


def _rank(identity: str, *, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{identity}".encode("utf-8", errors="surrogatepass"), digest_size=8).digest()

"""Which rows a step takes: pure functions of seed and step, so that resuming needs only the step's number.

Shape suffixes: N rows of a dataset, B rows of this rank in one batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ORDER_STREAM, _STEP_STREAM = 0, 1
"""Spawn keys that keep shuffling and augmentation independent at equal numbers."""


@lru_cache(maxsize=2)  # a step needs its epoch's order: shuffling millions of rows takes longer than the step
def epoch_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of a dataset of `n` as one epoch goes through them: a permutation (N,), read-only.

    The same for the same numbers under one numpy version. Raises InputError for a negative number.
    """
    import numpy as np

    _check_not_negative(n=n, seed=seed, epoch=epoch)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER_STREAM, epoch)))
    order_N = generator.permutation(n).astype(np.int64, copy=False)
    order_N.flags.writeable = False
    return order_N


def steps_per_epoch(n: int, *, batch_size: int) -> int:
    """How many whole batches `n` rows give; the rest of an epoch's order is left out of that epoch.

    Raises InputError where not even one batch is full.
    """
    if batch_size < 1:
        raise InputError(f"The batch size must be at least 1; it is {batch_size}.")
    if batch_size > n:
        raise InputError(f"A batch of {batch_size} needs as many pairs and there are {n}; lower the batch size.")
    return n // batch_size


def batch_rows(n: int, *, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
    """The rows (B,) that `rank` of `world` ranks takes of the global batch of a step, counted from 0 over all epochs.

    `batch_size` is the global one. Ranks take consecutive shares, so gathering them in rank order gives the same batch
    in the same order at every world size. Raises InputError for a batch that is larger than the dataset or can't be
    shared evenly, and for a rank that isn't one.
    """
    per_epoch = steps_per_epoch(n, batch_size=batch_size)
    _check_not_negative(step=step)
    _check_share(batch_size, rank, world)
    epoch, batch = divmod(step, per_epoch)
    share = batch_size // world
    first = batch * batch_size + rank * share
    return epoch_order(n, seed=seed, epoch=epoch)[first : first + share]


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one rank's augmentation and dropout in one step: below 2 ** 63, unrelated to its neighbours'.

    Raises InputError for a negative number.
    """
    import numpy as np

    _check_not_negative(seed=seed, step=step, rank=rank)
    sequence = np.random.SeedSequence(seed, spawn_key=(_STEP_STREAM, step, rank))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def _check_share(batch_size: int, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise InputError(f"Rank {rank} of {world}: a rank must be from 0 to {world - 1}, of at least one.")
    if batch_size % world:
        lower = batch_size // world * world
        choices = f"{lower} or {lower + world}" if lower else f"{world}"
        raise InputError(f"A batch of {batch_size} can't be shared evenly by {world} ranks; take {choices}.")


def _check_not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise InputError(f"{name} is {number}; it must not be negative.")

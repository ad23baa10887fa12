import numpy as np
import pytest

from sightline.errors import InputError
from sightline.lab.data.base import batch_rows, epoch_order, step_seed, steps_per_epoch


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only():
    order = epoch_order(1000, seed=3, epoch=7)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(1000))
    epoch_order.cache_clear()
    assert np.array_equal(order, epoch_order(1000, seed=3, epoch=7))
    assert not np.array_equal(order, epoch_order(1000, seed=3, epoch=8))
    assert not np.array_equal(order, epoch_order(1000, seed=4, epoch=7))


def test_the_order_is_pinned_since_checkpoints_rely_on_it():
    assert epoch_order(8, seed=0, epoch=0).tolist() == [7, 0, 1, 6, 5, 2, 3, 4]
    assert epoch_order(8, seed=0, epoch=1).tolist() == [3, 2, 1, 0, 6, 4, 7, 5]


def test_the_shared_order_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(10, seed=0, epoch=0)[0] = 5


def test_an_epoch_takes_each_row_once_and_leaves_out_what_fills_no_batch():
    steps = steps_per_epoch(103, batch_size=10)
    assert steps == 10
    rows = np.concatenate([batch_rows(103, seed=1, step=step, batch_size=10) for step in range(steps)])
    assert len(set(rows.tolist())) == 100
    following = batch_rows(103, seed=1, step=steps, batch_size=10)
    assert np.array_equal(following, epoch_order(103, seed=1, epoch=1)[:10])


def test_a_batch_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="needs as many pairs and there are 100"):
        batch_rows(100, seed=0, step=0, batch_size=101)


def test_seeds_of_steps_differ_and_repeat():
    seeds = {step_seed(seed, step) for seed in range(3) for step in range(50)}
    assert len(seeds) == 3 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2) == step_seed(1, 2)

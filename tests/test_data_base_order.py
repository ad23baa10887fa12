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


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_in_order_give_the_same_global_batch_at_every_world_size(world):
    for step in (0, 5, 23):
        whole = batch_rows(100, seed=2, step=step, batch_size=12)
        shares = [batch_rows(100, seed=2, step=step, batch_size=12, rank=r, world=world) for r in range(world)]
        assert np.array_equal(np.concatenate(shares), whole)
        assert {len(share) for share in shares} == {12 // world}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 101}, "needs as many pairs and there are 100"),
        ({"batch_size": 10, "world": 4}, "take 8 or 12"),
        ({"batch_size": 2, "world": 4}, "take 4"),
        ({"rank": 2, "world": 2}, "from 0 to 1"),
        ({"rank": -1}, "from 0 to 0"),
        ({"step": -1}, "step is -1"),
        ({"seed": -5}, "seed is -5"),
    ],
)
def test_batches_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        batch_rows(100, **{"seed": 0, "step": 0, "batch_size": 10, **change})


def test_seeds_of_steps_and_ranks_differ_and_repeat():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 3 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    with pytest.raises(InputError, match="rank is -1"):
        step_seed(0, 0, -1)

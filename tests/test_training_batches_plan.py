import math

import pytest

from sightline.lab.training.batches import TrainPlan
from training_world import small_config


def rates(total=100, warmup=10):
    plan = TrainPlan(steps_per_epoch=10, total_steps=total, warmup_steps=warmup, eval_steps=1, checkpoint_steps=1)
    return [plan.learning_rate(step, peak=2.0) for step in range(total + 1)]


def test_warm_up_rises_linearly_from_the_first_update_to_the_peak():
    assert rates()[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])


def test_cosine_falls_from_the_peak_through_half_of_it_to_nothing():
    found = rates()
    assert found[10] == 2.0
    assert found[55] == pytest.approx(1.0)  # half way between 10 and 100
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[100] == pytest.approx(0.0)


def test_a_quarter_of_the_cosine_is_its_formula():
    assert rates(warmup=0)[25] == pytest.approx(2.0 * (1 + math.cos(math.pi / 4)) / 2)


def test_a_run_that_is_all_warm_up_reaches_the_peak_with_its_last_step():
    assert rates(total=10, warmup=10)[9] == 2.0


def test_a_warm_up_is_never_longer_than_the_run():
    plan = TrainPlan.make(small_config("scenes:0", samples_seen=8, warmup_fraction=0.9), steps_per_epoch=3)
    assert plan.warmup_steps <= plan.total_steps == 1


def test_samples_seen_decide_the_steps():
    config = small_config("scenes:0", samples_seen=100, batch_size=8, epochs=4, eval_epochs=1, checkpoint_epochs=2)
    plan = TrainPlan.make(config, steps_per_epoch=1000)
    assert (plan.total_steps, plan.eval_steps, plan.checkpoint_steps) == (12, 3, 6)
    assert TrainPlan.make(small_config("scenes:0", samples_seen=1), steps_per_epoch=3).total_steps == 1

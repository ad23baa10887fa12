import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sightline.errors import TrainingError
from sightline.lab.training.alarms import (
    IDS_SHOWN,
    AlarmConfig,
    Alarms,
    NonFiniteStepError,
    StepFacts,
    mean_pairwise_cosine,
)

CHANCE = math.log(64)
HEALTHY = StepFacts(
    step=0,
    loss=0.5 * CHANCE,
    learning_rate=1e-3,
    gradient_norm=1.0,
    scale=20.0,
    scale_limit=100.0,
    chance_loss=CHANCE,
    image_cosine=0.2,
    text_cosine=0.2,
)


def run(alarms, count, start=1, **facts):
    """Alarms of `count` steps; a value may be a function of the step."""
    found = []
    for step in range(start, start + count):
        values = {
            name: value(step) if callable(value) and name != "batch_ids" else value for name, value in facts.items()
        }
        found += alarms.check(replace(HEALTHY, step=step, **values))
    return found


def kinds(found):
    return [(alarm.kind, alarm.step) for alarm in found]


def test_a_healthy_run_is_silent():
    noise = np.random.default_rng(0)
    found = run(
        Alarms(AlarmConfig(warmup_steps=50)),
        1000,
        loss=lambda step: CHANCE * (0.2 + 0.8 * math.exp(-step / 60)) + 0.1 * noise.standard_normal(),
        gradient_norm=lambda step: math.exp(0.4 * noise.standard_normal()),
        image_cosine=lambda step: 0.999 if step < 50 else 0.1,
        text_cosine=lambda step: 0.999 if step < 50 else 0.1,
        scale=lambda step: min(99.0, 14 + step / 10),
    )
    assert found == []


def test_a_loss_that_stays_at_chance_is_named_once_a_window_after_the_warm_up():
    alarms = Alarms(AlarmConfig(warmup_steps=30, chance_window_steps=50))
    found = run(alarms, 300, loss=lambda step: CHANCE * (1.01 if step % 2 else 0.985))
    assert kinds(found) == [("chance", 80)]
    assert f"{CHANCE:.3f}" in found[0].message
    assert "sightline data check" in found[0].message


def test_an_alarm_comes_again_after_its_cause_had_gone():
    alarms = Alarms(AlarmConfig(chance_window_steps=20))
    found = run(alarms, 20, loss=CHANCE) + run(alarms, 20, start=21, loss=1.0) + run(alarms, 60, start=41, loss=CHANCE)
    assert kinds(found) == [("chance", 20), ("chance", 60)]


def test_a_loss_just_below_the_margin_is_learning():
    assert run(Alarms(AlarmConfig(chance_window_steps=20)), 100, loss=0.97 * CHANCE) == []


def test_without_a_known_chance_nothing_is_held_against_it():
    assert run(Alarms(AlarmConfig(chance_window_steps=20)), 100, loss=CHANCE, chance_loss=None) == []


def test_a_loss_far_above_chance_is_named_even_in_the_warm_up():
    alarms = Alarms(AlarmConfig(warmup_steps=1000))
    found = run(alarms, 100, loss=lambda step: CHANCE if step < 10 else 3 * CHANCE)
    assert [kind for kind, _ in kinds(found)] == ["above_chance"]
    assert 10 < found[0].step < 30
    assert "20.0" in found[0].message  # the logit scale


@pytest.mark.parametrize(("tower", "kind"), [("image", "collapsed_images"), ("text", "collapsed_texts")])
def test_a_collapsed_tower_is_named_after_some_steps(tower, kind):
    alarms = Alarms(AlarmConfig(warmup_steps=10, collapse_steps=5))
    found = run(alarms, 50, **{f"{tower}_cosine": 0.995})
    assert kinds(found) == [(kind, 15)]
    assert f"the {tower} tower collapsed" in found[0].message
    assert "0.9950" in found[0].message


def test_alike_vectors_now_and_then_are_no_collapse():
    alarms = Alarms(AlarmConfig(collapse_steps=5))
    assert run(alarms, 50, image_cosine=lambda step: 0.999 if step % 5 else 0.5) == []


def test_unmeasured_cosines_raise_nothing():
    assert run(Alarms(AlarmConfig(collapse_steps=1)), 50, image_cosine=None, text_cosine=None) == []


def test_a_scale_that_reaches_its_limit_and_stays_is_named():
    alarms = Alarms(AlarmConfig(temperature_steps=10))
    found = run(alarms, 100, scale=lambda step: min(100.0, 60.0 + step))
    assert kinds(found) == [("temperature", 49)]
    assert "limit of 100 for 10 steps" in found[0].message


def test_a_scale_that_starts_at_its_limit_as_openais_does_is_no_alarm_until_it_had_left_it():
    alarms = Alarms(AlarmConfig(temperature_steps=10))
    assert run(alarms, 100, scale=100.0) == []
    assert run(alarms, 5, start=101, scale=90.0) == []
    assert kinds(run(alarms, 20, start=106, scale=100.0)) == [("temperature", 115)]


def test_a_scale_without_a_limit_is_never_at_it():
    assert run(Alarms(AlarmConfig(temperature_steps=1)), 50, scale=1e6, scale_limit=None) == []


def test_a_gradient_spike_is_named_with_its_batch_and_a_burst_only_once():
    alarms = Alarms(AlarmConfig(spike_history_steps=20))
    found = run(
        alarms,
        100,
        gradient_norm=lambda step: 50.0 if step in (40, 42, 55, 90) else 1.0,
        batch_ids=lambda: ["a.jpg", "b.jpg"],
    )
    assert kinds(found) == [("gradient", 40), ("gradient", 90)]
    assert "norm is 50" in found[0].message
    assert "last 20 steps 1." in found[0].message
    assert found[0].message.endswith("a.jpg, b.jpg")


def test_ids_are_asked_for_only_where_a_batch_is_named():
    def refuse():
        raise AssertionError("ids were read")

    assert run(Alarms(AlarmConfig()), 200, batch_ids=refuse) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"loss": math.nan}, "the loss is nan"),
        ({"loss": math.inf}, "the loss is inf"),
        ({"gradient_norm": math.nan}, "the gradient's norm is nan"),
        ({"loss": math.nan, "gradient_norm": math.inf}, "the loss is nan and the gradient's norm is inf"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run_and_names_its_batch(facts, said):
    ids = [f"{number}.jpg" for number in range(IDS_SHOWN + 5)]
    with pytest.raises(TrainingError) as caught:
        run(Alarms(AlarmConfig()), 1, start=7, batch_ids=lambda: ids, **facts)
    message = str(caught.value)
    assert message.startswith(f"Step 7: {said} (learning rate 0.001, logit scale 20)")
    assert f"{ids[IDS_SHOWN - 1]} and 5 more" in message
    assert isinstance(caught.value, NonFiniteStepError)
    assert (caught.value.step, caught.value.batch_ids) == (7, tuple(ids))


def test_a_bad_step_leaves_no_trace_in_the_state():
    alarms = Alarms(AlarmConfig())
    run(alarms, 3)
    before = alarms.to_dict()
    with pytest.raises(NonFiniteStepError):
        run(alarms, 1, start=4, loss=math.nan)
    assert alarms.to_dict() == before


def test_a_destructive_learning_rate_is_named_at_the_start_once():
    alarms = Alarms(AlarmConfig())
    (alarm,) = alarms.check_start(2e-4, pretrained=True, family="clip")
    assert alarm.kind == "learning_rate"
    assert "0.0002" in alarm.message
    resumed = Alarms.from_dict(AlarmConfig(), alarms.to_dict())
    assert resumed.check_start(2e-4, pretrained=True, family="clip") == []
    assert Alarms(AlarmConfig()).check_start(2e-4, pretrained=True, family="clip", adapters=True) == []


def test_a_metric_that_falls_below_its_start_is_named_and_each_metric_has_its_own_start():
    alarms = Alarms(AlarmConfig(drop_fraction=0.1))
    assert alarms.check_validation(0, name="acc1", value=0.60) == []
    assert alarms.check_validation(0, name="recall", value=0.30) == []
    assert alarms.check_validation(100, name="acc1", value=0.545) == []
    (alarm,) = alarms.check_validation(200, name="acc1", value=0.5)
    assert (alarm.kind, alarm.step) == ("drop", 200)
    assert "acc1 is 0.5000, before training it was 0.6000" in alarm.message
    assert alarms.check_validation(300, name="acc1", value=0.4) == []
    assert alarms.check_validation(300, name="recall", value=0.31) == []
    assert alarms.check_validation(400, name="acc1", value=0.6) == []
    assert len(alarms.check_validation(500, name="acc1", value=0.1)) == 1


def test_a_model_that_starts_at_nothing_can_not_drop():
    alarms = Alarms(AlarmConfig())
    assert [alarms.check_validation(step, name="acc1", value=0.0) for step in range(3)] == [[], [], []]


TROUBLED = {
    "loss": lambda step: CHANCE if step < 70 else 4 * CHANCE if step < 120 else 1.0,
    "gradient_norm": lambda step: 99.0 if step in (60, 61, 140) else 1.0,
    "scale": lambda step: 100.0 if 20 < step < 80 else 50.0,
    "text_cosine": lambda step: 0.999 if 30 < step < 90 else 0.1,
}


@pytest.mark.parametrize("cut", range(1, 160, 13))
def test_a_resumed_run_raises_what_an_uninterrupted_one_does(cut):
    config = AlarmConfig(
        chance_window_steps=25, temperature_steps=30, collapse_steps=30, spike_history_steps=20, above_window_steps=10
    )
    whole = run(Alarms(config), 160, **TROUBLED)
    assert {alarm.kind for alarm in whole} == {"chance", "above_chance", "gradient", "temperature", "collapsed_texts"}
    first = Alarms(config)
    found = run(first, cut, **TROUBLED)
    second = Alarms.from_dict(config, json.loads(json.dumps(first.to_dict())))
    assert found + run(second, 160 - cut, start=cut + 1, **TROUBLED) == whole


def test_a_state_of_another_shape_is_refused():
    state = Alarms(AlarmConfig()).to_dict()
    del state["norms"]
    with pytest.raises(TrainingError, match=r"alarms.*norms"):
        Alarms.from_dict(AlarmConfig(), state)


def test_the_mean_cosine_is_that_of_all_pairs_of_different_rows(rng):
    vectors_BD = rng.standard_normal((7, 5))
    vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
    pairs = [float(vectors_BD[i] @ vectors_BD[j]) for i in range(7) for j in range(7) if i != j]
    sum_D = vectors_BD.sum(0)
    assert mean_pairwise_cosine(float(sum_D @ sum_D), 7) == pytest.approx(np.mean(pairs))
    assert mean_pairwise_cosine(16.0, 4) == pytest.approx(1.0)  # four times the same vector
    assert mean_pairwise_cosine(3.0, 3) == pytest.approx(0.0)
    assert mean_pairwise_cosine(1.0, 1) == 0.0


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_rate_that_destroys_pretrained_vits_is_warned_of_with_its_source(family):
    (alarm,) = Alarms(AlarmConfig()).check_start(1e-4, pretrained=True, family=family)
    assert "0.0001" in alarm.message
    assert "open_clip#1093" in alarm.message


@pytest.mark.parametrize(
    ("peak", "options"),
    [
        (5e-5, {"pretrained": True, "family": "clip"}),
        (1e-3, {"pretrained": False, "family": "clip"}),
        (1e-3, {"pretrained": True, "family": "sightline-clip"}),
        (1e-3, {"pretrained": True, "family": "clip", "adapters": True}),
    ],
)
def test_rates_that_are_usual_are_not_warned_of(peak, options):
    assert Alarms(AlarmConfig()).check_start(peak, **options) == []

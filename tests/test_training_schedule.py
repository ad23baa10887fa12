import math

import pytest

from sightline.errors import InputError
from sightline.lab.training.schedule import learning_rate, learning_rate_warning


def rates(total=100, warmup=10, **options):
    return [learning_rate(step, peak=2.0, warmup_steps=warmup, total_steps=total, **options) for step in range(total)]


def test_warm_up_rises_linearly_from_the_first_update_to_the_peak():
    assert rates()[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])


def test_cosine_falls_from_the_peak_through_half_of_it_to_nothing():
    found = rates()
    assert found[10] == 2.0
    assert found[55] == pytest.approx(1.0)  # half way between 10 and 100
    assert found[10:] == sorted(found[10:], reverse=True)
    assert learning_rate(100, peak=2.0, warmup_steps=10, total_steps=100) == pytest.approx(0.0)


def test_cosine_ends_at_the_final_fraction_and_stays_there():
    ends = [
        learning_rate(step, peak=2.0, warmup_steps=0, total_steps=100, final_fraction=0.1) for step in (100, 150, 9999)
    ]
    assert ends == pytest.approx([0.2, 0.2, 0.2])


def test_a_quarter_of_the_cosine_is_its_formula():
    rate = learning_rate(25, peak=1.0, warmup_steps=0, total_steps=100, final_fraction=0.5)
    assert rate == pytest.approx(0.5 + 0.5 * (1 + math.cos(math.pi / 4)) / 2)


def test_constant_stays_at_the_peak_after_the_warm_up():
    assert set(rates(shape="constant")[9:]) == {2.0}
    assert rates(shape="constant")[0] == pytest.approx(0.2)


def test_a_run_that_is_all_warm_up_reaches_the_peak_with_its_last_step():
    assert rates(total=10, warmup=10)[-1] == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "step -1"),
        ({"total_steps": 0}, "total_steps 0"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
        ({"warmup_steps": 11}, "warm-up of 11 steps is longer than the run of 10"),
        ({"peak": 0.0}, "above 0"),
        ({"peak": math.inf}, "above 0"),
        ({"final_fraction": 1.5}, "final_fraction"),
        ({"shape": "linear"}, "cosine, constant"),
    ],
)
def test_impossible_schedules_are_refused(changes, message):
    options = {"step": 0, "peak": 1.0, "warmup_steps": 1, "total_steps": 10, **changes}
    with pytest.raises(InputError, match=message):
        learning_rate(options.pop("step"), **options)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_rate_that_destroys_pretrained_vits_is_warned_of_with_its_source(family):
    warning = learning_rate_warning(1e-4, pretrained=True, family=family)
    assert "0.0001" in warning
    assert "open_clip#1093" in warning


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
    assert learning_rate_warning(peak, **options) is None

"""Claims that hold, claims that don't, and noise of grouped results."""

import math

import numpy as np
import pytest
from claims import SMOKE_VARIABLE, Claims, is_smoke, measure_noise

from sightline.errors import InputError, SightlineError


@pytest.fixture(autouse=True)
def full_run(monkeypatch):
    monkeypatch.delenv(SMOKE_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("margin", "noise", "holds"),
    [
        (0.2, 0.1, True),
        (0.1, 0.1, False),
        (0.1, None, True),
        (0.0, None, False),
        (-0.2, 0.1, False),
        (math.nan, 0.1, False),
        (0.2, math.nan, False),
        (0.2, math.inf, False),
    ],
)
def test_a_claim_holds_only_where_its_margin_exceeds_the_noise(margin, noise, holds):
    assert Claims().state("It is larger.", margin=margin, noise=noise).holds is holds


def test_a_fact_and_a_margin_must_both_hold():
    claims = Claims()
    assert not claims.state("No.", holds=False, margin=1.0).holds
    assert not claims.state("Neither.", holds=True, margin=-1.0).holds
    assert claims.state("Yes.", holds=np.True_).holds


def test_check_names_every_claim_that_does_not_hold_with_its_figures():
    claims = Claims()
    claims.state("This is so.")
    claims.state("Larger by far.", margin=0.1, noise=0.25)
    claims.state("Never measured.", margin=math.nan)
    claims.state("A plain fact.", holds=False)
    with pytest.raises(SightlineError, match=r"3 of 4 claims don't hold") as raised:
        claims.check()
    message = str(raised.value)
    assert "Larger by far. (margin 0.1, noise 0.25)" in message
    assert "Never measured. (margin not a number)" in message
    assert "A plain fact. (a fact that isn't so)" in message
    assert "This is so." not in message
    assert [claim.text for claim in claims.broken] == ["Larger by far.", "Never measured.", "A plain fact."]


def test_check_counts_claims_where_all_hold():
    claims = Claims()
    claims.state("This is so.")
    claims.state("This, too.", margin=2.0, noise=1.0)
    assert claims.check() == "All 2 claims of this notebook hold in this run, 1 of them beyond noise."


@pytest.mark.parametrize(("value", "smoke"), [("1", True), ("", False), ("0", False)])
def test_a_smoke_run_checks_nothing(monkeypatch, value, smoke):
    monkeypatch.setenv(SMOKE_VARIABLE, value)
    assert is_smoke() is smoke
    claims = Claims()
    claims.state("Wrong.", holds=False)
    if smoke:
        assert "none checked" in claims.check()
    else:
        with pytest.raises(SightlineError):
            claims.check()


def test_notebooks_show_a_broken_claim_as_one():
    claims = Claims()
    assert claims.state("It is so.")._repr_markdown_() == "It is so."
    assert claims.state("It is so.", holds=False)._repr_markdown_() == "**Not so in this run:** It is so."


@pytest.mark.parametrize(
    ("text", "figures"), [(" ", {}), ("Noise alone.", {"noise": 0.1}), ("Negative.", {"margin": 1.0, "noise": -0.1})]
)
def test_a_claim_that_can_not_be_checked_is_refused(text, figures):
    with pytest.raises(InputError):
        Claims().state(text, **figures)


def test_noise_is_half_of_the_interval_of_a_mean(rng):
    result_N = rng.normal(size=400)
    assert measure_noise(result_N) == pytest.approx(1.96 * result_N.std() / math.sqrt(400), rel=0.08)
    assert measure_noise(result_N) == measure_noise(result_N)


def test_results_of_one_image_are_not_independent(rng):
    by_image = np.repeat(rng.normal(size=30), 10)
    group_N = np.repeat(np.arange(30), 10)
    assert measure_noise(by_image, group_N) > 2.5 * measure_noise(by_image)


def test_noise_of_one_group_or_of_mismatched_groups_is_refused():
    with pytest.raises(InputError, match="two or more"):
        measure_noise([1.0, 2.0], [3, 3])
    with pytest.raises(InputError, match="two or more"):
        measure_noise([])
    with pytest.raises(InputError, match="as many groups"):
        measure_noise([1.0, 2.0], [1])

import sys

import numpy as np
import pytest

from sightline.errors import TrainingError
from sightline.experiments.linear_model import LinearModel, adjust_holm, f_test, t_factor


def test_p_values_and_intervals_are_those_of_tables():
    assert f_test(2 * 3.885, 2, noise_variance=1.0, noise_df=12)[1] == pytest.approx(0.05, abs=1e-4)
    assert t_factor(3) == pytest.approx(3.182, abs=1e-3)
    assert t_factor(10, confidence=0.99) == pytest.approx(3.169, abs=1e-3)


def test_nothing_above_no_noise_is_nothing():
    assert f_test(0.0, 2, noise_variance=0.0, noise_df=5) == (0.0, 1.0)
    assert f_test(0.1, 2, noise_variance=0.0, noise_df=5) == (float("inf"), 0.0)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert adjust_holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


def test_what_the_runs_do_not_determine_has_no_estimate():
    model = LinearModel(design_RC=np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), value_R=np.array([3.0, 1.0]))
    assert (model.rank, model.residual_df) == (2, 0)
    assert model.estimate(np.array([0.0, 1.0, 0.0])) is None
    value, variance = model.estimate(np.array([0.0, 1.0, 1.0]))
    assert (value, variance) == pytest.approx((2.0, 2.0))


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(TrainingError, match=r"sightline-images\[train\]"):
        t_factor(3)

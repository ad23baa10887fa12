"""Fitting and judging probabilities."""

import numpy as np
import pytest

from sightline.core.search.relevance import Calibration, Context, Judge
from sightline.errors import InputError
from sightline.lab.evaluation.relevance import Examples, area_under_curve, calibration_error, fit_logistic


def examples(count=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)) * (1, 5)
    return x, rng.random(count) < 1 / (1 + np.exp(-(1.5 * x[:, 0] - 0.2 * x[:, 1] - 1)))


def test_a_fit_is_the_penalised_likelihoods_maximum():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, truth = examples()
    found = fit_logistic({"a": x[:, 0], "b": x[:, 1]}, truth)
    spread = x.std(axis=0)
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x / spread, truth)
    assert [found["a"], found["b"]] == pytest.approx(expected.coef_[0] / spread, rel=1e-3)
    assert found["constant"] == pytest.approx(expected.intercept_[0], rel=1e-2)


def test_examples_of_one_kind_teach_nothing():
    with pytest.raises(InputError, match="all of these are of one kind"):
        fit_logistic({"a": np.arange(5.0)}, np.ones(5, dtype=bool))


def test_the_calibration_error_is_the_gap_of_each_bin():
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    assert calibration_error(probability, np.array([False, False, True, True])) == pytest.approx(0.0375)
    assert calibration_error(probability, np.array([True, True, False, False])) == pytest.approx(0.9625)


def test_the_area_under_the_curve_counts_ties_half():
    positive, negative = np.array([0.3, 0.5, 0.5, 0.9]), np.array([0.1, 0.5, 0.6])
    above = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert area_under_curve(positive, negative) == pytest.approx(above / 12)


def test_what_is_fitted_to_hits_rates_them():
    rng = np.random.default_rng(0)
    gathered = Examples()
    for number in range(60):
        score = np.sort(rng.random(5))[::-1]
        context = Context(library=(0.5, 0.2), background=None, tokens=number % 4, images=100)
        truth = score + 0.2 * rng.normal(size=5) > 0.8
        gathered.add(context, score, truth, present=bool(truth.any()))
    calibration = Calibration.from_card(gathered.fit(["score", "words"]), model="m")
    low, high = Judge(model="m", calibration=calibration, context=context).rate([0.2, 0.95])
    assert low < 0.2
    assert high > 0.7

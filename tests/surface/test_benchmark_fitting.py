"""Fitting and judging probabilities, as `benchmarks/relevance.py` does."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.core.search.relevance import Calibration, Context, Judge

pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fitting


def test_the_calibration_error_is_the_gap_of_each_bin():
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    assert fitting.calibration_error(probability, np.array([False, False, True, True])) == pytest.approx(0.0375)
    assert fitting.calibration_error(probability, np.array([True, True, False, False])) == pytest.approx(0.9625)


def test_what_is_fitted_to_hits_rates_them():
    rng = np.random.default_rng(0)
    gathered = fitting.Examples()
    for number in range(60):
        score = np.sort(rng.random(5))[::-1]
        context = Context(library=(0.5, 0.2), background=None, tokens=number % 4, images=100)
        truth = score + 0.2 * rng.normal(size=5) > 0.8
        gathered.add(context, score, truth, present=bool(truth.any()))
    calibration = Calibration.from_card(gathered.fit(["score", "words"]), model="m")
    low, high = Judge(model="m", calibration=calibration, context=context).rate([0.2, 0.95])
    assert low < 0.2
    assert high > 0.7

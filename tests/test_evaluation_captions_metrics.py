import numpy as np
import pytest

from evaluation_fakes import unit
from sightline.lab.evaluation.captions.metrics import clip_score, ref_clip_score


def test_clip_score_is_two_and_a_half_cosines_and_never_below_zero():
    scores = clip_score(unit(0, 0, 0), unit(0, 60, 120))
    assert scores == pytest.approx([2.5, 1.25, 0], abs=1e-6)


def test_ref_clip_score_is_the_harmonic_mean_with_the_nearest_reference():
    captions = unit(0, 0)
    scores = ref_clip_score(np.array([0.8, 0.8]), captions, unit(90, 60, 0), np.array([0, 0, 1]))
    assert scores == pytest.approx([2 * 0.8 * 0.5 / 1.3, 2 * 0.8 / 1.8], abs=1e-6)


def test_ref_clip_score_is_zero_where_either_side_is():
    scores = ref_clip_score(np.array([0.0, 0.8, 0.0]), unit(0, 0, 0), unit(0, 180, 180), np.array([0, 1, 2]))
    assert scores.tolist() == [0, 0, 0]


def test_references_may_come_in_any_order():
    scores = ref_clip_score(np.array([1.0, 1.0]), unit(0, 90), unit(90, 0), np.array([1, 0]))
    assert scores == pytest.approx([1, 1])

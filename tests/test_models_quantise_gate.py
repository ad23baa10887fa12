"""The gate's measures against hand-made vectors, and its thresholds."""

import numpy as np
import pytest

from sightline.core.models.precision import EncoderGate
from sightline.core.models.quantise.gate import compare_vectors, gate_sentences

PLAIN = EncoderGate(neighbours=2)


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_equal_vectors_agree_in_all(rng):
    rows = unit(rng.standard_normal((20, 8)))
    measured = compare_vectors(rows, rows, gate=PLAIN)
    assert measured["cosine_mean"] == pytest.approx(1, abs=1e-6)
    assert measured["cosine_low"] == pytest.approx(1, abs=1e-6)
    assert measured["neighbour_overlap"] == 1


def test_neighbours_are_counted_without_the_row_itself():
    fp32 = at_angles(0, 10, 21, 33, 80)
    int8 = at_angles(0, 10, 21, 75, 80)  # the fourth has moved to the fifth
    measured = compare_vectors(int8, fp32, gate=PLAIN)
    # nearest two: 0: 1 2 | 1 2; 1: 0 2 | 0 2; 2: 1 3 | 1 0; 3: 2 1 | 4 2; 4: 3 2 | 3 2
    assert measured["neighbour_overlap"] == pytest.approx((2 + 2 + 1 + 1 + 2) / 10)
    assert measured["cosine_mean"] == pytest.approx((4 + np.cos(np.deg2rad(42))) / 5, abs=1e-6)


def test_neighbours_among_other_rows():
    images = at_angles(0, 30, 60, 90)
    measured = compare_vectors(at_angles(40, 80), at_angles(10, 80), gate=PLAIN, among_ND=images)
    assert measured["neighbour_overlap"] == pytest.approx((1 + 2) / 4)  # 30 60 against 0 30, and 60 90 twice


def test_the_low_percentile_sees_what_the_mean_hides(rng):
    fp32 = unit(rng.standard_normal((100, 64)))
    int8 = fp32.copy()
    int8[:8] = unit(rng.standard_normal((8, 64)))
    measured = compare_vectors(int8, fp32, gate=PLAIN)
    assert measured["cosine_mean"] > 0.9
    assert measured["cosine_low"] < 0.5


@pytest.mark.parametrize("name", ["cosine_mean", "cosine_low", "neighbour_overlap"])
def test_each_threshold_is_needed(name):
    gate = EncoderGate()
    assert gate.passes(gate.required)
    assert not gate.passes({**gate.required, name: gate.required[name] - 0.001})


def test_the_sentences_are_many_and_all_different():
    sentences = gate_sentences()
    assert len(set(sentences)) == len(sentences) == 256
    assert all(sentence == sentence.strip() for sentence in sentences)

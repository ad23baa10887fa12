import numpy as np
import pytest

from sightline.errors import InputError
from sightline.search.combine import combine


def vectors(*rows):
    return np.array(rows, dtype=np.float32)


def test_one_part_is_its_own_direction_whatever_its_norm_and_weight():
    np.testing.assert_allclose(combine(vectors([3, 4]), [7.0]), [0.6, 0.8], atol=1e-6)


def test_parts_are_normalised_before_they_are_weighted():
    np.testing.assert_allclose(combine(vectors([100, 0], [0, 0.01]), [1, 1]), [0.5**0.5, 0.5**0.5], atol=1e-6)
    np.testing.assert_allclose(combine(vectors([1, 0], [0, 1]), [1, 2]), np.array([1, 2]) / 5**0.5, atol=1e-6)


def test_a_negative_part_subtracts_only_what_is_not_the_subject():
    # cos(subject, negative) = 0.8: what is left of the negative is (0, 0.6).
    np.testing.assert_allclose(
        combine(vectors([1, 0], [0.8, 0.6]), [1, -1]), np.array([1, -0.6]) / 1.36**0.5, atol=1e-6
    )


def test_the_subject_stays_even_under_strong_and_close_negatives():
    subject, close = [1.0, 0.0, 0.0], [0.99, 0.1, 0.1]
    for weight in (1, 3, 10):
        assert combine(vectors(subject, close), [1, -weight]) @ np.array(subject) > 0.55


def test_naive_subtraction_would_lose_the_subject_here():
    subject, negative = vectors([0.9, 0.436, 0])[0], vectors([0.9, 0, 0.436])[0]
    subject, negative = subject / np.linalg.norm(subject), negative / np.linalg.norm(negative)
    naive = subject - negative
    naive /= np.linalg.norm(naive)
    ours = combine(np.stack([subject, negative]), [1, -1])
    assert naive @ subject < 0.35
    assert ours @ subject > 0.85
    assert ours @ negative < subject @ negative - 0.3


def test_only_negative_parts_point_away():
    np.testing.assert_allclose(combine(vectors([0, 2]), [-1]), [0, -1], atol=1e-6)


def test_a_picture_minus_itself_is_the_picture():
    np.testing.assert_allclose(combine(vectors([0.6, 0.8], [0.6, 0.8]), [1, -1]), [0.6, 0.8], atol=1e-6)


def test_parts_that_cancel_and_vectors_without_direction_are_refused():
    with pytest.raises(InputError, match="cancel each other"):
        combine(vectors([1, 0], [-1, 0]), [1, 1])
    for broken in ([0, 0], [np.nan, 1]):
        with pytest.raises(InputError, match="no direction"):
            combine(vectors([1, 0], broken), [1, 1])

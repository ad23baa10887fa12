import math

import pytest

from captioning_fakes import caption_of
from sightline.captioning.fuse import FusionWeights, fuse, standardise
from sightline.errors import InputError, ModelError


def test_standardising_by_hand():
    # mean 3, population deviation sqrt((4 + 0 + 4) / 3) = 1.632993
    assert standardise([1, 3, 5], what="x") == pytest.approx([-1.224745, 0, 1.224745], abs=1e-6)


def test_equal_single_and_missing_values_decide_nothing():
    assert standardise([2.0, 2.0], what="x") == [0, 0]
    assert standardise([7.0], what="x") == [0]
    assert standardise([None, None], what="x") == [0, 0]
    assert standardise([], what="x") == []


def test_a_missing_value_counts_as_average():
    # known 1 and 3: mean 2, deviation 1
    assert standardise([1.0, None, 3.0], what="x") == [-1, 0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ModelError, match="log-probability that isn't finite"):
        fuse([caption_of("a", 0.2, value)], [caption_of("b", 0.3, -1.0)])
    with pytest.raises(ModelError, match="similarity that isn't finite"):
        fuse([caption_of("a", value, -1.0)], [])


# similarity   a 0.30, b 0.24, c 0.24: mean 0.26, deviation 0.0282843 -> z  1.41421, -0.70711, -0.70711
# log_prob     a -5,   b -2,   c -2:   mean -3,   deviation 1.4142136 -> z -1.41421,  0.70711,  0.70711
CLIP = [caption_of("a", 0.30, -5.0), caption_of("b", 0.24, -2.0)]
GENERATED = [caption_of("c", 0.24, -2.0, source="blip")]


@pytest.mark.parametrize(
    ("similarity", "log_prob", "order"),
    [
        (1, 0, "acb"),
        (0, 1, "cba"),
        (2, 1, "acb"),
        (1, 2, "cba"),
        (1, 1, "acb"),  # 1.41421 - 1.41421 = 0 = -0.70711 + 0.70711: a tie, which the similarity decides
    ],
)
def test_the_weighted_sum_by_hand(similarity, log_prob, order):
    fused = fuse(CLIP, GENERATED, weights=FusionWeights(similarity=similarity, log_prob=log_prob))
    assert "".join(caption.text for caption in fused) == order
    assert [caption.best for caption in fused] == [True, False, False]


def test_only_the_ratio_of_the_weights_matters():
    for factor in (0.1, 7):
        weights = FusionWeights(similarity=factor, log_prob=2 * factor)
        assert [c.text for c in fuse(CLIP, GENERATED, weights=weights)] == ["c", "b", "a"]


def test_without_a_generator_similarity_decides():
    assert [c.text for c in fuse([caption_of("low", 0.1), caption_of("high", 0.3)], [])] == ["high", "low"]


def test_one_caption_is_the_best():
    (only,) = fuse([], [caption_of("only", source="blip")])
    assert only.best


def test_the_same_words_from_both_are_one_caption_with_both_values():
    clip = [caption_of("A dog  runs", 0.3, None)]
    generated = [caption_of("a dog runs.", None, -1.0, source="blip")]
    (merged,) = fuse(clip, generated)
    assert (merged.text, merged.source, merged.similarity, merged.log_prob) == ("a dog runs.", "blip", 0.3, -1.0)


def test_a_zero_value_is_kept_when_copies_are_merged():
    (merged,) = fuse([caption_of("x", 0.5, -9.0)], [caption_of("x", 0.0, 0.0, source="blip")])
    assert (merged.similarity, merged.log_prob) == (0.0, 0.0)


def test_an_older_best_flag_does_not_survive():
    winner, loser = fuse([caption_of("high", 0.3)], fuse([caption_of("low", 0.1)], []))
    assert (winner.text, winner.best, loser.best) == ("high", True, False)


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match="no caption to choose from"):
        fuse([], [])


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(InputError, match="Fusion weights must be finite"):
        FusionWeights(similarity=weights[0], log_prob=weights[1])

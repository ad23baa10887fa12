import math

import pytest

from captioning_fakes import caption_of
from sightline.core.captioning.fuse import FusionWeights, fuse
from sightline.errors import InputError, ModelError


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ModelError, match="log-probability that isn't finite"):
        fuse([caption_of("a", 0.2, value)], [caption_of("b", 0.3, -1.0)], temperature=100)
    with pytest.raises(ModelError, match="similarity that isn't finite"):
        fuse([caption_of("a", value, -1.0)], [], temperature=100)


# With temperature 50, in nats: a 15 - 5 = 10, b 12 - 2 = 10, c 12 - 2.5 = 9.5
CLIP = [caption_of("a", 0.30, -5.0), caption_of("b", 0.24, -2.0)]
GENERATED = [caption_of("c", 0.24, -2.5, source="generated")]


@pytest.mark.parametrize(
    ("similarity", "log_prob", "order"),
    [
        (1, 0, "acb"),  # b and c tie; the generator's comes first
        (0, 1, "bca"),
        (2, 1, "abc"),  # 25, 22, 21.5
        (1, 2, "bca"),  # 5, 8, 7
        (1, 1, "abc"),  # a and b tie at 10: the similarity decides
    ],
)
def test_the_weighted_sum_by_hand(similarity, log_prob, order):
    weights = FusionWeights(similarity=similarity, log_prob=log_prob, least_log_prob=-math.inf)
    fused = fuse(CLIP, GENERATED, temperature=50, weights=weights)
    assert "".join(caption.text for caption in fused) == order
    assert [caption.best for caption in fused] == [True, False, False]


def test_a_sharper_model_has_more_to_say():
    assert [fuse(CLIP, GENERATED, temperature=t)[0].text for t in (20, 100)] == ["b", "a"]


def test_other_candidates_do_not_change_who_is_better():
    alone = [c.text for c in fuse(CLIP[:1], GENERATED, temperature=15)]
    crowd = [caption_of(f"x{i}", 0.29, -6.0) for i in range(5)]
    among = [c.text for c in fuse([*CLIP[:1], *crowd], GENERATED, temperature=15) if c.text in "ac"]
    assert alone == among == ["c", "a"]


@pytest.mark.parametrize(("least", "best"), [(-3.0, "a zebra"), (-6.0, "a dog")])
def test_a_generator_that_never_heard_of_a_thing_cannot_rule_it_out(least, best):
    # in nats: a zebra 16 - 2 x 5, at least 16 - 2 x 3; a dog 9 - 2 x 0.5
    ranked, generated = caption_of("a zebra", 0.32, -5.0), caption_of("a dog", 0.18, -0.5, source="generated")
    weights = FusionWeights(log_prob=2.0, least_log_prob=least)
    assert fuse([ranked], [generated], temperature=50, weights=weights)[0].text == best


@pytest.mark.parametrize("least", [0.0, 1.0, math.nan])
def test_a_least_log_probability_that_is_none_is_refused(least):
    with pytest.raises(InputError, match="must be below 0"):
        FusionWeights(least_log_prob=least)


def test_a_missing_value_counts_as_average():
    # log-probabilities -1, -3 and the mean -2 for y; similarities are equal
    pool = [caption_of("x", 0.2, -1.0), caption_of("y", 0.2, None), caption_of("z", 0.2, -3.0)]
    assert [c.text for c in fuse(pool, [], temperature=100)] == ["x", "y", "z"]


def test_only_the_ratio_of_the_weights_matters():
    for factor in (0.1, 7):
        weights = FusionWeights(similarity=factor, log_prob=2 * factor, least_log_prob=-6)
        assert [c.text for c in fuse(CLIP, GENERATED, temperature=50, weights=weights)] == ["b", "c", "a"]


def test_without_a_generator_similarity_decides():
    assert [c.text for c in fuse([caption_of("low", 0.1), caption_of("high", 0.3)], [], temperature=100)] == [
        "high",
        "low",
    ]


def test_one_caption_is_the_best():
    (only,) = fuse([], [caption_of("only", source="generated")], temperature=100)
    assert only.best


def test_the_same_words_from_both_are_one_caption_with_both_values():
    clip = [caption_of("A dog  runs", 0.3, None)]
    generated = [caption_of("a dog runs.", None, -1.0, source="generated")]
    (merged,) = fuse(clip, generated, temperature=100)
    assert (merged.text, merged.source, merged.similarity, merged.log_prob) == ("a dog runs.", "generated", 0.3, -1.0)


def test_a_zero_value_is_kept_when_copies_are_merged():
    (merged,) = fuse([caption_of("x", 0.5, -9.0)], [caption_of("x", 0.0, 0.0, source="generated")], temperature=100)
    assert (merged.similarity, merged.log_prob) == (0.0, 0.0)


def test_an_older_best_flag_does_not_survive():
    winner, loser = fuse(
        [caption_of("high", 0.3)], fuse([caption_of("low", 0.1)], [], temperature=100), temperature=100
    )
    assert (winner.text, winner.best, loser.best) == ("high", True, False)


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match="no caption to choose from"):
        fuse([], [], temperature=100)


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(InputError, match="Fusion weights must be finite"):
        FusionWeights(similarity=weights[0], log_prob=weights[1])


def test_who_names_people_is_weighed_by_whether_they_are_there():
    # 15 - 1.5 nats for the woman, 12.5 - 1.5 for the sofa: a difference of 2.5
    seen = [caption_of("A Woman, on a sofa", 0.30, -1.0, source="generated")]
    ranked = [caption_of("a sofa", 0.25, -1.0)]
    for people_nats, best in ((0.0, "A Woman, on a sofa"), (-2.4, "A Woman, on a sofa"), (-2.6, "a sofa")):
        assert fuse(ranked, seen, temperature=50, people_nats=people_nats)[0].text == best

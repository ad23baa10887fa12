import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from evaluation_fakes import dataset, pair, unit
from sightline.errors import InputError
from sightline.lab.evaluation.compose import (
    ComposeEvaluator,
    compare_sentences,
    find_twins,
    score_quartets,
)
from sightline.lab.evaluation.embedding import EvalConfig
from sightline.lab.evaluation.results import Bootstrap


def choices(images, true, false, image=None, kinds=None):
    image = np.arange(len(images)) if image is None else np.array(image)
    return compare_sentences(images, true, false, image_N=image, kinds=kinds or ["attribute"] * len(images))


def test_the_nearer_sentence_is_chosen_and_ties_are_half():
    found = choices(unit(0, 0, 0, 0), unit(10, 50, 30, 20), unit(20, 10, -30, 20 + 1e-6))
    assert [
        choices(unit(0), unit(a), unit(b)).metrics()["compose_mean"] for a, b in ((10, 20), (50, 10), (30, -30))
    ] == [1, 0, 0.5]
    assert found.metrics() == {"compose_attribute": 0.5, "compose_mean": 0.5}


def test_a_text_tower_that_sees_only_words_gets_one_half():
    found = choices(unit(*range(100)), unit(*range(100, 200)), unit(*range(100, 200)))
    assert found.metrics()["compose_mean"] == 0.5


def test_the_mean_is_over_kinds_not_comparisons():
    found = choices(unit(0, 0, 0), unit(1, 1, 50), unit(9, 9, 9), kinds=["count", "count", "relation"])
    assert found.metrics() == {"compose_count": 1, "compose_relation": 0, "compose_mean": 0.5}


def test_intervals_resample_images_with_all_their_comparisons(rng):
    angles = rng.uniform(-60, 60, (2, 300))
    every = choices(unit(*[0] * 300), unit(*angles[0]), unit(*angles[1]))
    grouped = choices(unit(*[0] * 300), unit(*angles[0]), unit(*angles[1]), image=np.repeat([4, 9, 7], 100))
    config = Bootstrap(resamples=200)
    low, high = every.intervals(config)["compose_mean"]
    assert low < every.metrics()["compose_mean"] < high
    assert every.intervals(config)["compose_attribute"] == (low, high)
    assert grouped.intervals(config)["compose_mean"] != (low, high)
    without_gaps = choices(unit(*[0] * 300), unit(*angles[0]), unit(*angles[1]), image=np.repeat([0, 2, 1], 100))
    assert grouped.intervals(config) == without_gaps.intervals(config)


def test_a_kind_of_few_images_has_an_interval_too():
    kinds = ["rare"] + ["usual"] * 19
    found = choices(unit(*[0] * 20), unit(*[1] * 20), unit(*[5] * 20), kinds=kinds)
    assert found.intervals(Bootstrap(resamples=50))["compose_mean"] == (1, 1)


def test_the_evaluator_measures_an_encoder():
    scenes = dataset(
        pair("a", "red", "red", negatives=[("a red wall", "a blue wall", "attribute"), ("red", "green", "attribute")]),
        pair("b", "blue", "blue"),
        pair("c", "green", "green", negatives=[("a red wall", "a green wall", "relation")]),
        pair("d", "broken", "x", negatives=[("a", "b", "relation")]),
    )
    result = ComposeEvaluator().run(FakeEncoder(), scenes)
    assert result.metrics == {"compose_attribute": 1, "compose_relation": 0, "compose_mean": 0.5}
    assert (result.n_images, result.n_texts) == (2, 5)
    assert result.details["comparisons"] == {"attribute": 2, "relation": 1}
    assert [problem.id for problem in result.problems] == ["d"]


def test_the_evaluator_needs_hard_negatives():
    with pytest.raises(InputError, match=r"no hard negatives\. Sets that have: scenes"):
        ComposeEvaluator().run(FakeEncoder(), dataset(pair("a", "red", "red")))
    unreadable = dataset(pair("a", "red", "red"), pair("b", "broken", "x", negatives=[("a", "b", "count")]))
    with pytest.raises(InputError, match="None of the pictures of fake:colours that have hard negatives can be read"):
        ComposeEvaluator().run(FakeEncoder(), unreadable)
    with pytest.raises(InputError, match="batch_size"):
        EvalConfig(batch_size=0)


def test_quartets_are_right_by_text_by_image_and_as_a_group():
    twins = find_twins([("a", "b"), ("b", "a"), ("c", "d"), ("e", "f"), ("d", "c"), ("f", "e")])
    assert twins == [(0, 1), (2, 4), (3, 5)]
    images = unit(0, 90, 0, 0, 10, 40)  # of a, b, c, e, d, f
    true = unit(5, 80, 5, 30, 20, 45)
    found = score_quartets(images, true, twins)
    # a, b: all are nearest to their own; c, d: image 10 prefers text 5, which is as near to image 0; e, f: image 40 is
    # nearest to both texts
    assert found.metrics() == pytest.approx(
        {"winoground_text_score": 2 / 3, "winoground_image_score": 1 / 3, "winoground_group_score": 1 / 3}
    )
    tied = score_quartets(unit(0, 0), unit(5, 5), [(0, 1)])
    assert set(tied.metrics().values()) == {0}


def test_only_what_comes_in_quartets_is_scored_so():
    assert find_twins([("a", "b"), ("b", "a"), ("c", "d")]) == []
    assert find_twins([]) == []

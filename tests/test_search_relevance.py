"""Probabilities of hits, verdicts on queries, and what is said of words that a model doesn't know."""

import numpy as np
import pytest

from sightline.core.models.bank import Bank
from sightline.core.models.cards import STARTER, find_card
from sightline.core.models.inputs import TextReading
from sightline.core.search.relevance import DEFAULT, FITTED, Calibration, Context, Judge, Verdict, count_likely
from sightline.errors import ModelError

SURE = Calibration(hit={"constant": -5.0, "score": 20.0}, query={"constant": -5.0, "score": 20.0})


def context(sample=(0.0, 0.1, 0.2), **changes):
    made = {"query_D": np.array([1, 0], np.float32), "images": 100, "tokens": 3, "bank": None, **changes}
    return Context.make(made.pop("query_D"), np.array(sample, np.float32), **made)


def reading(**changes):
    return TextReading(**{"tokens": 3, "read": 3, "words": 2, "unknown": (), **changes})


def test_a_probability_is_the_logistic_of_the_features():
    judge = Judge(model="m", calibration=SURE, context=context())
    assert judge.rate([0.25, 0.5]) == [pytest.approx(0.5), pytest.approx(1 / (1 + np.exp(-5)))]


def test_features_tell_of_the_library_the_bank_and_the_query():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [-1, 0]], np.float32)
    bank = Bank(vectors_BD=rows, images_ID=rows[:4], weights_hash="w")
    features = context(bank=bank, hub_weight=0.5).features(np.array([0.3]))
    background = rows[:4] @ [1, 0] - 0.5 * bank.image_hubness_I
    assert features["background_mean"] == pytest.approx(background.mean())
    assert features["background_spread"] == pytest.approx(background.std())
    assert features["library_mean"] == pytest.approx(np.concatenate([[0, 0.1, 0.2], background]).mean())
    assert features["words"] == pytest.approx(np.log(4))
    assert features["images"] == pytest.approx(np.log(101))


def test_a_library_of_one_image_has_no_spread_to_divide_by():
    rated = Judge(model="m", context=context(sample=[0.3], images=1)).rate([0.3])
    assert 0 < rated[0] < 0.2
    assert Judge(model="m", context=context(sample=[], images=0)).rate([]) == []


def test_the_starters_probability_grows_with_the_score_for_any_query():
    calibration = Calibration.from_card(find_card(STARTER).relevance, model=STARTER)
    assert set(calibration.hit) == {"constant", *FITTED}
    assert calibration.hit["score"] > 0
    assert calibration.query["score"] > 0
    assert calibration.needs_bank


def test_a_query_that_nothing_matches_gets_a_notice_and_keeps_its_hits():
    judge = Judge(model="m", calibration=SURE, context=context())
    verdict = judge.conclude(0.0)
    assert not verdict.matches
    assert verdict.notices == ("Nothing here matches; the nearest images follow.",)
    found = judge.conclude(0.5)
    assert found.present == pytest.approx(1 / (1 + np.exp(-5)))
    assert found.notices == ()
    assert judge.conclude(None).notices == judge.conclude(0.0, some_follow=False).notices == (), "nothing follows"


def test_without_a_calibration_nothing_is_said_of_the_whole():
    assert Judge(model="m", calibration=DEFAULT, context=context()).conclude(0.0) == Verdict()


def test_matched_captions_have_no_verdict():
    assert Judge(model="m", calibration=SURE, context=context(), by_sight=False).conclude(0.0) == Verdict()


def test_words_that_the_model_cant_know_are_named_in_one_line():
    judge = Judge(model="m", context=context(), readings=[reading(unknown=("犬",), words=1), reading()])
    assert judge.conclude(None).notices == (), "one of three words"
    judge = Judge(model="m", context=context(), readings=[reading(unknown=("xqzv", "blorf"), words=2)])
    assert judge.conclude(None).notices == ("The model m doesn't know these words: xqzv, blorf.",)


def test_a_query_that_was_cut_is_told():
    judge = Judge(model="m", context=context(), readings=[reading(tokens=90, read=62, words=70)])
    assert judge.conclude(None).notices == (
        "The query is too long for the model m, which read the first 62 of its 90 word pieces.",
    )


def test_hits_are_counted_up_to_the_last_likely_one():
    assert count_likely([0.9, 0.4, 0.05, 0.01]) == 2
    assert count_likely([0.9, 0.05, 0.4, 0.01]) == 3
    assert count_likely([0.05]) == 0
    assert count_likely([None, None]) == 2
    assert count_likely([]) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"hit": {"score": 1}},
        {"hit": {"score": "high"}, "query": {"score": 1}},
        {"hit": {"colour": 1}, "query": {"score": 1}},
        {"hit": [1, 2], "query": {"score": 1}},
    ],
)
def test_a_calibration_that_is_none_names_the_model_and_the_features(values):
    with pytest.raises(ModelError, match=r"card of m .*maps some of constant, score, .*Leave the field out"):
        Calibration.from_card(values, model="m")


def test_each_kind_of_query_has_a_calibration_of_its_own():
    words, images = ({"hit": {"score": value}, "query": {"score": 1}} for value in (1.0, 2.0))
    values = {**words, "images": images, "marks": {"hit": {"score": 3}, "query": {}}, "minus": {"hit": {"score": 1}}}
    assert Calibration.from_card(values, model="m").hit == {"score": 1}
    assert Calibration.from_card(values, model="m", kind="images").hit == {"score": 2}
    assert Calibration.from_card(values, model="m", kind="marks").query == {}
    for kind in ("taught", "other"):
        assert Calibration.from_card(values, model="m", kind=kind) is DEFAULT
    for broken in (values, {**words, "minus": "low"}):
        with pytest.raises(ModelError, match=r"part 'minus\.(query|hit)' is no calibration"):
            Calibration.from_card(broken, model="m", kind="minus")


def test_the_starter_has_a_calibration_for_each_kind_that_one_was_fitted_for():
    values = find_card(STARTER).relevance
    for kind in ("images", "taught", "marks", "minus"):
        calibration = Calibration.from_card(values, model=STARTER, kind=kind)
        assert set(calibration.hit) == {"constant", *FITTED}
        assert calibration.hit["score"] > 0


def test_a_card_without_one_gets_the_default():
    assert Calibration.from_card({}, model="m") is DEFAULT

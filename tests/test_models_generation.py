"""Decoding against hand-computed and enumerated answers of small Markov chains."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from sightline.core.models.base import GenerationConfig
from sightline.core.models.generation import Frame, generate_tokens, score_tokens
from sightline.errors import InputError, ModelError

BOS, EOS = 0, 1
FRAME = Frame(start_ids=(BOS,), eos_id=EOS, pad_id=BOS, banned_ids=(BOS,))
IMPOSSIBLE = -math.inf


class MarkovDecoder:
    """The next token depends on the image and the last token only: tables (images, V, V) of logits."""

    scored_rows = 16

    def __init__(self, tables):
        self.tables = np.asarray(tables, dtype=np.float32)
        self.rows_run = []

    def next_logits(self, ids_NL, images_N):
        self.rows_run.append(len(ids_NL))
        return self.tables[images_N, ids_NL[:, -1]]

    def all_logits(self, ids_NL, images_N):
        return self.tables[images_N[:, None], ids_NL]


def random_chain(seed, *, vocabulary=6, images=1, sharpness=2.0):
    return MarkovDecoder(sharpness * np.random.default_rng(seed).normal(size=(images, vocabulary, vocabulary)))


def settings(**changes):
    plain = {"beams": 1, "min_tokens": 1, "max_tokens": 8, "no_repeat_ngram": 0}
    return GenerationConfig(**{**plain, **changes})


def generate(decoder, config, *, frame=FRAME, seeds=None):
    seeds = range(len(decoder.tables)) if seeds is None else seeds
    return generate_tokens(decoder, config, frame=frame, image_seeds=list(seeds))


def chain_log_probs(table):
    """Log-probabilities of a table in double precision, computed another way than the code under test."""
    table = np.asarray(table, dtype=np.float64)
    return np.log(np.exp(table) / np.exp(table).sum(axis=-1, keepdims=True))


def enumerate_sequences(table, *, max_tokens):
    """Every sequence a decoder may write, BOS first, with its mean log-probability, best first."""
    log_probs, found = chain_log_probs(table), []
    words = [token for token in range(len(table)) if token not in (BOS, EOS)]
    for length in range(1, max_tokens + 1):
        for chosen in itertools.product(words, repeat=length):
            ids = (BOS, *chosen) if length == max_tokens else (BOS, *chosen, EOS)
            steps = [log_probs[a, b] for a, b in itertools.pairwise(ids)]
            found.append((sum(steps) / len(steps), ids))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_as_wide_as_the_tree_finds_every_sequence(seed):
    decoder = random_chain(seed, vocabulary=5)
    expected = enumerate_sequences(decoder.tables[0], max_tokens=4)
    (found,) = generate(decoder, settings(beams=200, num_candidates=200, max_tokens=4))
    assert found[0].ids == expected[0][1]
    assert {one.ids: pytest.approx(one.log_prob, rel=1e-5) for one in found} == {ids: mean for mean, ids in expected}
    np.testing.assert_allclose([one.log_prob for one in found], [mean for mean, _ in expected], rtol=1e-5)


def test_a_narrow_beam_finds_what_greedy_misses():
    # Greedy takes 2 (0.6) and then must accept 0.3 for each end; 3 (0.4) is followed by 0.9 and a sure end.
    probabilities = np.full((6, 6), 1e-9)
    probabilities[BOS, [2, 3]] = 0.6, 0.4
    probabilities[2, [3, 4, EOS]] = 0.3, 0.3, 0.4
    probabilities[3, [4, 5]] = 0.9, 0.1
    probabilities[[4, 5], EOS] = 1.0
    decoder = MarkovDecoder(np.log(probabilities)[None])
    ((greedy,),) = generate(decoder, settings())
    assert greedy.ids == (BOS, 2, EOS)
    assert greedy.log_prob == pytest.approx(math.log(0.6 * 0.4) / 2, abs=1e-6)
    (found,) = generate(decoder, settings(beams=2, num_candidates=2))
    assert found[0].ids == (BOS, 3, 4, EOS)
    assert found[0].log_prob == pytest.approx(math.log(0.4 * 0.9) / 3, abs=1e-6)


def greedy_by_hand(table, *, max_tokens, min_tokens):
    ids = [BOS]
    while len(ids) - 1 < max_tokens:
        row = np.array(table[ids[-1]], dtype=np.float64)
        row[BOS] = -np.inf
        if len(ids) - 1 < min_tokens:
            row[EOS] = -np.inf
        ids.append(int(row.argmax()))
        if ids[-1] == EOS:
            break
    return tuple(ids)


def test_one_beam_is_greedy_search_for_ragged_batches():
    decoder = random_chain(7, images=12, vocabulary=9)
    config = settings(min_tokens=2, max_tokens=10)
    found = generate(decoder, config)
    expected = [greedy_by_hand(table, max_tokens=10, min_tokens=2) for table in decoder.tables]
    assert [one.ids for (one,) in found] == expected
    assert len({len(ids) for ids in expected}) > 2, "the case must be ragged"
    # An image that has finished is never run again.
    assert decoder.rows_run == [
        sum(len(ids) > step + 1 for ids in expected) for step in range(max(decoder_steps(expected)))
    ]


def decoder_steps(sequences):
    return [len(ids) - 1 for ids in sequences]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_gives_what_each_image_gives_alone(beams):
    decoder = random_chain(3, images=5, vocabulary=12)
    config = settings(beams=beams, num_candidates=beams, no_repeat_ngram=2)
    together = generate(decoder, config)
    alone = [generate(MarkovDecoder(table[None]), config)[0] for table in decoder.tables]
    assert together == alone


def test_candidates_are_distinct_and_best_first():
    decoder = random_chain(11, images=4, vocabulary=10)
    for found in generate(decoder, settings(beams=5, num_candidates=5)):
        assert len({one.ids for one in found}) == len(found) == 5
        assert [one.log_prob for one in found] == sorted((one.log_prob for one in found), reverse=True)


def test_ties_go_to_the_lower_token():
    decoder = MarkovDecoder(np.zeros((1, 6, 6)))
    (found,) = generate(decoder, settings(beams=3, num_candidates=3, max_tokens=2))
    assert [one.ids for one in found] == [(BOS, 2, EOS), (BOS, 2, 2), (BOS, 2, 3)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_occurs_twice(size):
    # Each token most likes to be repeated, so that without the rule everything repeats.
    table = 5.0 * np.eye(8)
    table[:, EOS] = -3.0
    decoder = MarkovDecoder(table[None])
    for config in (
        settings(beams=2, num_candidates=2, max_tokens=12, no_repeat_ngram=size),
        settings(sample=True, num_candidates=3, max_tokens=12, no_repeat_ngram=size),
    ):
        for one in generate(decoder, config)[0]:
            ngrams = list(zip(*(one.ids[start:] for start in range(size)), strict=False))
            assert len(set(ngrams)) == len(ngrams)
    (repeating,) = generate(decoder, settings(max_tokens=12))[0]
    assert len(set(repeating.ids)) < len(repeating.ids)


def test_a_sentence_ends_where_the_rules_forbid_every_token():
    table = np.full((1, 4, 4), 0.0)
    table[..., EOS] = IMPOSSIBLE
    for changes in ({}, {"sample": True}):
        config = settings(no_repeat_ngram=1, max_tokens=8, **changes)
        ((one,),) = generate(MarkovDecoder(table), config)
        assert sorted(one.ids) == [BOS, 2, 3]


def test_the_repetition_penalty_multiplies_log_probabilities():
    # From 2: repeating has log(0.5) = -0.69, going on to 3 has log(0.4) = -0.92; a penalty of 1.5 makes -1.04 of it.
    probabilities = np.full((1, 4, 4), 1e-9)
    probabilities[0, BOS, 2] = 1.0
    probabilities[0, 2, [2, 3, EOS]] = 0.5, 0.4, 0.1
    probabilities[0, 3, EOS] = 1.0
    decoder = MarkovDecoder(np.log(probabilities))
    assert generate(decoder, settings(max_tokens=3))[0][0].ids == (BOS, 2, 2, 2)
    ((one,),) = generate(decoder, settings(max_tokens=3, repetition_penalty=1.5))
    assert one.ids == (BOS, 2, 3, EOS)
    assert one.log_prob == pytest.approx(math.log(0.4) / 3, abs=1e-5), "the penalty stays out of the log-probability"


def test_lengths_count_the_prompt_but_neither_bos_nor_eos():
    table = np.zeros((1, 5, 5))
    table[..., EOS] = 9.0
    prompted = Frame(start_ids=(BOS, 2, 3), eos_id=EOS, pad_id=BOS, banned_ids=(BOS,))
    ((one,),) = generate(MarkovDecoder(table), settings(min_tokens=5), frame=prompted)
    assert one.ids[:3] == (BOS, 2, 3)
    assert one.ids[-1] == EOS
    assert len(one.ids) == 1 + 5 + 1
    ((shortest,),) = generate(MarkovDecoder(table), settings(min_tokens=1), frame=prompted)
    assert len(shortest.ids) == 1 + 2 + 1 + 1, "at least one token is written after the prompt"
    table[..., EOS] = -9.0
    ((cut,),) = generate(MarkovDecoder(table), settings(max_tokens=4), frame=prompted)
    assert len(cut.ids) == 1 + 4
    assert EOS not in cut.ids


def test_the_prompt_is_left_out_of_the_log_probability():
    decoder = random_chain(2)
    prompted = Frame(start_ids=(BOS, 4, 2), eos_id=EOS, pad_id=BOS, banned_ids=(BOS,))
    ((one,),) = generate(decoder, settings(max_tokens=6), frame=prompted)
    log_probs = chain_log_probs(decoder.tables[0])
    steps = [log_probs[a, b] for a, b in itertools.pairwise(one.ids[2:])]
    assert one.log_prob == pytest.approx(sum(steps) / len(steps), rel=1e-5)


def test_a_prompt_that_fills_the_caption_is_refused():
    prompted = Frame(start_ids=(BOS, 2, 3, 4), eos_id=EOS, pad_id=BOS)
    with pytest.raises(InputError, match="The prompt has 3 tokens; with max_tokens=3 at most 2 fit"):
        generate(random_chain(0), settings(max_tokens=3), frame=prompted)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    tables = np.zeros((1, 5, 5))
    tables[0, 2, 3] = bad
    with pytest.raises(ModelError, match="not finite"):
        generate(MarkovDecoder(tables), settings())
    with pytest.raises(ModelError, match="not finite"):
        score_tokens(MarkovDecoder(tables), [(2, 3)], [0], frame=FRAME)


def test_samples_have_the_chains_frequencies():
    probabilities = np.full((5, 5), 1e-12)
    probabilities[BOS, [2, 3, 4]] = 0.5, 0.3, 0.2
    probabilities[2:, EOS] = 1.0
    decoder = MarkovDecoder(np.broadcast_to(np.log(probabilities), (2000, 5, 5)))
    counts = Counter(one.ids[1] for (one,) in generate(decoder, settings(sample=True, top_p=1.0)))
    assert [counts[token] / 2000 for token in (2, 3, 4)] == pytest.approx([0.5, 0.3, 0.2], abs=0.035)
    # Temperature 0.5 squares the probabilities: 0.25, 0.09, 0.04 of 0.38.
    cold = Counter(one.ids[1] for (one,) in generate(decoder, settings(sample=True, top_p=1.0, temperature=0.5)))
    assert [cold[token] / 2000 for token in (2, 3, 4)] == pytest.approx([0.658, 0.237, 0.105], abs=0.035)
    # The nucleus of 0.7 is {2, 3}: 0.5 alone doesn't reach it.
    nucleus = Counter(one.ids[1] for (one,) in generate(decoder, settings(sample=True, top_p=0.7)))
    assert [nucleus[token] / 2000 for token in (2, 3, 4)] == pytest.approx([0.625, 0.375, 0.0], abs=0.035)
    # A nucleus that one token fills is greedy search.
    assert {one.ids[1] for (one,) in generate(decoder, settings(sample=True, top_p=0.4))} == {2}


def test_samples_depend_on_the_seeds_and_not_on_the_batch():
    decoder = random_chain(5, images=6, vocabulary=20, sharpness=1.0)
    config = settings(sample=True, num_candidates=3, top_p=1.0)
    together = generate(decoder, config, seeds=[9, 8, 7, 6, 5, 4])
    assert generate(decoder, config, seeds=[9, 8, 7, 6, 5, 4]) == together
    assert generate(MarkovDecoder(decoder.tables[3:4]), config, seeds=[6]) == together[3:4]
    assert generate(decoder, config, seeds=[1, 2, 3, 4, 5, 6]) != together
    other = settings(sample=True, num_candidates=3, top_p=1.0, seed=1)
    assert generate(decoder, other, seeds=[9, 8, 7, 6, 5, 4]) != together


def test_sampling_goes_on_until_the_candidates_differ():
    # Two sentences exist, 0.85 and 0.15: a single round of two samples mostly gives the first twice.
    probabilities = np.full((4, 4), 1e-12)
    probabilities[BOS, [2, 3]] = 0.85, 0.15
    probabilities[2:, EOS] = 1.0
    decoder = MarkovDecoder(np.broadcast_to(np.log(probabilities), (50, 4, 4)))
    found = generate(decoder, settings(sample=True, num_candidates=2, top_p=1.0))
    assert all(len({one.ids for one in several}) == len(several) for several in found)
    assert np.mean([len(several) == 2 for several in found]) > 0.6
    (single,) = generate(MarkovDecoder(decoder.tables[:1]), settings(sample=True, num_candidates=3, top_p=0.5))
    assert [one.ids for one in single] == [(BOS, 2, EOS)], "a certain model has one thing to say"


def test_scores_are_those_of_generation():
    decoder = random_chain(13, images=60, vocabulary=8)
    found = generate(decoder, settings(beams=3, num_candidates=3, max_tokens=12))
    ended = [(image, one) for image, several in enumerate(found) for one in several if one.ids[-1] == EOS]
    assert len(ended) > 40, "several runs, of sequences of different lengths"
    scores = score_tokens(decoder, [one.ids[1:-1] for _, one in ended], [image for image, _ in ended], frame=FRAME)
    np.testing.assert_allclose(scores, [one.log_prob for _, one in ended], rtol=1e-5)


def test_scoring_nothing_gives_nothing():
    assert score_tokens(random_chain(0), [], [], frame=FRAME) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"num_candidates": 0}, "num_candidates must be at least 1"),
        ({"min_tokens": 0}, "min_tokens must be at least 1"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_tokens": 3}, r"max_tokens \(3\) must be at least min_tokens \(4\)"),
        ({"num_candidates": 4}, "3 beams give at most 3 captions, not 4"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty must be above 0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\]"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        GenerationConfig(**changes)

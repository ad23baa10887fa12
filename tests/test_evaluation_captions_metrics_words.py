"""BLEU, ROUGE-L and CIDEr on cases that can be counted by hand."""

import math

import numpy as np
import pytest

from sightline.errors import InputError
from sightline.lab.evaluation.captions.metrics import (
    cider,
    count_bleu,
    count_documents,
    count_ngrams,
    rouge_l,
    score_words,
)


def split(*texts):
    return [text.split() for text in texts]


def test_ngrams_are_counted_up_to_four_words():
    assert count_ngrams(["a", "b", "a", "b", "a"])["a", "b"] == 2
    assert max(map(len, count_ngrams(["a", "b", "c", "d", "e"]))) == 4
    assert not count_ngrams([])


def test_bleu_clips_counts_as_in_the_paper_s_example():
    counts = count_bleu(
        split("the the the the the the the"), [split("the cat is on the mat", "there is a cat on the mat")]
    )
    assert counts.matched_NK[0].tolist() == [2, 0, 0, 0]
    assert counts.of(np.ones((1, len(counts.length_N))))[0, 0] == pytest.approx(2 / 7)


def test_bleu_of_an_exact_caption_is_one():
    assert count_bleu(split("a b c d e"), [split("x", "a b c d e")]).of(np.ones((1, 1)))[0] == pytest.approx(
        [1, 1, 1, 1]
    )


def test_bleu_punishes_captions_shorter_than_the_closest_reference():
    counts = count_bleu(split("a b"), [split("a b c", "a b c d e f")])
    assert counts.closest_N.tolist() == [3]
    assert counts.of(np.ones((1, len(counts.length_N))))[0, 0] == pytest.approx(math.exp(1 - 3 / 2))


def test_of_two_references_as_close_the_shorter_counts():
    assert count_bleu(split("a b c"), [split("a b c d", "a b")]).closest_N.tolist() == [2]


def test_bleu_of_a_corpus_is_of_the_sums_not_the_mean():
    counts = count_bleu(split("a", "x y z"), [split("a"), split("x q r")])
    assert counts.of(np.ones((1, len(counts.length_N))))[0, 0] == pytest.approx(2 / 4)
    assert counts.of(np.eye(2))[:, 0] == pytest.approx([1, 1 / 3])


def test_bleu_of_resampled_corpora_counts_images_as_often_as_drawn():
    counts = count_bleu(split("a", "x y z"), [split("a"), split("x q r")])
    assert counts.of(np.array([[2.0, 0], [0, 2], [1, 1]]))[:, 0] == pytest.approx([1, 1 / 3, 1 / 2])


def test_bleu_of_no_words_is_zero_not_nan():
    assert count_bleu([[]], [split("a b")]).of(np.ones((1, 1)))[0] == pytest.approx([0, 0, 0, 0])


def test_rouge_l_weighs_recall_more():
    # common subsequence `a c d`: precision 3/4, recall 3/5
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(split("a c x d"), [split("a b c d e")])[0] == pytest.approx(expected)


def test_rouge_l_takes_precision_and_recall_from_different_references():
    # precision 2/3 of the first, recall 1 of the second
    expected = 2.44 * (2 / 3) / (1 + 1.44 * 2 / 3)
    assert rouge_l(split("a b c"), [split("a b x y z", "c")])[0] == pytest.approx(expected)


def test_rouge_l_keeps_to_the_order_of_words():
    assert rouge_l(split("c b a"), [split("a b c")])[0] == pytest.approx(1 / 3)


def test_rouge_l_agrees_with_the_table_of_common_subsequences(rng):
    def by_table(one, other):
        table = np.zeros((len(one) + 1, len(other) + 1), int)
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        return table[-1, -1]

    for _ in range(50):
        one, other = (list(map(str, rng.integers(4, size=rng.integers(1, 90)))) for _ in range(2))
        precision, recall = by_table(one, other) / len(one), by_table(one, other) / len(other)
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
        assert rouge_l([one], [[other]])[0] == pytest.approx(expected)


def test_rouge_l_of_nothing_in_common_or_no_words_is_zero():
    assert rouge_l([*split("a"), []], [split("b"), split("b")]).tolist() == [0, 0]


def test_cider_of_a_caption_equal_to_its_only_reference_is_ten():
    same = split("a red dog runs", "one blue cat sits")
    assert cider(same, [[text] for text in same]) == pytest.approx([10, 10])


def test_cider_counts_only_the_n_that_a_caption_has():
    # two words: n-grams of 1 and 2, so two of the four cosines are 1
    assert cider(split("red dog", "blue cat"), [split("red dog"), split("blue cat")]) == pytest.approx([5, 5])


def test_cider_of_words_that_all_images_share_is_zero():
    assert cider(split("a", "a"), [split("a dog"), split("a cat")]).tolist() == [0, 0]


def test_cider_by_hand_for_one_word_in_common():
    # log 2 for every n-gram of one image: the unigram cosine is 1/(sqrt 2 sqrt 2), lengths are equal
    assert cider(split("red dog", "x"), [split("red cat"), split("x")])[0] == pytest.approx(10 * (1 / 2) / 4)


def test_cider_punishes_a_difference_in_length():
    # `b` alone is in common; three words more, of sigma 6
    alone = cider(split("b c", "x"), [split("b d e f g"), split("x")])[0]
    assert alone == pytest.approx(10 / 4 * (1 / math.sqrt(2 * 5)) * math.exp(-9 / 72))


def test_cider_clips_repetitions_to_the_reference():
    # min(3, 1) * 1 over 3 * 1: the cosine of the unigrams is a third; two words longer
    repeated = cider(split("b b b", "x"), [split("b"), split("x")])[0]
    assert repeated == pytest.approx(10 / 4 * (1 / 3) * math.exp(-4 / 72))


def test_cider_is_the_mean_over_references():
    both = cider(split("red dog", "x"), [split("red dog", "blue cat"), split("x")])[0]
    assert both == pytest.approx(2.5)


def test_cider_of_a_single_image_is_zero_as_no_word_is_rare():
    assert cider(split("a dog"), [split("a dog")]).tolist() == [0]


def test_cider_takes_document_frequencies_of_another_corpus():
    frequencies = count_documents([split("a dog"), split("a cat"), split("a bird")])
    assert frequencies.images_with["a",] == 3
    assert frequencies.weigh(("a",)) == 0
    assert frequencies.weigh(("unheard",)) == pytest.approx(math.log(3))
    assert cider(split("dog"), [split("dog")], frequencies=frequencies)[0] == pytest.approx(2.5)


def test_captions_that_don_t_fit_their_references_are_refused():
    with pytest.raises(InputError, match="2 captions and 1 sets"):
        score_words(["a", "b"], [["a"]])
    with pytest.raises(InputError, match="0 captions"):
        score_words([], [])
    with pytest.raises(InputError, match="1 of 2 images have no reference"):
        score_words(["a", "b"], [["a"], []])

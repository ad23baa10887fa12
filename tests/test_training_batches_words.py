import math

import numpy as np
import pytest
import torch

from sightline.lab.training.batches import FrequentWords, TokenTable
from sightline.lab.training.losses import WordsHead, words_loss
from sightline.lab.training.towers import BOS_ID, EOS_ID, PAD_ID

RED, RING, BLUE, HEART = range(10, 14)


def tiny_table(texts_of):
    """A table of these ids, each text with its start and end, padded to six."""
    rows = [[BOS_ID, *ids, EOS_ID] for texts in texts_of for ids in texts]
    return TokenTable(
        ids_CL=np.array([row + [PAD_ID] * (6 - len(row)) for row in rows], np.uint16),
        first_N=np.cumsum([0, *(len(texts) for texts in texts_of)]),
        length_C=np.array([len(row) for row in rows]),
        n_tokens=sum(map(len, rows)),
        n_lost=0,
    )


# Picture 0 has two captions, picture 1 none, picture 2 one.
TABLE = tiny_table([[[RED, RING], [RED, HEART]], [], [[BLUE, RED, RING]]])
# red 3; ring 2, (red, ring) 2; heart 1, (red, heart) 1, blue 1, (blue, red) 1, in the order of their first occurrence


def label(words, *rows):
    return words.labels(np.array(rows)).tolist()


def test_the_most_frequent_words_and_pairs_by_hand():
    words = FrequentWords(TABLE, count=3)
    assert words.count == 3
    assert label(words, 0, 1, 2) == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]  # red, ring, red ring
    assert label(FrequentWords(TABLE, count=5), 2, 0) == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]  # and heart, red heart
    assert label(FrequentWords(TABLE, count=7), 2) == [[1, 1, 1, 0, 0, 1, 1]]  # and blue, blue red


def test_words_are_found_in_any_caption_of_an_image_but_pairs_only_within_one():
    table = tiny_table([[[RED], [RING]], [[RED, RING]]])
    assert label(FrequentWords(table, count=9), 0, 1) == [[1, 1, 0], [1, 1, 1]]


def test_there_may_be_fewer_words_than_asked_for():
    words = FrequentWords(TABLE, count=500)
    assert words.count == 7
    assert words.labels(np.array([0, 0, 2])).shape == (3, 7)


def test_start_end_and_padding_are_no_words():
    assert FrequentWords(tiny_table([[[RED]], [[RED]]]), count=9).count == 1


def test_words_of_later_texts_are_labelled_too(monkeypatch):
    monkeypatch.setattr("sightline.lab.training.batches._COUNTED_TEXTS", 1)
    words = FrequentWords(tiny_table([[[RED]], [[BLUE, RED]]]), count=9)
    assert label(words, 0, 1) == [[1], [1]]  # only red was counted


def test_the_head_takes_the_evidence_of_the_cell_that_shows_a_word_best():
    head = WordsHead(2, 2)
    assert torch.equal(head.linear.bias.detach(), torch.full((2,), -3.0))  # at first every word is held for rare
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(2))
        head.linear.bias.copy_(torch.tensor([0.5, 0.0]))
    map_BHWD = torch.zeros(2, 2, 3, 2)
    map_BHWD[0, 1, 2] = torch.tensor([4.0, -9.0])
    map_BHWD[0, 0, 1] = torch.tensor([-7.0, 3.0])
    map_BHWD[1] = torch.tensor([-1.0, -2.0])
    assert head(map_BHWD).tolist() == [[4.5, 3.0], [-0.5, -2.0]]


def test_only_the_best_cell_learns():
    map_BHWD = torch.zeros(1, 2, 2, 1)
    map_BHWD[0, 1, 0] = 2.0
    map_BHWD.requires_grad_()
    head = WordsHead(1, 1)
    torch.nn.init.ones_(head.linear.weight)
    head(map_BHWD).sum().backward()
    assert map_BHWD.grad[0, :, :, 0].tolist() == [[0, 0], [1, 0]]


def test_the_loss_by_hand():
    logit_BK = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    label_BK = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sums = [math.log(2) + math.log(1 + math.exp(2)), math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))]
    assert words_loss(logit_BK, label_BK).item() == pytest.approx(sum(sums) / 2, rel=1e-6)


def test_the_loss_of_bf16_logits_is_fp32():
    logit_BK = torch.tensor([[0.3, -2.0]], dtype=torch.bfloat16)
    loss = words_loss(logit_BK, torch.tensor([[1.0, 0.0]]))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, words_loss(logit_BK.float(), torch.tensor([[1.0, 0.0]])))

import dataclasses

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from sightline.core.models.inputs import Tokenizer
from sightline.lab.training import batches as token_table
from sightline.lab.training.batches import tokenize
from sightline.lab.training.towers import BOS_ID, EOS_ID, PAD_ID, text_spec
from training_world import word_backend, word_tokenizer

WORDS = "a red ring above the blue heart"  # ids 4 to 10
RAGGED = [["a red ring"], [], ["a heart", "the blue heart", "a"], ["red"]]


@pytest.fixture
def table():
    return tokenize(RAGGED, word_tokenizer(WORDS, context_length=6))


def rows(*numbers):
    return np.array(numbers, np.int64)


def test_captions_become_rows_in_order_with_start_end_and_padding(table):
    assert table.ids_CL.tolist() == [
        [BOS_ID, 4, 5, 6, EOS_ID, PAD_ID],
        [BOS_ID, 4, 10, EOS_ID, PAD_ID, PAD_ID],
        [BOS_ID, 8, 9, 10, EOS_ID, PAD_ID],
        [BOS_ID, 4, EOS_ID, PAD_ID, PAD_ID, PAD_ID],
        [BOS_ID, 5, EOS_ID, PAD_ID, PAD_ID, PAD_ID],
    ]
    assert table.length_C.tolist() == [5, 4, 5, 3, 3]
    assert table.first_N.tolist() == [0, 1, 1, 4, 5]
    assert (table.n_tokens, table.n_lost) == (20, 0)
    assert table.ids_CL.dtype == np.uint16


def test_the_table_reads_texts_as_the_model_does():
    texts = ["a red ring", "", "the blue heart above a red ring above the heart", "unheard of"]
    tokenizer = word_tokenizer(WORDS, context_length=6, padding="fixed")
    assert tokenize([texts], tokenizer).ids_CL.tolist() == tokenizer.encode(texts).tolist()


def test_many_texts_are_read_a_part_at_a_time(table, monkeypatch):
    monkeypatch.setattr(token_table, "_TEXTS_AT_ONCE", 2)
    parts = tokenize(RAGGED, word_tokenizer(WORDS, context_length=6))
    assert parts.ids_CL.tolist() == table.ids_CL.tolist()
    assert parts.length_C.tolist() == table.length_C.tolist()
    assert parts.n_tokens == table.n_tokens


def test_a_long_text_loses_words_at_its_end_and_keeps_the_end_token():
    table = tokenize([["a red ring above the blue heart", "a red"]], word_tokenizer(WORDS, context_length=5))
    assert table.ids_CL.tolist() == [[BOS_ID, 4, 5, 6, EOS_ID], [BOS_ID, 4, 5, EOS_ID, PAD_ID]]
    assert table.length_C.tolist() == [5, 4]
    assert (table.n_tokens, table.n_lost) == (9 + 4, 4)


def test_without_an_end_token_only_what_is_too_long_is_lost():
    backend = word_backend(WORDS)
    backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer = Tokenizer(backend, dataclasses.replace(text_spec(3), bos_id=None, eos_id=None, padding="fixed"))
    texts = ["a red ring above the blue heart", "a red"]
    table = tokenize([texts], tokenizer)
    assert table.ids_CL.tolist() == [[4, 5, 6], [4, 5, PAD_ID]] == tokenizer.encode(texts).tolist()
    assert (table.n_tokens, table.n_lost) == (7 + 2, 4)


def test_a_vocabulary_beyond_16_bits_keeps_its_ids():
    tokenizer = word_tokenizer(" ".join(f"w{i}" for i in range(2**16)), context_length=4)
    table = tokenize([[f"w{2**16 - 1}"]], tokenizer)
    assert table.ids_CL[0, 1] == 2**16 - 1 + 4


def test_texts_are_drawn_of_each_images_own_without_repetition(table):
    seen = set()
    for seed in range(50):
        places, owner = table.draw(rows(2, 0), 2, np.random.default_rng(seed))
        assert owner.tolist() == [0, 0, 1]
        assert len(set(places[:2])) == 2
        assert set(places[:2]) <= {1, 2, 3}
        assert places[2] == 0
        seen.add(tuple(places[:2].tolist()))
    assert seen == {(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)}


def test_an_image_with_fewer_texts_than_asked_for_gives_all_and_one_without_gives_none(table):
    places, owner = table.draw(rows(3, 1, 2), 5, np.random.default_rng(0))
    assert owner.tolist() == [0, 2, 2, 2]
    assert places[0] == 4
    assert sorted(places[1:]) == [1, 2, 3]


def test_images_without_any_text_and_no_images_draw_nothing(table):
    for chosen in (rows(1), rows(1, 1), rows()):
        places, owner = table.draw(chosen, 2, np.random.default_rng(0))
        assert (places.tolist(), owner.tolist()) == ([], [])


def test_each_text_is_drawn_as_often_as_the_others():
    table = tokenize([["a"] * 4] * 2000, word_tokenizer(WORDS))
    places, owner = table.draw(np.arange(2000), 1, np.random.default_rng(3))
    assert owner.tolist() == list(range(2000))
    counts = np.bincount(places - 4 * owner, minlength=4)
    assert counts.min() > 430
    assert counts.max() < 570


def test_the_same_generator_draws_the_same(table):
    draws = [table.draw(rows(2, 2, 0), 2, np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1]
    assert draws[2:] != [draws[0]] * 3


def test_a_table_is_frozen(table):
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.n_lost = 1

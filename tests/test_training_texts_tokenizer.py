import json
import os
import subprocess
import sys

import pytest

from sightline.core.models.cards import TextSpec
from sightline.core.models.inputs import Tokenizer
from sightline.errors import ModelError
from sightline.lab.training.texts import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    text_spec,
    train_tokenizer,
    write_tokenizer,
)

TEXTS = [
    "A dog runs through the snow.",
    "a dog, running in the snow",
    "Two dogs are running; the snow is deep!",
    "the dog's ball \u2014 a red ball",
    "a man throws the dog\u2019s ball",
]

PROGRAM = """
import sys
from pathlib import Path
from sightline.lab.training.texts import train_tokenizer, write_tokenizer
texts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
write_tokenizer(train_tokenizer(texts, vocab_size=90), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a tokenizer of the texts was written."""
    made = tmp_path_factory.mktemp("made") / "inner"
    write_tokenizer(train_tokenizer(TEXTS, vocab_size=90), made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder, text_spec(8))


def test_two_processes_train_the_same_tokenizer(folder, tmp_path):
    texts = tmp_path / "texts"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(texts), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
        )
        for seed in ("1", "2")
    ]
    assert [run.wait(timeout=240) for run in runs] == [0, 0]
    expected = (folder / "tokenizer.json").read_bytes()
    assert [(tmp_path / seed / "tokenizer.json").read_bytes() == expected for seed in ("1", "2")] == [True, True]


def test_special_tokens_have_the_first_ids_and_end_is_not_2(folder, tokenizer):
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == [PAD_ID, BOS_ID, UNK_ID, EOS_ID] == [0, 1, 2, 3]
    assert tokenizer.ids("") == [BOS_ID, EOS_ID]
    ids = tokenizer.ids("a dog")
    assert (ids[0], ids[-1]) == (BOS_ID, EOS_ID)
    assert min(ids[1:-1]) > EOS_ID
    spec = text_spec(8)
    assert (spec.context_length, spec.pad_id, spec.bos_id, spec.eos_id) == (8, PAD_ID, BOS_ID, EOS_ID)


def test_texts_are_padded_and_cut_to_the_context(tokenizer):
    short, long = tokenizer.encode(["a dog", "the dog runs through the snow and the snow and the snow"])
    assert short.tolist()[-1] == PAD_ID
    assert (len(long), long[0], long[-1]) == (8, BOS_ID, EOS_ID)


def test_decoding_gives_the_words_back_with_their_spaces(tokenizer):
    for text in ("a dog runs through the snow", "the red ball", "two dogs", "the dog's ball"):
        assert tokenizer.decode(tokenizer.ids(text)) == text


def test_case_punctuation_accents_and_kinds_of_apostrophes_make_no_difference(tokenizer):
    plain = tokenizer.ids("the dog's ball runs")
    for other in (
        "The dog's ball runs.",
        "THE DOG\u2019S BALL RUNS!",
        "the,dog's ball  runs",
        "th\u00e9 dog's_ball runs",
    ):
        assert tokenizer.ids(other) == plain


def test_frequent_words_are_one_token_and_unseen_letters_unknown(tokenizer):
    assert len(tokenizer.ids("the dog")) == 4
    assert UNK_ID in tokenizer.ids("\u6771\u4eac")


def test_a_word_is_spelt_alike_wherever_it_stands(tokenizer):
    first, second = tokenizer.ids("snow dog")[1:-1], tokenizer.ids("dog snow")[1:-1]
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize("vocab_size", [40, 60])
def test_there_are_never_more_entries_than_asked_for(vocab_size):
    assert train_tokenizer(TEXTS, vocab_size=vocab_size).get_vocab_size() <= vocab_size


def test_the_tokenizer_of_another_model_is_refused(folder):
    with pytest.raises(ModelError, match="doesn't belong to this model"):
        Tokenizer.load(folder, TextSpec(context_length=8, pad_id=0, eos_id=7))

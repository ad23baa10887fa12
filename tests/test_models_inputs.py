"""Tokenizers: the three file formats, truncation that keeps the end token, padding as the model wants it."""

import dataclasses
import json

import numpy as np
import pytest

from model_folders import TEXTS, write_clip_tokenizer
from sightline.core.models.cards import TextSpec
from sightline.core.models.inputs import TextReading, Tokenizer
from sightline.errors import ModelError

BOS, EOS = 598, 599
CLIP = TextSpec(context_length=24, pad_id=EOS, bos_id=BOS, eos_id=EOS)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "in", "snow", ",", "run", "##ning"]


@pytest.fixture
def clip(tmp_path):
    write_clip_tokenizer(tmp_path, 600)
    return Tokenizer.load(tmp_path, CLIP)


@pytest.fixture
def bert(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return Tokenizer.load(folder, TextSpec(context_length=8, pad_id=0, bos_id=13, eos_id=3))


def test_clip_texts_start_and_end_with_their_tokens_and_pad_to_the_longest(clip):
    ids = clip.encode(["dog", "the dog snow", ""])
    assert ids.dtype == np.int64
    assert ids.shape == (3, 5)
    assert (ids[:, 0] == BOS).all()
    assert ids[2].tolist() == [BOS, EOS, EOS, EOS, EOS]
    assert ids[1, -1] == EOS


def test_a_long_text_is_cut_and_keeps_its_end_token(clip):
    ids = clip.encode(["snow " * 100])
    assert ids.shape == (1, 24)
    assert ids[0, -1] == EOS
    assert (ids[0] == EOS).sum() == 1
    assert clip.truncate(clip.ids("snow " * 100)) == ids[0].tolist()
    assert clip.truncate(clip.ids("snow")) == clip.ids("snow")


def test_case_and_spaces_do_not_matter_to_clip_and_any_text_has_ids(clip):
    assert clip.ids("The   DOG\n") == clip.ids("the dog")
    assert all(clip.ids(text)[-1] == EOS for text in [*TEXTS, "\ud800 lone surrogate", "\x00", "<|endoftext|>"])


def test_ids_without_special_tokens_decode_to_the_text(clip, bert):
    assert clip.decode(clip.ids("the dog in snow", add_special=False)) == "the dog in snow"
    assert clip.decode(clip.ids("the dog")) == "the dog"
    assert bert.decode(bert.ids("a dog running, dogs in snow")) == "a dog running, dogs in snow"


def test_the_two_file_formats_of_clip_agree_with_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "json").mkdir()
    write_clip_tokenizer(tmp_path, 600)
    write_clip_tokenizer(tmp_path / "json", 600, as_json=True)
    reference = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    for folder in (tmp_path, tmp_path / "json"):
        tokenizer = Tokenizer.load(folder, CLIP)
        expected = reference(TEXTS, truncation=True, max_length=24, padding=True)["input_ids"]
        assert tokenizer.encode(TEXTS).tolist() == expected


def test_bert_words_are_split_and_wrapped(bert):
    assert bert.ids("Dogs RUNNING") == [2, 6, 7, 11, 12, 3]
    assert bert.encode(["a dog in a dog in a dog"]).tolist() == [[2, 5, 6, 8, 5, 6, 8, 3]]


def test_a_reading_tells_of_unknown_words_and_of_what_is_cut(bert):
    reading = bert.read("a dog in the snow")
    assert (reading.tokens, reading.read, reading.words, reading.unknown) == (5, 5, 5, ("the",))
    assert bert.read("dogs in snow, running in snow") == TextReading(tokens=9, read=6, words=6, unknown=())
    assert bert.read("犬").unknown == ("犬",)
    assert bert.read("").unknown == ()


def test_a_word_that_falls_into_letters_is_unknown(clip):
    assert clip.read("犬").unknown == ("犬",)
    assert clip.read("a dog").unknown == ()


def test_fixed_padding_fills_the_context_and_lowercase_comes_first(tmp_path):
    write_clip_tokenizer(tmp_path, 600)
    spec = dataclasses.replace(CLIP, padding="fixed", pad_id=7, lowercase=True)
    tokenizer = Tokenizer.load(tmp_path, spec)
    ids = tokenizer.encode(["dog"])
    assert ids.shape == (1, 24)
    assert (ids[0, 3:] == 7).all()
    assert tokenizer.ids("DOG") == tokenizer.ids("dog")


def test_settings_inside_tokenizer_json_do_not_override_the_card(tmp_path):
    pytest.importorskip("transformers")
    write_clip_tokenizer(tmp_path, 600, as_json=True)
    values = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    values["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    assert Tokenizer.load(tmp_path, CLIP).encode(["the dog snow"]).shape == (1, 5)


def test_a_tokenizer_without_special_tokens_gets_the_cards(tmp_path):
    pytest.importorskip("transformers")
    write_clip_tokenizer(tmp_path, 600, as_json=True)
    values = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    values["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    ids = Tokenizer.load(tmp_path, CLIP).ids("dog")
    assert (ids[0], ids[-1], len(ids)) == (BOS, EOS, 3)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    write_clip_tokenizer(tmp_path, 600)
    with pytest.raises(ModelError, match=r"ends texts with \[599\], the model looks for id 49407"):
        Tokenizer.load(tmp_path, dataclasses.replace(CLIP, eos_id=49407))


def test_missing_and_broken_tokenizer_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"has no tokenizer: it needs tokenizer\.json"):
        Tokenizer.load(tmp_path, CLIP)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="are broken"):
        Tokenizer.load(tmp_path, CLIP)

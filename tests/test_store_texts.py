import unicodedata

import pytest

from sightline.core.store.texts import content_words, fold, holding_expression, make_tokens, stem, word_expression


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("beach", "beach"),
        ("beachDay_2024-05", "beach day 2024 05 beachday beachday202405"),
        ("IMG20240501", "img 20240501 img20240501"),
        ("HTMLPage", "html page htmlpage \ue000htmlpag \ue000pag"),
        ("odd\udcff", "odd"),
        ("ñandúGrande", "nandu grande nandugrande \ue000grand \ue000nandugrand"),
        ("雪の中の犬が走る", "雪 の 中 の 犬 が 走 る"),
        ("서울 夜景", "서 울 夜 景"),
        ("ｎｉｇｈｔ", "night"),
        ("Straße ØST", "strasse ost \ue000strass"),
        ("two dogs' noses", "two dogs noses \ue000dog \ue000nos"),
        ("हिन्दी", "हिन्दी"),
        ("___", ""),
    ],
)
def test_texts_become_tokens(text, tokens):
    assert make_tokens(text) == tokens
    assert make_tokens(unicodedata.normalize("NFD", text)) == tokens


def test_a_name_has_a_token_for_all_of_it():
    assert make_tokens("n02391049_zebra", is_name=True).split()[-1] == "\ue001n02391049zebra"
    assert make_tokens("", is_name=True) == ""


@pytest.mark.parametrize(
    "words",
    [
        "bus buses", "gas gases", "dog dogs", "puppy puppies", "run running runs", "ride riding rides", "box boxes",
        "horse horses", "snow snowing snowed", "child children", "glass glasses", "king", "spring", "bed", "speed",
    ],
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_other_words_have_other_stems():
    words = "bus gas king ring spring bed red need speed bulb gazelle 2024s Bücher"
    assert len({stem(word) for word in words.split()}) == len(words.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo of the zebra", ["photo", "zebra"]),
        ("the and of", []),
        ("000000373381.jpg", ["000000373381"]),
        ("IMG_2041.JPG beach", ["img2041", "beach"]),
        ("", []),
    ],
)
def test_words_of_a_query_that_tell_something(text, words):
    assert ["".join(word.parts) for word in content_words(text)] == words


def test_user_text_becomes_quoted_words():
    (word,) = content_words("dogs")
    assert word_expression(word) == '"dogs" OR "dog" OR "\ue000dog"'
    (word,) = content_words('IMG_2041"*')
    assert word_expression(word) == '"img 2041" OR "img2041"'
    assert holding_expression(['say "hi" AND (x)', "*", ""]) == (
        '(("say" OR "\ue000say") AND ("hi" OR "\ue000hi") AND ("x" OR "\ue000x"))'
    )


def test_folding_ignores_case_accents_and_forms():
    assert fold("ÉTÉ") == fold(unicodedata.normalize("NFD", "été")) == "ete"
    assert fold("a%_B") == "a%_b"

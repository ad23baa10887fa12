import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.core.search.query import Part, parse_query
from sightline.errors import InputError
from sightline.kit.config import expand


def texts(parts):
    return [(part.label, part.weight) for part in parts]


def test_neighbouring_arguments_are_one_part():
    assert texts(parse_query(["two", "dogs in", "the snow"])) == [("two dogs in the snow", 1.0)]


@pytest.mark.parametrize("words", [["beach", "-", "people"], ["beach - people"], ["beach", "- people"]])
def test_separators_stand_alone_as_arguments_or_between_spaces(words):
    assert texts(parse_query(words)) == [("beach", 1.0), ("people", -1.0)]


def test_hyphens_inside_words_do_not_separate():
    assert texts(parse_query(["a t-shirt", "C++", "-5 degrees"])) == [("a t-shirt C++ -5 degrees", 1.0)]


@pytest.mark.parametrize("words", [["dogs", "-snow"], ["dogs -snow"], ["dogs", "-", "snow"], ['dogs - "snow"']])
def test_minus_means_minus_in_every_form(words):
    assert texts(parse_query(words)) == [("dogs", 1.0), ("snow", -1.0)]


@pytest.mark.parametrize(
    "words", [['dogs -"deep snow"'], ["dogs", "-deep snow"], ["dogs -“deep snow”"], ['dogs -"deep snow']]
)
def test_a_sign_takes_a_phrase_in_quotes_also_those_that_a_shell_took(words):
    assert texts(parse_query(words)) == [("dogs", 1.0), ("deep snow", -1.0)]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["dogs -snow at the beach"], [("dogs at the beach", 1.0), ("snow", -1.0)]),
        (["dogs +snow beach"], [("dogs beach", 1.0), ("snow", 1.0)]),
        (["-snow dogs"], [("snow", -1.0), ("dogs", 1.0)]),
        (["-snow", "dogs"], [("snow", -1.0), ("dogs", 1.0)]),
        (["-deep snow"], [("deep", -1.0), ("snow", 1.0)]),
        (["dogs", "-snow -rain"], [("dogs", 1.0), ("snow", -1.0), ("rain", -1.0)]),
        (["dogs -2:snow -.5:rain"], [("dogs", 1.0), ("snow", -2.0), ("rain", -0.5)]),
        (["dogs -犬 -t-shirt"], [("dogs", 1.0), ("犬", -1.0), ("t-shirt", -1.0)]),
        (['"beach - people" - dogs'], [("beach - people", 1.0), ("dogs", -1.0)]),
        (["a -> b, 3 -4 --5"], [("a -> b, 3 -4 --5", 1.0)]),
    ],
)
def test_a_sign_before_a_word_takes_that_word_alone(words, parts):
    assert sorted(texts(parse_query(words))) == sorted(parts)


def test_a_sign_before_an_image_and_an_image_whose_name_begins_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.jpg").touch()
    (tmp_path / "-dog.jpg").touch()
    assert [(part.image, part.weight) for part in parse_query(["snow", "-./dog.jpg"])][1] == (Path("dog.jpg"), -1.0)
    assert parse_query(["-dog.jpg"])[0].image == Path("-dog.jpg")


def test_weights_and_further_parts():
    parts = parse_query(["2:snow", "+", ".5:dog"], add=["sled"], subtract=["3:people"])
    assert texts(parts) == [("snow", 2.0), ("dog", 0.5), ("sled", 1.0), ("people", -3.0)]


def test_a_leading_minus_makes_the_first_part_negative():
    assert texts(parse_query(["-", "people"])) == [("people", -1.0)]


def test_paths_and_bare_image_names_are_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spaced = tmp_path / "my photo - beach.jpg"
    (tmp_path / "dog.jpg").touch()
    spaced.touch()
    assert parse_query(["./dog.jpg"])[0].image == Path("dog.jpg")
    assert parse_query(["dog.jpg", "+", "2:snow"])[0].image == Path("dog.jpg")
    assert parse_query([f"2:{tmp_path / 'dog.jpg'}"])[0] == Part(weight=2.0, image=tmp_path / "dog.jpg")
    assert parse_query([], add=[str(spaced)])[0].image == spaced


def test_a_path_with_a_separator_in_its_name_stays_whole_as_one_argument(tmp_path):
    spaced = tmp_path / "my photo - beach.jpg"
    spaced.touch()
    assert texts(parse_query([str(spaced), "+", "snow"])) == [(str(spaced), 1.0), ("snow", 1.0)]


def test_nothing_is_a_path_where_files_are_not_allowed(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.touch()
    assert parse_query([str(secret)], allow_files=False)[0].text == str(secret)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "query is empty"),
        (["   "], "query is empty"),
        (['beach - ""'], "part of the query is empty"),
        (["beach", "+"], "Nothing follows '\\+'"),
        (["beach", "-", "+", "x"], "Nothing follows '-'"),
        (["./gone.jpg"], "no picture ./gone.jpg"),
        (["photos/gone.jpg"], "no picture photos/gone.jpg"),
        (["https://example.org/a.jpg"], "web address"),
        (["0:snow"], "weight of 'snow' is 0"),
    ],
)
def test_broken_queries_say_what_is_wrong(words, message):
    with pytest.raises(InputError, match=message):
        parse_query(words)


def test_a_bare_name_of_no_file_is_words_and_full_text_finds_it():
    assert texts(parse_query(["000000373381.jpg"])) == [("000000373381.jpg", 1.0)]
    assert texts(parse_query(["IMG_2041.JPG", "-", "beach.png"])) == [("IMG_2041.JPG", 1.0), ("beach.png", -1.0)]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_by_either_unicode_form_of_its_name(tmp_path, monkeypatch, forms):
    monkeypatch.chdir(tmp_path)
    kept, typed = (unicodedata.normalize(form, "naïve.jpg") for form in forms)
    (tmp_path / kept).touch()
    assert parse_query([f"./{typed}"])[0].image == Path(kept)
    assert parse_query([typed])[0].image == Path(kept)


def test_folders_and_names_may_be_in_different_unicode_forms(tmp_path):
    stored = tmp_path / unicodedata.normalize("NFC", "Café") / unicodedata.normalize("NFD", "naïve.jpg")
    stored.parent.mkdir()
    stored.touch()
    for form in ("NFC", "NFD"):
        assert expand(unicodedata.normalize(form, str(stored))) == stored
    assert expand(tmp_path / "é.jpg") == tmp_path / "é.jpg", "what isn't there stays as it was typed"


def test_words_that_look_a_little_like_weights_or_homes_are_words():
    assert texts(parse_query(["10:30 train"])) == [("10:30 train", 1.0)]
    assert texts(parse_query(["2001: a space odyssey"])) == [("2001: a space odyssey", 1.0)]
    assert texts(parse_query(["2001:odyssey"])) == [("2001:odyssey", 1.0)]
    assert texts(parse_query(["~5 dogs"])) == [("~5 dogs", 1.0)]


@pytest.mark.parametrize("word", ["~nobody-by-this-name/x.jpg", "/" + "a" * 300, "./nul\0.jpg"])
def test_paths_that_the_system_refuses_are_clear_errors(word):
    with pytest.raises(InputError, match="There is no picture"):
        parse_query([word])


def test_a_part_is_one_thing_and_is_called_what_the_user_calls_it(tmp_path):
    vector = np.ones(2, np.float32)
    several: list[dict[str, Any]] = [{"text": "a", "row": 1}, {"row": 1, "vector": vector}, {}]
    for kinds in several:
        with pytest.raises(InputError, match="either words or a picture"):
            Part(**kinds)
    assert Part(row=12).label == "image 12"
    assert Part(row=12, name="rex.jpg").label == "rex.jpg"
    assert Part(vector=vector).label == "a picture"
    assert Part(vector=vector, name="mine.png").label == "mine.png"
    assert Part(image=tmp_path / "a.png").label == str(tmp_path / "a.png")
    with pytest.raises(InputError, match="The weight of 'image 3' is 0"):
        Part(row=3, weight=0)

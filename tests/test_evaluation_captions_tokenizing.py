import time

import pytest

from sightline.lab.evaluation.captions.tokenizing import tokenize_caption


def words(text):
    return " ".join(tokenize_caption(text))


def test_words_are_small_and_without_punctuation():
    assert tokenize_caption("A Dog, runs; on: grass... - really?!!") == (
        "a",
        "dog",
        "runs",
        "on",
        "grass",
        "really",
        "?!!",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("can't won't don't isn't", "ca n't wo n't do n't is n't"),
        ("I'm he's we've you'll they'd dogs'", "i 'm he 's we 've you 'll they 'd dogs"),
        ("cannot gonna 'twas", "can not gon na 't was"),
        ("o'clock d'Or ma'am Hawai'i", "o'clock d'or ma'am hawai'i"),
        ("DON’T and the dog’s", "do n't and the dog 's"),
    ],
)
def test_apostrophes_split_contractions_and_possessives_only(text, expected):
    assert words(text) == expected


def test_hyphens_join_words_but_don_t_stand_alone():
    assert words("a t-shirt - a pre- and post-war 5-year-old") == "a t-shirt a pre and post-war 5-year-old"


def test_a_full_stop_stays_with_abbreviations_and_leaves_other_words():
    assert words("Mr. Hat at 5 p.m. in the U.S. on St. Street.") == "mr. hat at 5 p.m. in the u.s. on st. street"


def test_capitalised_abbreviations_are_words_when_small():
    assert words("in Ill. with a pill, feeling ill. they left") == "in ill. with a pill feeling ill they left"


def test_no_keeps_its_full_stop_only_before_a_number():
    assert words("no. 7 says no. and leaves") == "no. 7 says no and leaves"


def test_a_letter_ends_a_caption_without_its_full_stop():
    assert words("holding the letter P.") == "holding the letter p"
    assert words("mr. T. boards a bus") == "mr. t. boards a bus"


def test_brackets_count_as_words_and_quotes_don_t():
    assert words('(a "red" [one])') == "-lrb- a red -lsb- one -rsb- -rrb-"


def test_entities_are_read():
    assert words("black &amp; white&nbsp;cats &lt;3 &quot;x&quot;") == "black & white cats < 3 x"


def test_what_the_reference_can_t_read_is_dropped_and_parts_words():
    assert words("a dog\u200bhouse 🐶 👍 and soft\u00adhyphen") == "a dog house and softhyphen"


def test_line_ends_part_words_like_spaces():
    assert words("a dog\r\nruns\tfast\n") == "a dog runs fast"


@pytest.mark.parametrize("text", ["", " ", " . ", "''", '"!"?', "-- ..."])
def test_nothing_but_punctuation_is_no_words(text):
    assert tokenize_caption(text) == ()


@pytest.mark.parametrize("text", ["a" * 20_000, "a-" * 10_000, "<a " * 3_000, "x+" * 5_000, "'" * 20_000, "." * 20_000])
def test_long_nonsense_takes_no_time(text):
    started = time.thread_time()  # of the processor: other work on the machine does not count
    tokenize_caption(text)
    assert time.thread_time() - started < 5

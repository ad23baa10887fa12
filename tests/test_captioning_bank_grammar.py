import re

import pytest

from sightline.core.captioning.bank import Noun, Sentence, choose_article, make_plural, parse_action

IRREGULAR = {"child": "children", "scarf": "scarves", "goose": "geese", "mouse": "mice"}


@pytest.mark.parametrize(
    ("phrase", "article"),
    [
        ("dog", "a"),
        ("apple", "an"),
        ("hour", "an"),
        ("hourglass", "an"),
        ("house", "a"),
        ("uniform", "a"),
        ("umbrella", "an"),
        ("unicycle", "a"),
        ("ukulele", "a"),
        ("used car", "a"),
        ("upright piano", "an"),
        ("European town", "a"),
        ("one-way sign", "a"),
        ("onion", "an"),
        ("X-ray image", "an"),
        ("xylophone", "a"),
        ("MRI scan", "an"),
        ("QR code", "a"),
        ("DNA strand", "a"),
        ("Earth globe", "an"),
    ],
)
def test_the_article_follows_the_sound(phrase, article):
    assert choose_article(phrase) == article


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("church", "churches"),
        ("brush", "brushes"),
        ("puppy", "puppies"),
        ("monkey wrench", "monkey wrenches"),
        ("toy", "toys"),
        ("man", "men"),
        ("snowman", "snowmen"),
        ("child", "children"),
        ("computer mouse", "computer mice"),
        ("cup of coffee", "cups of coffee"),
        ("glass of water", "glasses of water"),
        ("city seen from space", "cities seen from space"),
    ],
)
def test_the_head_noun_gets_the_plural(noun, plural):
    assert make_plural(noun, irregular=IRREGULAR) == plural


def test_an_action_agrees_with_several():
    action = parse_action("wearing {a scarf}", irregular=IRREGULAR)
    assert (action.one, action.several) == ("wearing a scarf", "wearing scarves")
    plain = parse_action("sitting at a table", irregular=IRREGULAR)
    assert plain.one == plain.several == "sitting at a table"


def noun(text, number="one", *, kind="animal", plural=None):
    return Noun(text=text, number=number, kind=kind, plural=plural)


DOG = noun("dog", plural="dogs")
MAN = noun("man", kind="person", plural="men")


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (Sentence(subject=DOG), "a dog"),
        (Sentence(subject=DOG, attribute="orange"), "an orange dog"),
        (Sentence(subject=DOG, count="two"), "two dogs"),
        (Sentence(subject=DOG, count="a row of", attribute="brown"), "a row of brown dogs"),
        (Sentence(subject=noun("bread", "mass"), attribute="fresh"), "fresh bread"),
        (Sentence(subject=noun("the Moon", "fixed")), "the Moon"),
        (Sentence(subject=noun("children", "many")), "children"),
        (
            Sentence(subject=DOG, attribute="brown", action=parse_action("running", irregular={}), place="on grass"),
            "a brown dog running on grass",
        ),
        (
            Sentence(subject=MAN, companion=noun("camera"), medium="a black and white photo"),
            "a black and white photo of a man with a camera",
        ),
        (
            Sentence(subject=noun("cup"), companion=noun("apple"), link="and", place="on a table"),
            "a cup and an apple on a table",
        ),
        (
            Sentence(
                subject=MAN, count="two", action=parse_action("wearing {a hat}", irregular={}), condition="at night"
            ),
            "two men wearing hats at night",
        ),
        (
            Sentence(subject=noun("a couple", "many"), action=parse_action("riding {a horse}", irregular={})),
            "a couple riding horses",
        ),
    ],
)
def test_sentences_read_like_english(sentence, text):
    assert sentence.text == text


def test_a_repeated_content_word_is_noticed():
    table = noun("wooden table", kind="object")
    assert Sentence(subject=table, place="on a wooden table").repeats_itself()
    assert Sentence(subject=DOG, companion=noun("dogs", "many")).repeats_itself()
    assert not Sentence(subject=MAN, companion=DOG, place="on a path").repeats_itself()


def test_a_repeated_function_word_is_no_repetition():
    sentence = Sentence(subject=noun("cup of tea"), medium="a photo", place="on a table on a roof")
    assert len(re.findall(r"\bon\b", sentence.text)) == 2
    assert not sentence.repeats_itself()

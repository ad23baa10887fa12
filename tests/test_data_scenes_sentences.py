import re
from collections import Counter, defaultdict

import pytest

from sightline.lab.data.scenes.grammar import (
    VALUES,
    Chance,
    Mention,
    ObjectKind,
    Statement,
    draw_scene,
    is_true,
    may_be_true,
)
from sightline.lab.data.scenes.sentences import compose_captions, fill, load_templates, make_negatives, write

SAME_WORDS = ("attribute", "relation")


@pytest.fixture(scope="module")
def composed():
    found = []
    for number in range(500):
        scene, chance = draw_scene(0, "train", number), Chance("test", number)
        captions = compose_captions(scene, chance)
        found.append((scene, captions, make_negatives(scene, captions, chance)))
    return found


def template(text):
    return next(known for known in load_templates() if known.text == text)


def test_there_are_at_least_twenty_templates_of_five_families_and_all_are_used(composed):
    assert len(load_templates()) == 30
    assert {known.family for known in load_templates()} == {"relation", "things", "place", "count", "negation"}
    assert {caption.template for _, captions, _ in composed for caption in captions} == set(load_templates())


def test_some_templates_leave_each_attribute_out_and_some_say_all():
    said = [set(slot.attributes) for known in load_templates() for slot in known.slots if slot.asks == "mention"]
    for name in ObjectKind._fields:
        assert any(name in attributes for attributes in said)
        assert any(name not in attributes for attributes in said)
    assert set(ObjectKind._fields) in said


def test_five_different_captions_of_five_templates_are_true_of_each_scene(composed):
    for scene, captions, _ in composed:
        assert len({caption.text for caption in captions}) == len({caption.template for caption in captions}) == 5
        assert all(is_true(caption.statement, scene) for caption in captions)


def test_sentences_are_plain_words_without_slots_or_wrong_articles(composed):
    for _, captions, negatives in composed:
        for text in [caption.text for caption in captions] + [negative.negative for negative in negatives]:
            assert re.fullmatch(r"[a-z ,:]+", text)
            assert not re.search(r"\ba [aeiou]|  | ,|shapes shape", text)


def test_swaps_keep_the_words_and_change_the_sentence(composed):
    for _, _, negatives in composed:
        for negative in negatives:
            assert negative.negative != negative.caption
            same = Counter(negative.caption.split()) == Counter(negative.negative.split())
            loose = Counter(re.findall(r"\w+", negative.caption)) == Counter(re.findall(r"\w+", negative.negative))
            assert loose == (negative.kind in SAME_WORDS), negative
            assert same or "," in negative.caption or ":" in negative.caption or negative.kind not in SAME_WORDS


def test_replacements_counts_and_denials_change_one_thing(composed):
    for _, _, negatives in composed:
        for negative in negatives:
            words = list(zip(negative.caption.split(), negative.negative.split(), strict=True))
            changed = [pair for pair in words if pair[0] != pair[1]]
            if negative.kind == "count":
                assert changed in ([("two", "three")], [("three", "two")])
            if negative.kind == "replacement":
                assert len(changed) == 1
            if negative.kind == "negation":
                assert 1 <= len(changed) <= 2


def test_negatives_are_false_of_their_scene_and_their_captions_true(composed):
    checked = defaultdict(int)
    for scene, captions, negatives in composed:
        by_text = {caption.text: caption for caption in captions}
        for negative in negatives:
            assert negative.caption in by_text
            statement = read(by_text[negative.caption].template, negative.negative)
            assert not may_be_true(statement, scene), negative
            checked[negative.kind] += 1
    assert min(checked[kind] for kind in ("attribute", "relation", "replacement", "count", "negation")) > 100


def test_negatives_never_give_themselves_away(composed):
    for _, captions, negatives in composed:
        by_text = {caption.text: caption for caption in captions}
        for negative in negatives:
            statement = read(by_text[negative.caption].template, negative.negative)
            for denied in statement.absent:
                for mention in statement.mentions:
                    assert any(no not in (None, said) for no, said in zip(denied, mention.kind, strict=True))


def test_reading_a_written_sentence_gives_its_statement_back(composed):
    for _, captions, _ in composed:
        for caption in captions:
            assert read(caption.template, caption.text) == caption.statement


def read(template, text):
    """A reader of its own, so that what a sentence says is not taken from what made it."""
    relations = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
    relations |= {"to the left of": "left", "to the right of": "right"}
    relations |= {"to its left": "left", "to its right": "right", "above it": "above", "below it": "below"}
    patterns = {"relation": f"({'|'.join(relations)})", "place": "((?:on|at|in) the [a-z]+(?: [a-z]+ corner)?)"}
    pattern = "".join(
        re.escape(piece) if isinstance(piece, str) else patterns.get(piece.asks, "(.+?)") for piece in template.pieces
    )
    kinds, places, related, counts, absent = {}, {}, [], [], []
    for slot, words in zip(template.slots, re.fullmatch(pattern, text).groups(), strict=True):
        if slot.asks == "mention":
            kinds[slot.first] = read_kind(words)
        elif slot.asks == "relation":
            related.append((relations[words], *(template.mentioned.index(i) for i in (slot.first, slot.second))))
        elif slot.asks == "place":
            places[slot.first] = re.fullmatch(r"(?:on the|at the|in the) (.+?)(?: corner)?", words).group(1)
        elif slot.asks == "count":
            number, _, noun = words.partition(" ")
            singular = noun.removesuffix("s") if noun != "crosses" else "cross"
            counts.append(({"two": 2, "three": 3}[number], read_kind(singular)))
        else:
            absent.append(read_kind(words))
    mentions = tuple(Mention(kinds[i], places.get(i)) for i in template.mentioned)
    return Statement(mentions, tuple(related), tuple(counts), tuple(absent))


def read_kind(words):
    return ObjectKind(**{name: word for word in words.split() for name, values in VALUES.items() if word in values})


def test_a_template_of_three_things_says_nothing_of_two():
    scene = next(scene for n in range(99) if len((scene := draw_scene(0, "train", n)).objects) == 2)
    three = template("a {0:size colour shape}, a {1:texture colour shape} and a {2:colour shape}")
    assert fill(three, scene.objects, Chance(0)) is None


def test_two_crosses_are_written_with_their_plural():
    mention = Mention(ObjectKind("small", "solid", "red", "cross"))
    statement = Statement((mention,), counts=((2, ObjectKind(shape="cross")),))
    text = write(template("{n:shape}, one of them a {0:size texture colour shape}"), statement)
    assert text == "two crosses, one of them a small solid red cross"


def test_captions_that_are_refused_are_replaced_or_given_up():
    scene = draw_scene(0, "train", 0)
    plain = compose_captions(scene, Chance(1), accept=lambda statement: not statement.relations)
    assert len(plain) == 5
    assert not any(caption.statement.relations for caption in plain)
    assert compose_captions(scene, Chance(1), accept=lambda statement: False) is None

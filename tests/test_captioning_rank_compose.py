import numpy as np
import pytest

from captioning_fakes import COLOURS, FakeEncoder
from sightline.core.captioning.bank import Noun, Sentence, load_bank, parse_bank
from sightline.core.captioning.rank import BankRanker, ComposeConfig, open_details
from sightline.errors import ModelError

SMALL = """
common = ["dog"]
[prompts]
subject = "a photo of {}"
count = "{} things"
attribute = "something {}"
place = "{}"
condition = "{}"
medium = "{}"
[prompts.action]
beast = "{}"
[kinds.animal]
count = ["any"]
attribute = ["colour"]
action = ["beast"]
place = ["out"]
one = ["dog", "wolf"]
[kinds.thing]
attribute = ["colour"]
one = ["tomato", "red tomato"]
mass = ["snow"]
fixed = ["the sea"]
[count]
any = ["two"]
[attribute]
colour = ["red", "brown", "white"]
[action]
beast = ["swimming", "singing"]
[place]
out = ["on grass", "at sea"]
[condition]
[medium]
[plurals]
wolf = "wolves"
"""


def image_of(*colours):
    stripes = [np.full((4, 4, 3), COLOURS[colour], np.uint8) for colour in colours]
    return FakeEncoder().encode_images(np.concatenate(stripes, axis=1)[None])


def compose(*colours, top_k=3, config=None, encoder=None):
    ranker = BankRanker(encoder or FakeEncoder(), parse_bank(SMALL), config=config or ComposeConfig(common_nats=0))
    return ranker.rank(image_of(*colours), top_k=top_k)[0]


def test_a_sentence_grows_by_the_details_that_are_seen():
    assert compose("brown", "green")[0].text == "a dog on grass"
    assert compose("brown", "blue", "green")[0].text == "a dog swimming on grass"


def test_a_detail_that_adds_too_little_is_left_out():
    texts = [caption.text for caption in compose("brown", "green", config=ComposeConfig(gain_nats=1000))]
    assert sorted(texts) == sorted(set(texts))
    assert {len(text.split()) for text in texts} <= {2, 3}
    assert all(" on grass" not in text for text in texts)


def test_nothing_red_is_called_red_twice():
    texts = [caption.text for caption in compose("red", top_k=20, config=ComposeConfig(gain_nats=-1000))]
    assert "a red tomato" in texts
    assert [text for text in texts if text.count("red ") > 1] == []


def test_similarities_are_the_cosines_of_the_sentences():
    encoder = FakeEncoder()
    image = image_of("brown", "green")
    for caption in BankRanker(encoder, parse_bank(SMALL)).rank(image, top_k=5)[0]:
        cosine = float(encoder.encode_texts([caption.text])[0] @ image[0])
        assert caption.similarity == pytest.approx(cosine, abs=1e-6)
        assert (caption.source, caption.model) == ("clip", "fake")


def test_a_common_subject_wins_where_the_model_hardly_tells_it_from_a_rare_one():
    rare = SMALL.replace('common = ["dog"]', 'common = ["wolf"]')
    config = ComposeConfig(common_nats=2, rounds=0)
    for text, expected in ((SMALL, "a dog"), (rare, "a wolf")):
        ranker = BankRanker(FakeEncoder(temperature=0.5), parse_bank(text), config=config)
        assert ranker.rank(image_of("brown"), top_k=1)[0][0].text == expected


def test_a_sure_model_overrules_what_is_common():
    rare = SMALL.replace('common = ["dog"]', 'common = ["wolf"]')
    ranker = BankRanker(FakeEncoder(temperature=100), parse_bank(rare), config=ComposeConfig(common_nats=2, rounds=0))
    assert ranker.rank(image_of("brown"), top_k=1)[0][0].text == "a dog"


def test_captions_do_not_depend_on_the_batch():
    encoder = FakeEncoder()
    images = np.concatenate([image_of("brown", "green"), image_of("red"), image_of("white", "blue")])
    ranker = BankRanker(encoder)
    together = ranker.rank(images, top_k=5)
    apart = [ranker.rank(images[i : i + 1], top_k=5)[0] for i in range(3)]
    assert [[c.text for c in captions] for captions in together] == [[c.text for c in captions] for captions in apart]


def test_at_most_two_captions_share_a_subject_while_there_are_others():
    texts = [caption.text for caption in compose("brown", "green", top_k=4, config=ComposeConfig(gain_nats=-1000))]
    assert sum("dog" in text for text in texts) == 2


def test_the_whole_bank_names_what_the_colours_suggest_in_some_dozens_of_sentences():
    encoder = FakeEncoder()
    ranker = BankRanker(encoder)
    embedded_once = len(encoder.texts_seen)
    assert embedded_once == len(load_bank().options)
    captions = ranker.rank(image_of("green"), top_k=5)[0]
    assert len(captions) == 5
    assert all("green" in caption.text or "grass" in caption.text for caption in captions[:1])
    assert 8 <= len(encoder.texts_seen) - embedded_once <= 200


def test_no_images_give_no_captions():
    assert BankRanker(FakeEncoder(), parse_bank(SMALL)).rank(np.zeros((0, FakeEncoder.dim), np.float32), top_k=3) == []


def test_an_image_vector_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="Image vectors of fake"):
        BankRanker(FakeEncoder(), parse_bank(SMALL)).rank(np.full((1, FakeEncoder.dim), np.inf, np.float32), top_k=1)


def test_grammar_bars_details_that_a_noun_cannot_take():
    kinds = parse_bank(SMALL).kinds
    animal = Sentence(subject=Noun(text="dog", number="one", kind="animal"), place="on grass")
    assert open_details(animal, kinds["animal"]) == ["count", "attribute", "action"]
    assert open_details(Sentence(subject=Noun(text="the sea", number="fixed", kind="thing")), kinds["thing"]) == []
    assert open_details(Sentence(subject=Noun(text="snow", number="mass", kind="thing")), kinds["thing"]) == [
        "attribute"
    ]


def test_people_are_weighed_against_everything_else():
    with_people = SMALL.replace("[kinds.thing]", '[kinds.person]\none = ["pink man"]\n[kinds.thing]')
    ranker = BankRanker(FakeEncoder(temperature=10.0), parse_bank(with_people))
    pink, brown = (float(ranker.weigh_people(image_of(colour))[0]) for colour in ("pink", "brown"))
    assert pink > 0 > brown
    assert np.isneginf(BankRanker(FakeEncoder(), parse_bank(SMALL)).weigh_people(image_of("pink")))

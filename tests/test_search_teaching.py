"""Words of one's own, and what they are told apart from.

Covers: sightline.core.search.background.
"""

from dataclasses import replace

import numpy as np
import pytest

from colour_world import open_colours
from sightline.core.search.background import Background
from sightline.core.search.engine import SearchConfig, prepare, rank
from sightline.core.search.query import Part, parse_query
from sightline.core.search.teaching import check_name, find_words, forget, learn, read_example, teach
from sightline.core.types import ModelIdentity, TaughtWord
from sightline.errors import InputError, NotFoundError


@pytest.fixture
def library(tmp_path):
    with open_colours(tmp_path) as opened:
        yield opened


def give(library, name, *images, **how):
    store, encoder, photos = library
    return teach(store, encoder, name, [read_example(store, photos / f"{image}.png") for image in images], **how)


def best(library, *words, top=1):
    store, encoder, _ = library
    query = prepare(store, encoder, parse_query(words, allow_files=False))
    found = rank(store, "colours", query, config=SearchConfig(top=top))
    return [record.path.stem for record in store.get([row for row, _ in found])]


def test_a_taught_word_finds_what_it_was_taught_by_alone_in_any_case_and_with_other_words(library):
    library[1].encode_texts = lambda texts: np.eye(3, dtype=np.float32)[[0 if "red" in text else 1 for text in texts]]
    give(library, "Rosy  Rex", "pink", "magenta")
    assert set(best(library, "rosy REX", top=2)) == {"pink", "magenta"}
    assert best(library, "red rosy rex") == ["pink"]
    assert best(library, "rosy rex - red") == ["magenta"]
    assert best(library, "- rosy rex") == ["green"]
    assert best(library, "rosy rexes") == best(library, "green")  # another word


def test_more_examples_add_to_a_word_and_equal_ones_count_once(library, tmp_path):
    store, _, photos = library
    (tmp_path / "copy.png").write_bytes((photos / "red.png").read_bytes())
    give(library, "Rex", "red", "red")
    word = give(library, "REX", "pink", kind="dog")
    assert (word.name, word.kind, len(word.examples)) == ("REX", "dog", 2)
    word = teach(store, library[1], "rex", [read_example(store, tmp_path / "copy.png")])
    assert (len(word.examples), word.kind) == (2, "dog")
    assert store.words() == [word]


def test_a_word_in_a_sentence_is_read_as_its_kind_and_left_out_where_the_model_does_not_know_it(library):
    store, encoder, _ = library
    read = []
    plain = encoder.encode_texts
    encoder.encode_texts = lambda texts: read.extend(texts) or plain(["red"] * len(texts))
    give(library, "Rex", "blue")
    prepare(store, encoder, parse_query(["Rex at the sea"]))
    assert read[-1] == "at the sea"
    give(library, "Rex", "green", kind="dog")
    prepare(store, encoder, parse_query(["a photo of rex"]))
    assert read[-1] == "a photo of dog"
    give(library, "Ruby", "red", "pink")  # the model is nearer to these by the name
    prepare(store, encoder, parse_query(["Ruby at night"]))
    assert read[-1] == "Ruby at night"


def test_the_longest_of_overlapping_words_is_meant():
    words = [TaughtWord(name=name) for name in ("Rex", "Rex the Great", "Ada")]
    assert [word.name for word in find_words("ada and rex the great", words)] == ["Rex the Great", "Ada"]
    assert find_words("T-Rexes", words) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "The name is empty"),
        (" ?! ", "The name is empty"),
        ("--x", "begins with a sign"),
        ("taken_at", "is a field of filters"),
        ("Camera", "is a field of filters"),
        ("2:Rex", "a weight"),
        ("Rex - Ada", "several parts"),
        ("Rex -Ada", "several parts"),
        ("./rex", "a picture"),
        ("rex.jpg", "a picture"),
        ('"Rex"', "several parts"),
        ("x" * 61, "61 characters; at most 60"),
    ],
)
def test_what_a_query_would_not_take_for_a_word_is_no_name(name, message):
    with pytest.raises(InputError, match=message):
        check_name(name)


def test_what_cannot_be_read_teaches_nothing(library, tmp_path):
    store, encoder, _ = library
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png can't be read"):
        teach(store, encoder, "Rex", [read_example(store, broken)])
    with pytest.raises(InputError, match=r"gone\.png can't be read"):
        read_example(store, tmp_path / "gone.png")
    with pytest.raises(InputError, match="was given 0 examples"):
        give(library, "Rex")
    assert store.words() == []
    with pytest.raises(NotFoundError, match="There is no word 'Rex' that was taught here; there are: none yet"):
        forget(store, "Rex")


def test_another_model_learns_a_word_from_files_that_are_still_there(library):
    store, encoder, photos = library
    word = give(library, "Rex", "red", "pink")
    other = type(encoder)()
    other.card = replace(encoder.card, name="other")
    store.add_model(ModelIdentity(name="other", weights_hash="1", preprocessing_version=1, dim=3))
    (photos / "red.png").unlink()
    assert len(learn(store, encoder, word)) == 2  # its vectors are kept
    assert len(learn(store, other, word)) == 1
    (photos / "pink.png").unlink()
    assert len(learn(store, other, word)) == 1
    store.remove_model("other")
    store.add_model(ModelIdentity(name="other", weights_hash="1", preprocessing_version=1, dim=3))
    with pytest.raises(InputError, match="never saw and that are gone"):
        learn(store, other, word)
    forget(store, "REX")
    assert store.words() == []


def test_the_background_tells_examples_from_the_rest_whatever_all_have_in_common():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 16)) * np.array([1.0] + [0.1] * 15) + 3  # one direction outweighs all others
    rest, like = common.astype(np.float32), common[:5].copy()
    like[:, 7] += 0.5
    background = Background.of(rest)
    direction = background.discriminate(like.astype(np.float32))
    assert background.spread(direction) == pytest.approx(1)
    assert np.argmax(np.abs(direction)) == 7
    assert background.typicality(like.astype(np.float32), direction) > 3


def test_the_background_of_a_library_is_measured_again_once_it_has_changed_by_a_tenth(library):
    store, _, photos = library
    first = Background.measure(store, "colours")
    assert Background.measure(store, "colours") is first
    store.delete([store.find_path(photos / "red.png").id])
    assert Background.measure(store, "colours") is not first


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_library_of_few_images_has_a_background_too(rows):
    background = Background.of(np.eye(4, dtype=np.float32)[:rows])
    direction = background.discriminate(np.eye(4, dtype=np.float32)[:1])
    assert np.isfinite(direction).all()
    assert direction[0] > 0


def test_a_marked_image_of_a_small_library_ranks_it(library):
    store, encoder, photos = library
    parts = [Part(image=photos / "green.png", is_mark=True)]
    found = rank(store, "colours", prepare(store, encoder, parts), config=SearchConfig(top=2))
    assert [record.path.stem for record in store.get([row for row, _ in found])] == ["green", "yellow"]

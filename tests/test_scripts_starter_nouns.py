"""What the starter's scripts take captions to name, and how they count agreement."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/usr/share/wordnet/data.noun").is_file(), reason="needs WordNet: apt-get install wordnet-base"
)


@pytest.fixture(scope="module")
def nouns():
    folder = str(Path(__file__).resolve().parents[1] / "scripts" / "starter")
    sys.path.insert(0, folder)
    try:
        import nouns

        yield nouns
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("dogs", "dog"), ("men", "man"), ("leaves", "leaf"), ("puppies", "puppy"), ("waves", "wave"), ("bikes", "bike"),
        ("glasses", "glasses"), ("building", "building"), ("running", None), ("red", None), ("does", None),
    ],
)  # fmt: skip
def test_a_noun_is_told_from_other_words_and_made_singular(nouns, word, singular):
    assert nouns.noun(word) == singular


@pytest.mark.parametrize(
    ("sentence", "head"),
    [
        ("A group of people on a street", "people"),
        ("a baseball player swings a bat", "player"),
        ("Running through the snow", "snow"),
        ("blue and green", None),
    ],
)
def test_the_head_is_the_last_of_the_first_nouns(nouns, sentence, head):
    assert nouns.head_noun(sentence) == head


def test_agreement_counts_synonyms_and_nothing_else(nouns):
    people = [["a bike leans on a wall"], ["a dog in the snow"]]
    said = nouns.agreement(["a bicycle on a street", "a man in the snow"], people)
    assert said == {"head_noun": 0.5, "nouns": 0.5}  # bicycle and snow; street and man aren't there

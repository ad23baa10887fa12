from types import SimpleNamespace

import numpy as np
import pytest

from sightline.core.search.written import ABSENT, BEGUN, PARTLY, WHOLE_NAME, read_evidence
from sightline.core.store.base import WordRows


def word(position, rows, *, count=None, **more):
    held = {kind: np.array(ids) for kind, ids in rows.items()}
    return WordRows(position=position, count=count or len({i for ids in rows.values() for i in ids}), rows=held, **more)


def evidence(*words, images=1000, names=(), **how):
    store = SimpleNamespace(
        find_words=lambda text, typing: (list(words), images), find_names=lambda text: np.array(names, dtype=np.int64)
    )
    return read_evidence(store, "words", **how)


def test_a_rare_word_tells_more_and_one_in_every_row_nothing():
    rare, common, everywhere = (evidence(word(0, {"name": [1]}, count=count)).of([1])[0] for count in (1, 300, 1000))
    assert rare > 6
    assert 0.5 < common < 1
    assert everywhere == 0
    assert evidence(word(0, {"name": [1]}, count=1), images=3).of([1])[0] > 1, "small libraries have rare words, too"


def test_all_words_tell_much_more_than_a_part_of_them():
    found = evidence(word(0, {"caption": [1, 2]}), word(1, {"caption": [1]}), word(2, {"name": [1]}))
    full, part, none = found.of([1, 2, 3])
    (alone,) = evidence(word(0, {"caption": [1, 2]})).of([1])
    assert part == pytest.approx(PARTLY / 3 * alone + ABSENT)
    assert full > 2 * alone
    assert none == ABSENT
    assert found.kinds(1) == ("name", "caption")
    assert found.kinds(3) == ()
    assert found.is_full.tolist() == [True, False]


def test_digits_and_cameras_words_count_in_names_only_with_the_rest():
    img, number = word(0, {"name": [1, 2]}, is_debris=True), word(1, {"name": [1], "caption": [3]}, is_debris=True)
    found = evidence(img, number)
    assert found.of([1])[0] > 5
    assert found.of([2])[0] == ABSENT
    assert found.kinds(2) == ()
    assert found.kinds(3) == ("caption",)


def test_a_whole_name_is_nearly_certain():
    plain, named = (evidence(word(0, {"name": [1]}), names=names).of([1])[0] for names in ((), (1,)))
    assert named == pytest.approx(plain + WHOLE_NAME)
    assert evidence(names=(5,)).of([5, 6]).tolist() == [WHOLE_NAME, ABSENT]


def test_a_beginning_counts_less_than_the_word_and_images_beside_take_their_share():
    begun = evidence(word(0, {"name": []}, count=1), word(0, {"name": [1]}, is_beginning=True)).of([1])[0]
    whole = evidence(word(0, {"name": [1]})).of([1])[0]
    assert begun == pytest.approx(BEGUN * whole)
    assert evidence(word(0, {"name": [1]}), share=0.25).of([1])[0] == pytest.approx(whole / 4)
    assert evidence(word(0, {})) is None

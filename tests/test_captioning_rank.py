from types import MappingProxyType

import numpy as np
import pytest

from captioning_fakes import FakeEncoder
from sightline.core.captioning.rank import ListRanker
from sightline.errors import ModelError


class Axes(FakeEncoder):
    """Texts `x`, `y`, `xy` in the plane, so that cosines are known by heart."""

    dim = 2
    plane = MappingProxyType({"x": (1, 0), "y": (0, 1), "xy": (0.6, 0.8), "-x": (-1, 0), "x again": (1, 0)})

    def encode_texts(self, texts):
        return np.array([self.plane[text] for text in texts], np.float32)


def test_candidates_are_ranked_by_cosine_for_each_image():
    images = np.array([[1, 0], [0, 1]], np.float32)
    first, second = ListRanker(Axes(), ["-x", "x", "y", "xy"]).rank(images, top_k=3)
    assert [(c.text, round(c.similarity, 6)) for c in first] == [("x", 1.0), ("xy", 0.6), ("y", 0.0)]
    assert [(c.text, round(c.similarity, 6)) for c in second] == [("y", 1.0), ("xy", 0.8), ("-x", 0.0)]
    assert {(c.source, c.model, c.log_prob) for c in first + second} == {("clip", "fake", None)}


def test_ties_keep_the_order_of_the_list():
    image = np.array([[1, 0]], np.float32)
    for texts in (["x", "x again", "y"], ["x again", "x", "y"]):
        (ranked,) = ListRanker(Axes(), texts).rank(image, top_k=2)
        assert [caption.text for caption in ranked] == texts[:2]


def test_fewer_candidates_than_asked_are_all_given():
    (ranked,) = ListRanker(Axes(), ["x", "y"]).rank(np.array([[0, 1]], np.float32), top_k=10)
    assert [caption.text for caption in ranked] == ["y", "x"]


def test_no_images_give_no_rankings():
    assert ListRanker(Axes(), ["x"]).rank(np.zeros((0, 2), np.float32), top_k=1) == []


def test_the_list_is_embedded_once_for_all_batches():
    encoder = FakeEncoder()
    ranker = ListRanker(encoder, ["a red car", "the blue sea"])
    image = encoder.encode_images(np.full((1, 4, 4, 3), (220, 20, 20), np.uint8))
    assert [ranker.rank(image, top_k=1)[0][0].text for _ in range(3)] == ["a red car"] * 3
    assert len(encoder.texts_seen) == 2


def test_an_image_vector_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="Image vectors of fake"):
        ListRanker(Axes(), ["x"]).rank(np.array([[np.nan, 1]], np.float32), top_k=1)

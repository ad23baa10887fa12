import threading
import time
from pathlib import Path

import numpy as np
import pytest

from captioning_fakes import COLOURS, FakeEncoder
from evaluation_fakes import Colour, Plane, dataset, pair
from sightline.errors import InputError, ModelError
from sightline.lab.data.pixel_cache import PixelCache
from sightline.lab.evaluation.embedding import embed_dataset, embed_images, embed_texts

RAGGED = dataset(
    pair("a", "red", "red", "a red car"),
    pair("b", "broken", "nothing"),
    pair("c", "blue"),
    pair("d", "green", "green"),
    pair("e", "broken", "nothing"),
)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_all_vectors_lie_in_the_order_of_the_data_set(batch_size):
    encoder = FakeEncoder()
    embedded = embed_dataset(encoder, RAGGED, batch_size=batch_size)
    assert embedded.ids == ("a", "c", "d")
    assert embedded.row_B.tolist() == [0, 2, 3]
    assert embedded.texts == ("red", "a red car", "green")
    assert embedded.owner_T.tolist() == [0, 0, 2]
    assert [(p.id, p.reason) for p in embedded.problems] == [("b", "truncated JPEG"), ("e", "truncated JPEG")]
    expected = encoder.encode_images(
        np.stack([np.full((16, 16, 3), COLOURS[c], np.uint8) for c in ("red", "blue", "green")])
    )
    assert embedded.image_BD == pytest.approx(expected)
    assert embedded.text_TD == pytest.approx(encoder.encode_texts(embedded.texts))
    assert max(encoder.batches[:-1]) <= batch_size


def test_progress_counts_every_image():
    seen = []
    embed_images(FakeEncoder(), RAGGED, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_equal_texts_are_embedded_once_and_have_equal_vectors():
    encoder = FakeEncoder()
    vectors = embed_texts(encoder, ["red", "a longer blue text", "red", "blue", "red"])
    assert sorted(encoder.texts_seen) == ["a longer blue text", "blue", "red"]
    assert (vectors[0] == vectors[2]).all()
    assert vectors[3] == pytest.approx(encoder.encode_texts(["blue"])[0])


def test_many_texts_keep_their_places():
    texts = [str(angle) for angle in range(600)]
    assert embed_texts(Plane(), texts) == pytest.approx(Plane().encode_texts(texts))


def test_no_texts_give_no_vectors():
    assert embed_texts(FakeEncoder(), []).shape == (0, 16)


def test_images_are_read_ahead_of_the_encoder_but_not_without_bound():
    read, lock = [], threading.Lock()

    class Counted(Colour):
        def read(self):  # type: ignore[override]
            with lock:
                read.append(1)
            return super().read()

    many = dataset(*(pair(str(n), "red", "red") for n in range(2000)))
    for one in many:
        object.__setattr__(one, "image", Counted("red"))

    class Watching(FakeEncoder):
        ahead = None

        def encode_images(self, pixels_BHW3):
            if self.ahead is None:
                while len(read) <= 8:  # only a hang goes on so
                    time.sleep(0.01)
                time.sleep(0.2)  # as much as would be read without a bound
                self.ahead = len(read)
            return super().encode_images(pixels_BHW3)

    encoder = Watching()
    embed_images(encoder, many, batch_size=8)
    assert 8 < encoder.ahead < 400


def test_pixels_that_were_decoded_before_are_used():
    pixels = np.stack([np.full((16, 16, 3), COLOURS[c], np.uint8) for c in ("red", "red", "blue", "green", "red")])
    readable_N = np.array([True, False, True, True, False])
    cache = PixelCache(pixels_NSS3=pixels, readable_N=readable_N, problems=(), folder=Path())
    encoder = FakeEncoder()
    cached, decoded = embed_dataset(encoder, RAGGED, pixels=cache), embed_dataset(encoder, RAGGED)
    assert cached.image_BD == pytest.approx(decoded.image_BD)
    assert cached.ids == decoded.ids
    assert [problem.id for problem in cached.problems] == ["b", "e"]


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 16, 16, 3), "holds 4 pictures"), ((5, 8, 8, 3), r"of \(8, 8, 3\), the model takes 16")]
)
def test_pixels_of_something_else_are_refused(shape, message):
    pixels, readable_N = np.zeros(shape, np.uint8), np.ones(shape[0], bool)
    cache = PixelCache(pixels_NSS3=pixels, readable_N=readable_N, problems=(), folder=Path())
    with pytest.raises(InputError, match=message):
        embed_images(FakeEncoder(), RAGGED, pixels=cache)


def test_nothing_readable_and_nothing_at_all_are_refused():
    with pytest.raises(InputError, match=r"None of the 1 pictures of fake:colours can be read: truncated JPEG"):
        embed_dataset(FakeEncoder(), dataset(pair("b", "broken", "x")))
    with pytest.raises(InputError, match="no pictures in its split test"):
        embed_dataset(FakeEncoder(), dataset(split="test"))


class Diverged(FakeEncoder):
    def encode_images(self, pixels_BHW3):
        return np.full((len(pixels_BHW3), self.dim), np.nan, np.float32)


def test_a_model_that_gives_nan_is_named():
    with pytest.raises(ModelError, match="fake gives vectors of pictures that hold NaN"):
        embed_images(Diverged(), RAGGED)
    with pytest.raises(ModelError, match="fake gives vectors of texts that hold NaN"):
        embed_texts(Plane(), ["nan"])


def test_another_error_of_an_image_is_not_swallowed():
    broken = dataset(pair("a", "no such colour", "x"))
    with pytest.raises(KeyError):
        embed_images(FakeEncoder(), broken)

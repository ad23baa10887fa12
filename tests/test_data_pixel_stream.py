import numpy as np

from sightline.core.images.preprocess import Preprocessing
from sightline.errors import ImageError
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.pixel_stream import PixelStream

PREPROCESSING = Preprocessing(size_px=4, resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Counted:
    """An image of one level; number 3 can't be read."""

    def __init__(self, number):
        self.number, self.reads = number, 0

    def read(self, *, min_side_px=None):
        self.reads += 1
        if self.number == 3:
            raise ImageError("truncated JPEG")
        return np.full((8, 8, 3), self.number, np.uint8)


def make_stream():
    images = [Counted(number) for number in range(6)]
    pairs = [Pair(id=f"{image.number}.jpg", image=image, captions=("x",)) for image in images]
    dataset = Dataset(name="made", split="train", pairs=pairs, fingerprint="f")
    return PixelStream(dataset, preprocessing=PREPROCESSING), images


def test_rows_are_decoded_when_they_are_taken_and_what_was_begun_is_not_decoded_twice():
    stream, images = make_stream()
    stream.begin(np.array([1, 2]))
    assert stream[np.array([2, 0, 1])][:, 0, 0, 0].tolist() == [2, 0, 1]
    assert [image.reads for image in images] == [1, 1, 1, 0, 0, 0]
    assert stream.shape == (6, 4, 4, 3)
    stream.close()


def test_an_image_that_cannot_be_read_is_grey_and_named_once(caplog):
    stream, _ = make_stream()
    for _ in range(2):
        assert stream[np.array([3, 4])][:, 0, 0, 0].tolist() == [128, 4]
    assert caplog.text.count("3.jpg can't be read and is grey: truncated JPEG") == 1
    stream.close()

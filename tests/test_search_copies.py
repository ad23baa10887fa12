"""Copies by their pixels. The photographs are scikit-image's; changes are made at full size, then sketched.

Covers: sightline.core.search.alignment.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sightline.core.images.preprocess import make_sketch
from sightline.core.search import copies
from sightline.core.search.alignment import correlate_aligned
from sightline.core.search.copies import Joined, Pairs, check_pairs, find_copies, turn

data = pytest.importorskip("skimage.data")

NAMES = ("chelsea", "coffee", "rocket", "astronaut")


def cut(image, left, top, share=0.9):
    width, height = image.size
    x, y = round(width * (1 - share) * left), round(height * (1 - share) * top)
    return image.crop((x, y, x + round(width * share), y + round(height * share)))


def encode(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


CHANGES = {
    "cut in the middle": lambda image: cut(image, 0.5, 0.5),
    "cut at a corner": lambda image: cut(image, 0, 0),
    "cut at the other corner": lambda image: cut(image, 1, 1),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "quality 40": lambda image: encode(image, 40),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L"),
    "turned left": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned right": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "on its head": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "mirrored and turned": lambda image: ImageOps.mirror(image).transpose(Image.Transpose.ROTATE_90),
}


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in NAMES]


def sketch(image):
    return make_sketch(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_image_is_a_copy_of_its_own_alone(photos, change):
    sketches = np.stack([sketch(photo) for photo in photos] + [sketch(CHANGES[change](photo)) for photo in photos])
    found = list(find_copies(sketches))
    assert sorted((a, b) for a, b, _ in found) == [(number, number + len(NAMES)) for number in range(len(NAMES))]
    assert all(0.85 <= correlation <= 1 for *_, correlation in found)


def test_different_photographs_are_no_copies(photos):
    assert list(find_copies(np.stack([sketch(photo) for photo in photos]))) == []


def test_plain_images_are_no_copies_of_each_other():
    rng = np.random.default_rng(0)
    plain = (128 + rng.integers(-3, 4, (5, 32, 32))).astype(np.uint8)
    plain[1] = plain[0]  # even of the same levels: of a clear sky nothing can be told
    assert list(find_copies(plain)) == []


def test_many_of_one_are_joined_by_few_comparisons_over_blocks(photos, monkeypatch):
    for name, value in {"_ROWS": 16, "_COLUMNS": 32, "_MOST_FOR_ROW": 4}.items():
        monkeypatch.setattr(copies, name, value)
    rng = np.random.default_rng(0)
    noisy = sketch(photos[0]).astype(int) + rng.integers(-4, 5, (70, 32, 32))
    blocks = []
    found = list(find_copies(noisy.clip(0, 255).astype(np.uint8), on_block=lambda *at: blocks.append(at)))
    joined = Joined(len(noisy))
    assert all(joined.join(a, b) for a, b, _ in found), "a pair was compared that had been joined"
    assert joined.groups() == [list(range(len(noisy)))]
    assert blocks[0] == (0, len(blocks) - 1)
    assert blocks[-1] == (len(blocks) - 1, len(blocks) - 1)


def test_what_a_block_raises_ends_the_search(photos):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(find_copies(np.stack([sketch(photo) for photo in photos]), on_block=stop))


def test_a_turned_pair_is_checked_in_its_orientation(photos):
    sketches = np.stack([sketch(photo) for photo in photos])
    for orientation in range(8):
        both = np.concatenate([sketches, turn(sketches, orientation)])
        at = np.arange(len(photos))
        right = check_pairs(both, Pairs(at, at + len(photos), np.full(len(photos), orientation)))
        assert [correlation > 0.999 for *_, correlation in right] == [True] * len(photos)
        if orientation:
            assert check_pairs(both, Pairs(at, at + len(photos), np.zeros(len(photos), int))) == []


def test_alignment_finds_a_cut_of_four_fifths_whichever_of_the_two_is_cut(photos):
    whole = np.stack([sketch(photo) for photo in photos])
    parts = np.stack([sketch(cut(photo, 0.4, 0.6, share=0.8)) for photo in photos])
    assert (correlate_aligned(whole, parts) > 0.8).all()
    assert (correlate_aligned(parts, whole) > 0.8).all()
    assert (correlate_aligned(whole, np.roll(whole, 1, axis=0)) < 0.5).all()
    assert correlate_aligned(whole[:0], whole[:0]).shape == (0,)
    flat = np.full_like(whole, 9)
    assert np.isfinite(correlate_aligned(flat, whole)).all()

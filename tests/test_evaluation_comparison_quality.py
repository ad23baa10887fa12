import numpy as np

from evaluation_fakes import unit
from sightline.lab.evaluation.comparison_quality import choose_corners


def test_each_text_meets_the_image_that_fits_it_best():
    spaces = {"one": (unit(0, 60, 120), unit(121, 1, 61, 200))}
    assert choose_corners(spaces) == [(0, 1), (1, 2), (2, 0)]


def test_no_image_is_shown_twice():
    spaces = {"one": (unit(0, 1, 2), unit(0, 50, 90))}
    assert [image for _, image in choose_corners(spaces)] == [0, 1, 2]


def test_a_model_with_a_wider_spread_counts_no_more():
    wide = np.array([[1.0, 0.0, -1.0]], np.float32), np.eye(3, dtype=np.float32)
    narrow = np.array([[0.0, 0.01, 0.009]], np.float32), np.eye(3, dtype=np.float32)
    assert choose_corners({"narrow": narrow, "also": narrow, "wide": wide}, shown=1) == [(0, 1)]


def test_few_images_or_texts_give_a_small_table():
    assert len(choose_corners({"one": (unit(0, 10, 20, 30), unit(0))})) == 1
    assert len(choose_corners({"one": (unit(0), unit(*range(50)))})) == 1
    assert len(choose_corners({"one": (unit(*range(100)), unit(*range(100)))})) == 6

import numpy as np
import pytest

from explain_world import MaplessEncoder, MappingEncoder, square_at
from sightline.core.images.preprocess import Preprocessing
from sightline.errors import InputError, ModelError
from sightline.lab.experiments.explain import (
    FINE_CELLS,
    Area,
    Match,
    blur,
    choose_method,
    explain_image,
    load_explainable,
    seen_area,
    shift_pixels,
    weave_maps,
)


def match_of(heat, *, area=None, columns=4):
    whole = area or Area(left=0, top=0, width=1, height=1)
    return Match(
        words="w", method="map", heat_HW=np.array(heat, np.float32), area=whole, columns=columns, similarity=0.0
    )


def test_the_strongest_point_lies_on_the_thing_between_cells_too():
    encoder = MappingEncoder(size_px=16)
    for row, column in ((0, 0), (2, 6), (12, 12), (5, 9)):
        (match,) = explain_image(encoder, square_at(row, column), ["red"])
        x, y = match.place
        assert column <= x * 16 < column + 4, (row, column, match.place)
        assert row <= y * 16 < row + 4, (row, column, match.place)
        assert match.method == "map"
        assert match.columns == 4
        assert match.heat_HW.shape == (16, 16)


def test_each_words_have_a_map_of_their_own():
    encoder = MappingEncoder(size_px=16)
    rgb = square_at(0, 0)
    rgb[12:, 12:] = (20, 20, 220)
    red, blue = explain_image(encoder, rgb, ["red", "blue"])
    assert red.place < (0.3, 0.3)
    assert blue.place > (0.7, 0.7)
    assert red.strength.deviations > 2
    assert red.similarity == pytest.approx(float(encoder.encode_images(rgb[None])[0, 0]), abs=1e-6)


def test_a_map_holds_cosines_of_its_places():
    encoder = MappingEncoder(size_px=16)
    plain = np.full((16, 16, 3), (220, 20, 20), np.uint8)
    (match,) = explain_image(encoder, plain, ["red"])
    cell = encoder.encode_maps(plain[None])[0, 0, 0]
    expected = float(cell[0] / np.linalg.norm(cell))
    np.testing.assert_allclose(match.heat_HW, expected, atol=1e-5)
    assert match.strength.deviations == pytest.approx(0, abs=1)


def test_places_are_told_in_the_whole_image_where_the_model_crops():
    area = seen_area(Preprocessing(size_px=8, resize_mode="crop"), 200, 100)
    assert area == Area(left=0.25, top=0, width=0.5, height=1)
    assert seen_area(Preprocessing(size_px=8, resize_mode="squash"), 200, 100) == Area(left=0, top=0, width=1, height=1)
    heat = np.zeros((4, 4))
    heat[1, 3] = 1
    match = match_of(heat, area=area)
    assert match.place == pytest.approx((0.25 + 0.5 * 3.5 / 4, 1.5 / 4))
    box = match.box
    assert (box.left, box.top, box.width, box.height) == pytest.approx((0.625, 0.25, 0.125, 0.25))


def test_a_box_stays_within_what_the_model_sees():
    heat = np.zeros((16, 16))
    heat[0, 15] = 1
    box = match_of(heat).box
    assert (box.left, box.top) == pytest.approx((0.75, 0))


def test_strength_compares_with_what_lies_outside_the_box():
    heat = np.zeros((8, 8))
    heat[0, :] = 1  # a row of ones; the box of the best cell holds two of them
    heat[0, 0] = 5
    strength = match_of(heat).strength
    assert strength.here == 5
    assert strength.elsewhere == pytest.approx(6 / 60)
    rest = np.array([1.0] * 6 + [0.0] * 54)
    assert strength.deviations == pytest.approx((5 - 0.1) / rest.std())


def test_strength_of_a_map_without_a_rest_is_nothing():
    flat = match_of(np.ones((4, 4)))
    assert flat.strength.deviations == 0
    alone = match_of(np.ones((1, 1)), columns=1)
    assert (alone.strength.here, alone.strength.elsewhere, alone.strength.deviations) == (1, 1, 0)


def test_json_values_are_plain():
    import json

    values = json.loads(json.dumps(match_of(np.eye(4)).to_dict()))
    assert values["place"] == [0.125, 0.125]
    assert len(values["map"]) == 4


@pytest.mark.parametrize("words", [[], [""], ["red", "  "]])
def test_no_words_are_refused(words):
    with pytest.raises(InputError, match="no words to look for"):
        explain_image(MappingEncoder(), square_at(0, 0), words)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(InputError, match="'occlusion'; the methods are auto, map, gradient, attention"):
        choose_method(MappingEncoder(), "occlusion")


def test_a_model_without_a_map_says_what_to_use():
    with pytest.raises(ModelError, match="no map of where words match"):
        explain_image(MaplessEncoder(), square_at(0, 0), ["red"])


@pytest.mark.parametrize("method", ["gradient", "attention"])
def test_graphs_alone_have_no_gradients(method):
    with pytest.raises(ModelError, match=r"runs by fake, which gives no gradients\. Use --method map"):
        explain_image(MappingEncoder(), square_at(0, 0), ["red"], method=method)


def test_maps_that_are_not_finite_are_refused():
    class Broken(MappingEncoder):
        def encode_maps(self, pixels_BHW3):
            return super().encode_maps(pixels_BHW3) * np.nan

    with pytest.raises(ModelError, match="NaN or infinity"):
        explain_image(Broken(), square_at(0, 0), ["red"])


def test_the_starter_is_explained_by_its_map_without_torch():
    encoder = load_explainable("starter")
    assert encoder.runtime.startswith("onnx")
    rgb = square_at(40, 200, side=256, size=60)[:, :]
    red, blue = explain_image(encoder, rgb, ["a red square", "a blue sky"])
    assert red.method == "map"
    assert red.heat_HW.shape[0] >= 16
    assert np.isfinite(blue.heat_HW).all()
    with pytest.raises(ModelError, match="starter has ONNX graphs only, which gives no gradients"):
        load_explainable("starter", method="gradient")


def brightness_of_middles(cell_px):
    """The red value of the pixel in the middle of each cell, as one text's heat."""

    def cells(pixels_BSS3):
        middles = pixels_BSS3[:, cell_px // 2 :: cell_px, cell_px // 2 :: cell_px, 0]
        return middles[:, None].astype(np.float32)

    return cells


def test_shifts_look_at_evenly_spaced_places_in_order(monkeypatch):
    monkeypatch.setattr("sightline.lab.experiments.explain.blur", lambda heat, sigma: heat)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = np.arange(64)[None, :] + 2 * np.arange(64)[:, None]
    heat_THW, columns = weave_maps(brightness_of_middles(16), pixels)
    assert columns == 4
    assert heat_THW.shape == (1, FINE_CELLS, FINE_CELLS)
    places = np.arange(16) * 4 + 2  # the middle of every fine cell
    np.testing.assert_array_equal(heat_THW[0], places[None, :] + 2 * places[:, None])


def test_models_with_many_cells_run_once():
    runs = []

    def cells(pixels_BSS3):
        runs.append(len(pixels_BSS3))
        return np.zeros((len(pixels_BSS3), 1, 16, 16), np.float32)

    heat_THW, columns = weave_maps(cells, np.zeros((32, 32, 3), np.uint8))
    assert (runs, columns, heat_THW.shape) == ([1], 16, (1, 16, 16))


def test_cells_of_a_pixel_cannot_be_made_finer():
    cells = brightness_of_middles(1)
    heat_THW, columns = weave_maps(cells, np.zeros((4, 4, 3), np.uint8))
    assert (columns, heat_THW.shape) == (4, (1, 4, 4))


def test_what_is_left_free_repeats_the_edge():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 0] = 9
    shifted = shift_pixels(pixels, cell_px=4, n_shifts=2)
    assert shifted.shape == (4, 8, 8, 3)
    right, left = shifted[0], shifted[1]  # moved down and right by a pixel, then left
    np.testing.assert_array_equal(right[0, :, 0], [9, 9, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(left[0, :, 0], [0] * 8)


def test_a_blur_keeps_levels_and_spreads_evenly():
    flat = np.full((1, 5, 5), 3.0, np.float32)
    np.testing.assert_allclose(blur(flat, sigma=1.2), flat, rtol=1e-6)
    point = np.zeros((1, 9, 9), np.float32)
    point[0, 4, 4] = 1
    spread = blur(point, sigma=1.0)[0]
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(spread, spread.T, atol=1e-7)
    np.testing.assert_allclose(spread, spread[::-1], atol=1e-7)
    assert spread[4, 5] / spread[4, 4] == pytest.approx(np.exp(-0.5), rel=1e-4)

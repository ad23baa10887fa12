import numpy as np
import pytest

from sightline.experiments.shifting import FINE_CELLS, blur, shift_pixels, weave_maps


def brightness_of_middles(cell_px):
    """The red value of the pixel in the middle of each cell, as one text's heat."""

    def cells(pixels_BSS3):
        middles = pixels_BSS3[:, cell_px // 2 :: cell_px, cell_px // 2 :: cell_px, 0]
        return middles[:, None].astype(np.float32)

    return cells


def test_shifts_look_at_evenly_spaced_places_in_order(monkeypatch):
    monkeypatch.setattr("sightline.experiments.shifting.blur", lambda heat, sigma: heat)
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

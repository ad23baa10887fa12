import math
import os
from pathlib import Path

import numpy as np
import pytest

from evaluation_fakes import dataset, pair
from explain_world import MappingEncoder
from sightline.errors import InputError
from sightline.lab.data.scenes.dataset import load_scenes
from sightline.lab.data.scenes.grammar import ObjectKind, Scene, SceneObject
from sightline.lab.evaluation.results import Bootstrap
from sightline.lab.experiments.explain import PointingConfig, judge, name_of, play, pointing_game

FEW = Bootstrap(resamples=50)
STUDY = os.environ.get("SIGHTLINE_STUDY", "")


def thing(x, y, radius=0.2, colour="red", shape="circle"):
    return SceneObject(ObjectKind("large", "solid", colour, shape), x, y, radius, 0.0, 0, (0, 0, 0))


SCENE = Scene(objects=(thing(0.25, 0.25), thing(0.75, 0.75, colour="blue")), ground=(0, 0, 0), noise_seed=None)


def peaks(*places, side=20):
    heat = np.zeros((len(places), side, side), np.float32)
    for map_HW, (x, y) in zip(heat, places, strict=True):
        map_HW[int(y * side), int(x * side)] = 1
    return heat


def test_points_within_the_thing_another_thing_and_nothing():
    words = ["a red circle", "a blue circle"]
    right = judge(peaks((0.3, 0.2), (0.75, 0.9)), SCENE, words)
    assert [(point.hit, point.on_another) for point in right] == [(True, False), (True, False)]
    swapped = judge(peaks((0.75, 0.75), (0.25, 0.25)), SCENE, words)
    assert [(point.hit, point.on_another) for point in swapped] == [(False, True), (False, True)]
    beside = judge(peaks((0.46, 0.25), (0.95, 0.05)), SCENE, words)
    assert [(point.hit, point.on_another) for point in beside] == [(False, False), (False, False)]
    assert [point.words for point in right] == words
    assert right[0].share == pytest.approx(math.pi * 0.04)


def test_energy_is_the_share_of_heat_above_the_mean():
    heat = peaks((0.25, 0.25), (0.75, 0.75))
    heat[0, 19, 19] = 0.5  # outside; the mean is 1.5 / 400
    first, second = judge(heat, SCENE, ["a", "b"])
    mean = 1.5 / 400
    assert first.energy == pytest.approx((1 - mean) / (1.5 - 2 * mean), rel=1e-5)
    assert second.energy == pytest.approx(1)


def test_a_flat_map_has_no_energy():
    (first, _) = judge(np.ones((2, 8, 8), np.float32), SCENE, ["a", "b"])
    assert first.energy == 0


def test_maps_that_know_nothing_point_right_by_the_share_of_things(rng):
    """What `pointing_chance` states is what random maps reach."""
    points = [point for _ in range(3000) for point in judge(rng.random((2, 20, 20)), SCENE, ["a", "b"])]
    share = points[0].share
    assert np.mean([point.hit for point in points]) == pytest.approx(share, abs=0.015)
    assert np.mean([point.energy for point in points]) == pytest.approx(share, abs=0.015)


def test_words_are_colour_and_shape():
    assert name_of(thing(0, 0, colour="pink", shape="heart")) == "a pink heart"


class ColourReader(MappingEncoder):
    """Sees at 64 pixels, and reads the colour's word."""

    def __init__(self):
        super().__init__(size_px=64)


def test_a_model_that_sees_colours_points_far_better_than_chance():
    scenes = load_scenes(split="test", limit=12)
    done = []
    result = pointing_game(
        ColourReader(), scenes, PointingConfig(bootstrap=FEW), progress=lambda n, total: done.append((n, total))
    )
    n_things = sum(len(one.image.scene().objects) for one in scenes)  # type: ignore[attr-defined, misc]
    assert (result.n_images, result.n_texts) == (12, n_things)
    assert result.metrics["pointing_hit"] > 3 * result.metrics["pointing_chance"]
    assert 0.05 < result.metrics["pointing_chance"] < 0.2
    assert result.metrics["pointing_hit"] + result.metrics["pointing_on_another"] <= 1
    low, high = result.intervals["pointing_hit"]
    assert low <= result.metrics["pointing_hit"] <= high
    assert result.details["method"] == "map"
    things = [len(points) for points in play(ColourReader(), scenes)]
    assert result.details["pointing_at_any_thing"] == pytest.approx(len(things) / sum(things), abs=1e-6)
    assert done[-1] == (12, 12)


def test_words_of_another_thing_point_elsewhere():
    """The same model, asked for the other thing's colour, misses: hits come from reading."""

    class Confused(ColourReader):
        def encode_texts(self, texts):
            return np.roll(super().encode_texts(texts), 1, axis=0)

    scenes = load_scenes(split="test", limit=12)
    right = pointing_game(ColourReader(), scenes, PointingConfig(bootstrap=FEW)).metrics
    wrong = pointing_game(Confused(), scenes, PointingConfig(bootstrap=FEW)).metrics
    assert wrong["pointing_hit"] < right["pointing_hit"] / 2
    assert wrong["pointing_on_another"] > right["pointing_on_another"]


def test_images_without_known_places_are_refused():
    photos = dataset(pair("a.jpg", "red", "red"))
    with pytest.raises(InputError, match="doesn't say where things are; the pointing game needs scenes: --data scenes"):
        pointing_game(MappingEncoder(), photos)


@pytest.mark.slow
@pytest.mark.skipif(not STUDY, reason="needs models trained on scenes: SIGHTLINE_STUDY names the folder of scenes-0")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("scenes-0", "map"),
        ("scenes-0", "gradient"),
        ("scenes-vit-0", "gradient"),
        ("scenes-vit-0", "attention"),
    ],
)
def test_trained_models_point_at_least_seven_times_in_ten(name, method):
    from sightline.lab.experiments.explain import load_explainable

    folder = Path(STUDY) / name
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"{folder} holds no model")
    encoder = load_explainable(f"dir:{folder}", method=method)
    result = pointing_game(encoder, load_scenes(split="test", limit=100), PointingConfig(method=method, bootstrap=FEW))
    assert result.metrics["pointing_hit"] >= 0.7

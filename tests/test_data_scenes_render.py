import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from scenes_pins import SCENES_CHANGED
from sightline.lab.data.scenes.dataset import SceneImage
from sightline.lab.data.scenes.grammar import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    ObjectKind,
    Scene,
    SceneObject,
    draw_scene,
)
from sightline.lab.data.scenes.render import render_scene

GREY = (128, 128, 128)
RING_AND_CIRCLE = ("ring", "circle")


def scene_with(*, shape="circle", colour="red", size="large", texture="solid", grain=0, tilt=0.0):
    radius = sum(SIZES[size]) / 2
    thing = SceneObject(ObjectKind(size, texture, colour, shape), 0.5, 0.5, radius, tilt, grain, (0, 0, 0))
    return Scene(objects=(thing,), ground=GREY, noise_seed=None)


def mask(scene, size_px=64):
    return np.abs(render_scene(scene, size_px).astype(int) - 128).sum(axis=2) > 20


def test_pixels_are_as_version_1_fixed_them():
    scenes = [draw_scene(0, "train", number) for number in range(24)]
    digest = hashlib.blake2b(b"".join(render_scene(scene, 64).tobytes() for scene in scenes), digest_size=8)
    digest.update(render_scene(scenes[0], 96).tobytes() + render_scene(scenes[1], 160).tobytes())
    assert digest.hexdigest() == "596a911e7e3a27c3", SCENES_CHANGED


def test_an_image_is_rendered_at_its_size_and_the_same_each_time():
    image = SceneImage(seed=0, split="train", number=4, size_px=80)
    rgb = image.read()
    assert (rgb.shape, rgb.dtype) == ((80, 80, 3), np.uint8)
    assert rgb.flags["C_CONTIGUOUS"]
    assert (rgb == image.read()).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt", [-0.08, 0.0, 0.08])
def test_nothing_of_a_thing_lies_beyond_its_radius_and_it_fills_a_good_part(shape, tilt):
    scene = scene_with(shape=shape, tilt=tilt)
    seen = mask(scene, 128)
    y, x = np.nonzero(seen)
    radius_px = scene.objects[0].radius * 128
    assert np.hypot(x + 0.5 - 64, y + 0.5 - 64).max() <= radius_px + 1.7  # the smoothing of a tip
    assert 0.25 < seen.sum() / (np.pi * radius_px**2) < 0.95


def test_a_thing_is_where_its_place_and_radius_say():
    scene = draw_scene(0, "train", 2)
    empty = replace(scene, objects=())
    changed = (render_scene(scene, 100) != render_scene(empty, 100)).any(axis=2)
    for thing in scene.objects:
        left, right = (round((thing.x + side * thing.radius) * 100) for side in (-1, 1))
        top, bottom = (round((thing.y + side * thing.radius) * 100) for side in (-1, 1))
        assert changed[top:bottom, left:right].mean() > 0.15
        changed[top - 1 : bottom + 1, left - 1 : right + 1] = False
    assert not changed.any()


def test_all_shapes_look_different_at_every_size():
    for size in SIZES:
        masks = {shape: mask(scene_with(shape=shape, size=size)) for shape in SHAPES}
        for one, other in itertools.combinations(SHAPES, 2):
            differing = (masks[one] ^ masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert differing > 0.15, (size, one, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_small_ring_has_a_hole_that_a_small_circle_has_not(colour):
    ring, circle = (render_scene(scene_with(shape=shape, colour=colour, size="small"), 64) for shape in RING_AND_CIRCLE)
    hole = np.abs(ring.astype(int) - GREY).sum(axis=2)[29:35, 29:35] == 0
    assert hole.sum() >= 32
    assert tuple(ring[32, 32]) == GREY
    assert not (circle[29:35, 29:35] == GREY).all(axis=2).any()


def test_the_middle_of_a_solid_thing_has_its_colour():
    for colour, (paint, _) in COLOURS.items():
        assert tuple(render_scene(scene_with(colour=colour), 64)[32, 32]) == paint


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", ["red", "white", "black", "blue"])
def test_textures_are_visible_even_on_small_things(shape, colour):
    for grain in range(4):
        images = {
            texture: render_scene(
                scene_with(shape=shape, colour=colour, size="small", texture=texture, grain=grain), 64
            )
            for texture in TEXTURES
        }
        for one, other in itertools.combinations(TEXTURES, 2):
            differing = np.abs(images[one].astype(int) - images[other]).max(axis=2) > 40
            assert differing.sum() >= 6, (one, other, grain)


def test_stripes_run_the_way_of_their_grain():
    def spread(grain, axis):
        rgb = render_scene(scene_with(shape="square", texture="striped", grain=grain), 128)[50:78, 50:78, 0].astype(
            float
        )
        return rgb.mean(axis=axis).std()

    assert spread(0, 0) > 5 * spread(0, 1)
    assert spread(1, 1) > 5 * spread(1, 0)


def test_sizes_are_seen():
    areas = [mask(scene_with(size=size)).sum() for size in SIZES]
    assert areas[0] * 1.6 < areas[1]
    assert areas[1] * 1.6 < areas[2]


def test_tilt_turns_clockwise():
    upright, turned = (mask(scene_with(shape="square", tilt=tilt), 256) for tilt in (0.0, 0.08))
    top_left = [np.nonzero(seen.any(axis=1))[0].min() for seen in (upright, turned)]
    assert top_left[1] < top_left[0]
    first_row = np.nonzero(turned)[1][:3]
    assert first_row.mean() < 128  # the top left corner of a square that turned clockwise is its highest


def noise_of(size_px, seed=5):
    return render_scene(Scene(objects=(), ground=GREY, noise_seed=seed), size_px).astype(float)


def test_noise_is_coloured_and_falls_off_like_a_photograph():
    power = np.mean([np.abs(np.fft.fft2(noise_of(64, seed)[..., 1] - 128)) ** 2 for seed in range(30)], axis=0)
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
    low, middle, high = (power[(distance >= a) & (distance < b)].mean() for a, b in ((1, 3), (6, 10), (20, 30)))
    assert low > 5 * middle > 25 * high
    noise = noise_of(64)
    assert 10 < noise.std() < 60
    assert 3 < (noise[..., 0] - noise[..., 2]).std() < noise[..., 1].std()


def test_noise_looks_alike_at_all_sizes():
    small, large = noise_of(64), noise_of(128).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.95


def test_a_plain_background_is_plain_and_a_noisy_one_is_not():
    scene = next(scene for n in range(99) if (scene := draw_scene(0, "train", n)).noise_seed is None)
    assert (render_scene(scene, 64)[0, 0] == scene.ground).all()
    assert (render_scene(scene, 64)[0] == scene.ground).all()
    assert not (render_scene(replace(scene, noise_seed=1), 64)[0] == scene.ground).all()

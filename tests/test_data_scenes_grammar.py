import hashlib
import itertools
import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from scenes_pins import SCENES_CHANGED
from sightline.lab.data.scenes.grammar import (
    COLOURS,
    GAP,
    GRAMMAR_VERSION,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    Chance,
    ObjectKind,
    draw_scene,
    grounds_for,
    split_of,
)

SCENES = [draw_scene(0, "train", number) for number in range(600)]


def structure_hash(scenes):
    rounded = [asdict(scene) | {"objects": [_round(thing) for thing in scene.objects]} for scene in scenes]
    return hashlib.blake2b(json.dumps(rounded).encode(), digest_size=8).hexdigest()


def _round(thing):
    return [list(thing.kind), *(round(value, 9) for value in thing[1:5]), thing.grain, list(thing.jitter)]


def test_the_grammar_is_as_version_1_fixed_it():
    assert GRAMMAR_VERSION == 1
    assert structure_hash(SCENES[:50]) == "814ef8fc0a047ba2", SCENES_CHANGED
    assert structure_hash([draw_scene(3, "test", number) for number in range(50)]) == "e9a173d0cf47e101", SCENES_CHANGED


def test_it_is_as_rich_as_promised():
    assert (len(COLOURS), len(SHAPES), len(SIZES), len(TEXTURES)) == (8, 6, 3, 3)
    kinds = [thing.kind for scene in SCENES for thing in scene.objects]
    for name, values in VALUES.items():
        counts = [sum(getattr(kind, name) == value for kind in kinds) for value in values]
        assert min(counts) > 0.75 * len(kinds) / len(values), name
        assert max(counts) < 1.25 * len(kinds) / len(values), name


def test_about_half_of_the_scenes_have_two_objects_the_others_three_and_half_of_them_noise():
    assert {len(scene.objects) for scene in SCENES} == {2, 3}
    assert 0.46 < np.mean([len(scene.objects) == 2 for scene in SCENES]) < 0.58
    assert 0.4 < np.mean([scene.noise_seed is not None for scene in SCENES]) < 0.6


def test_objects_lie_inside_the_image_and_apart():
    for scene in SCENES:
        for thing in scene.objects:
            assert thing.x - thing.radius >= GAP
            assert thing.x + thing.radius <= 1 - GAP
            assert thing.y - thing.radius >= GAP
            assert thing.y + thing.radius <= 1 - GAP
        for one, other in itertools.combinations(scene.objects, 2):
            assert np.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius + GAP - 1e-12


def test_no_two_objects_of_a_scene_share_colour_and_shape():
    for scene in SCENES:
        looks = [(thing.kind.colour, thing.kind.shape) for thing in scene.objects]
        assert len(set(looks)) == len(looks)


def test_sizes_are_far_apart():
    bounds = [SIZES[size] for size in VALUES["size"]]
    assert all(smaller[1] * 1.22 < greater[0] for smaller, greater in itertools.pairwise(bounds))


def test_some_background_suits_every_three_colours_and_textures():
    for colours in itertools.combinations_with_replacement(COLOURS, 3):
        for textures in itertools.product(("solid", "dotted"), repeat=3):
            kinds = [
                ObjectKind("small", texture, colour, "ring") for texture, colour in zip(textures, colours, strict=True)
            ]
            assert grounds_for(kinds), kinds


def test_no_word_after_an_article_begins_with_a_vowel():
    words = [word for values in VALUES.values() for word in values]
    assert not [word for word in words if word[0] in "aeiou"]


def test_draws_repeat_and_differ_by_seed_split_and_number():
    first = draw_scene(0, "train", 0)
    assert draw_scene(0, "train", 0) == first
    others = [draw_scene(1, "train", 0), draw_scene(0, "test", 0), draw_scene(0, "train", 1)]
    assert first not in others


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_scene_is_drawn_for_the_split_of_its_bag_only(split):
    assert {draw_scene(5, split, number).split for number in range(60)} == {split}


def test_bags_ignore_what_belongs_to_what_and_go_to_the_splits_in_the_promised_shares():
    assert split_of(sorted(["red", "circle", "blue", "square"])) == split_of(
        sorted(["blue", "circle", "red", "square"])
    )
    things = list(itertools.product(COLOURS, SHAPES))
    bags = {
        tuple(sorted(word for thing in chosen for word in thing))
        for n_objects in (2, 3)
        for chosen in itertools.combinations(things, n_objects)
    }
    assert Counter(len(bag) // 2 for bag in bags) == {2: 708, 3: 6096}
    assert Counter(split_of(bag) for bag in bags) == {"train": 5461, "val": 657, "test": 686}


def test_chance_gives_what_python_promises_for_a_known_key():
    chance = Chance("a test", 1)
    assert [chance.below(100) for _ in range(6)] == [20, 20, 33, 92, 91, 26]
    assert sorted(Chance(0).shuffle(range(9))) == list(range(9))
    assert Chance(0).shuffle(range(9)) != list(range(9))

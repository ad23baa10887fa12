import hashlib
import pickle
import re

import pytest

from scenes_pins import SCENES_CHANGED
from sightline.errors import InputError
from sightline.lab.data.base import HardNegative, Pair
from sightline.lab.data.scenes import dataset as scenes_dataset
from sightline.lab.data.scenes.dataset import DEFAULT_COUNTS, SceneImage, load_scenes
from sightline.lab.data.scenes.grammar import GRAMMAR_VERSION, Chance, draw_scene, may_be_true
from sightline.lab.data.scenes.sentences import compose_captions

N_TOLD_APART = 250


@pytest.fixture(scope="module")
def test_scenes():
    return load_scenes(split="test", limit=N_TOLD_APART)


def words_hash(pairs):
    lines = [
        repr((pair.id, pair.captions, [(n.kind, n.caption, n.negative) for n in pair.negatives])) for pair in pairs
    ]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def test_captions_and_negatives_are_as_version_1_fixed_them(test_scenes):
    train = load_scenes(0, limit=50)
    assert train[0].captions == (
        "a dotted white cross right of a medium green heart",
        "a medium striped green heart and a medium dotted white cross",
        "a medium green heart in the top left corner and a dotted white cross",
        "two shapes: one is a medium striped green heart, another one is a medium dotted cross",
        "a medium dotted white shape on the right and a medium striped green shape in the top left corner",
    ), SCENES_CHANGED
    assert words_hash(train) == "f387b70450a4b7ce", SCENES_CHANGED
    assert words_hash(test_scenes.pairs[:50]) == "53b9be1007ee6d3c", SCENES_CHANGED


def test_another_version_of_the_grammar_is_another_set_to_caches_and_checkpoints(monkeypatch):
    before = load_scenes(0, limit=5).fingerprint
    monkeypatch.setattr(scenes_dataset, "GRAMMAR_VERSION", GRAMMAR_VERSION + 1)
    assert load_scenes(0, limit=5).fingerprint != before


def test_default_sizes():
    assert DEFAULT_COUNTS == {"train": 50_000, "val": 1_000, "test": 1_000}
    assert len(load_scenes()) == 50_000


def test_pairs_are_as_the_contract_says(test_scenes):
    pair = test_scenes[3]
    assert isinstance(pair, Pair)
    assert len(pair.captions) == 5
    assert all(isinstance(negative, HardNegative) and negative.caption in pair.captions for negative in pair.negatives)
    assert len({pair.id for pair in test_scenes}) == N_TOLD_APART
    assert (test_scenes.name, test_scenes.split) == ("scenes:0", "test")
    assert pickle.loads(pickle.dumps(pair)) == pair
    assert hash(pair.image) == hash(SceneImage(seed=0, split="test", number=pair.image.number))  # type: ignore[attr-defined]


def test_training_pairs_are_a_lazy_sequence():
    train = load_scenes(2, limit=10)
    assert [pair.id for pair in train] == [f"train-{i:06d}" for i in range(10)]
    assert train.pairs[-1] == train[9]
    assert list(train.pairs[2:4]) == [train[2], train[3]]
    assert train.n_captions == 50
    with pytest.raises(IndexError, match="10 scenes"):
        train[10]


def test_an_image_can_be_had_without_its_captions():
    train = load_scenes(2, limit=10)
    assert [train.pairs.image_at(i) for i in range(10)] == [pair.image for pair in train]  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_smaller_limit_gives_the_first_scenes(split):
    more = load_scenes(1, split=split, limit=40)
    fewer = load_scenes(1, split=split, limit=15)
    assert list(fewer) == list(more)[:15]
    assert fewer.fingerprint != more.fingerprint


def test_sets_repeat_and_differ_by_seed():
    assert list(load_scenes(7, limit=5)) == list(load_scenes(7, limit=5))
    assert list(load_scenes(7, limit=5)) != list(load_scenes(8, limit=5))
    assert load_scenes(7, limit=5).fingerprint == load_scenes(7, limit=5).fingerprint
    fingerprints = {load_scenes(seed, limit=5, size_px=size).fingerprint for seed in (7, 8) for size in (64, 96)}
    assert len(fingerprints) == 4


def test_no_test_content_occurs_in_other_splits(test_scenes):
    test_bags = {pair.image.scene().bag for pair in test_scenes}
    val_bags = {pair.image.scene().bag for pair in load_scenes(split="val", limit=N_TOLD_APART)}  # type: ignore[attr-defined]
    train_bags = {draw_scene(seed, "train", number).bag for seed in (0, 1) for number in range(2000)}
    assert len(test_bags) > 160
    assert not test_bags & train_bags
    assert not test_bags & val_bags
    assert not val_bags & train_bags


def test_every_caption_fits_its_own_scene_alone(test_scenes):
    scenes = [pair.image.scene() for pair in test_scenes]
    gathering = scenes_dataset._Gathering()
    statements = []
    for scene, pair in zip(scenes, test_scenes, strict=True):
        chance = Chance(0, "test", pair.image.number, "captions")
        captions = compose_captions(scene, chance, accept=gathering.lacks)
        assert tuple(caption.text for caption in captions) == pair.captions
        gathering.add(scene, captions)
        statements.append([caption.statement for caption in captions])
    for row, own in enumerate(statements):
        for statement in own:
            assert [other for other, scene in enumerate(scenes) if may_be_true(statement, scene)] == [row]


def test_no_caption_is_told_of_two_test_scenes(test_scenes):
    captions = [caption for pair in test_scenes for caption in pair.captions]
    assert len(set(captions)) == len(captions) == 5 * N_TOLD_APART


def test_an_image_knows_its_scene(test_scenes):
    pair = test_scenes[0]
    words = re.findall(r"\w+", " ".join(pair.captions))
    assert {thing.kind.colour for thing in pair.image.scene().objects} & set(words)
    assert pair.image.scene() == draw_scene(0, "test", pair.image.number)


def test_more_scenes_than_can_be_told_apart_are_an_error(monkeypatch):
    monkeypatch.setattr(scenes_dataset, "_MOST_REFUSALS", 3)
    with pytest.raises(InputError, match=r"Only \d+ val scenes could be told apart by their captions, not 1000"):
        load_scenes(split="val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "train, val, test"),
        ({"seed": -1}, "seed of scenes must be 0 or more"),
        ({"size_px": 32}, "at least 64 pixels"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_scenes(**options)

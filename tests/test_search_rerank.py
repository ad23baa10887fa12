"""A second look, with a matcher that answers as told, and with the starter's captioner."""

import shutil
import sqlite3

import numpy as np
import pytest
from PIL import Image

import sightline as sl
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import ModelCard, TextSpec
from sightline.core.models.loading import load_captioner, load_matcher
from sightline.core.search import rerank
from sightline.core.search.rerank import KeptMemories, SecondLook
from sightline.errors import InputError, ModelError

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 60, 220), "grey": (120, 120, 120)}
CHANNELS = {"crimson": 0, "lime": 1, "navy": 2}


class ColourMatcher:
    """Words fit an image by the share of the colour that they name; a memory is the mean colour."""

    card = ModelCard(
        name="colours",
        kind="matcher",
        family="blip",
        source="test",
        preprocessing=Preprocessing(size_px=8, resize_mode="squash"),
        text=TextSpec(context_length=8, pad_id=0),
    )
    runtime = "test"
    image_side = "colours"

    def __init__(self):
        self.seen = 0
        self.texts = []

    def see(self, pixels):
        self.seen += len(pixels)
        return pixels.mean(axis=(1, 2), keepdims=True).astype(np.float32)[:, 0]

    def match(self, memory, text):
        self.texts.append(text)
        return 100 * memory[:, 0, CHANNELS[text]] / memory[:, 0].sum(axis=1)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        noise = rng.integers(-15, 15, (90, 120, 3))
        image = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "photos" / f"{name}.png")
    with sl.Library.open(folder / "library", model="starter") as library:
        library.index(folder / "photos")
    return folder


@pytest.fixture
def library(tmp_path, indexed):
    shutil.copytree(indexed / "library", tmp_path / "library")
    shutil.copytree(indexed / "photos", tmp_path / "photos")  # with their times: the same files elsewhere
    with sl.Library.open(tmp_path / "library") as library:
        library.index(tmp_path / "photos")
        library.remove(paths=[indexed / "photos"])
        yield library


@pytest.fixture
def matcher(library, tmp_path):
    """A matcher that decides alone: its nats outweigh every cosine."""
    matcher = ColourMatcher()
    library._looks[None] = SecondLook(matcher, tmp_path / "library", weight=1e4)
    return matcher


def names(hits):
    return [hit.image.path.stem for hit in hits]


def test_the_first_are_read_again_and_the_rest_stays(library, matcher):
    before = library.search("lime", top=4)
    after = library.search("lime", top=4, rerank=4)
    assert names(after)[:2] == ["green", "grey"]
    assert {hit.image.id: hit.similarity for hit in after} == {hit.image.id: hit.similarity for hit in before}
    twice = library.search("lime", top=4, rerank=2)
    assert names(twice)[2:] == names(before)[2:]
    assert set(names(twice)[:2]) == set(names(before)[:2])
    assert names(library.search("lime", top=1, rerank=4)) == ["green"], "more may be read than are wanted"


def test_cosine_and_match_add_up_in_nats(library):
    matcher, query = ColourMatcher(), "lime"
    before = library.search(query, top=4, hub_correction=False)
    for weight in (0.0, 0.01, 0.1, 1.0):
        library._looks[None] = SecondLook(matcher, None, weight=weight)
        nats = library._looks[None].match({hit.image.id: hit.image for hit in before}, [(query, 1.0)])
        temperature = library.encoder.card.nats_per_cosine
        order = sorted(before, key=lambda hit: -(temperature * hit.similarity + weight * nats[hit.image.id]))
        assert names(library.search(query, top=4, rerank=4, hub_correction=False)) == names(order)


def test_parts_count_by_their_weights_and_what_is_subtracted_against(library, matcher):
    records = {hit.image.id: hit.image for hit in library.search("lime", top=4)}
    look = library._looks[None]
    lime, navy = (look.match(records, [(word, 1.0)]) for word in ("lime", "navy"))
    both = look.match(records, [("lime", 3.0), ("navy", -1.5)])
    assert both == pytest.approx({row: lime[row] - 0.5 * navy[row] for row in records})
    assert names(library.search("lime - navy", top=4, rerank=4))[-1] == "blue"


def test_an_image_that_is_gone_or_changed_keeps_its_place(library, matcher, tmp_path):
    before = names(library.search("lime", top=4))
    gone, changed = before[0], before[2]
    (tmp_path / "photos" / f"{gone}.png").unlink()
    (tmp_path / "photos" / f"{changed}.png").write_bytes(b"no image")
    after = names(library.search("lime", top=4, rerank=4))
    assert (after[0], after[2]) == (gone, changed)
    shares = [COLOURS[name][1] / sum(COLOURS[name]) for name in (after[1], after[3])]
    assert shares == sorted(shares, reverse=True)


def test_what_was_seen_is_kept_and_outlives_the_files(library, matcher, tmp_path):
    first = names(library.search("lime", top=4, rerank=4))
    assert matcher.seen == 4
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    other = ColourMatcher()
    library._looks[None] = SecondLook(other, tmp_path / "library", weight=1e4)
    assert names(library.search("lime", top=4, rerank=4)) == first
    assert other.seen == 0


def test_looking_ahead_keeps_all_and_drops_what_the_library_forgot(library, matcher, tmp_path):
    told = []
    assert library.look_ahead(on_progress=lambda *progress: told.append(progress)) == 4
    assert told == [(4, 4, "")]
    library.remove(paths=[tmp_path / "photos" / "red.png"])
    seen = matcher.seen
    assert library.look_ahead() == 3
    assert matcher.seen == seen + 1, "only one black image, to know the size"
    with sqlite3.connect(tmp_path / "library" / "second-look" / "memories.db") as db:
        assert db.execute("select count(*) from memories").fetchone() == (3,)


def test_what_is_too_large_is_not_kept(library, matcher, tmp_path, monkeypatch):
    monkeypatch.setattr(rerank, "MAX_KEPT_BYTES", 4)
    library.search("lime", rerank=4)
    assert not (tmp_path / "library" / "second-look").exists()
    with pytest.raises(InputError, match=r"colours would keep 0 kB an image .* starter-captioner keeps 19 kB"):
        library.look_ahead()
    with pytest.raises(InputError, match="open for reading only"):
        SecondLook(matcher, None).look_ahead([])


def test_memories_are_kept_to_a_hundredth_and_a_damaged_file_only_costs_time(tmp_path, rng, caplog):
    memories = {"a": rng.normal(size=(5, 16)).astype(np.float32), "b": np.zeros((5, 16), np.float32)}
    kept = KeptMemories(tmp_path / "kept", image_side="one")
    assert kept.find(["a"]) == {}
    kept.keep(memories)
    found = kept.find(["a", "b", "c"])
    assert set(found) == {"a", "b"}
    np.testing.assert_allclose(found["a"], memories["a"], atol=np.abs(memories["a"]).max() / 120)
    np.testing.assert_array_equal(found["b"], memories["b"])
    assert KeptMemories(tmp_path / "kept", image_side="other").find(["a"]) == {}
    kept.path.write_bytes(b"no database at all" * 99)
    assert kept.find(["a"]) == {}
    kept.keep(memories)
    assert "can't be read" in caplog.text
    assert "can't be kept" in caplog.text


@pytest.mark.parametrize("depth", [-1, 251])
def test_a_depth_beyond_the_limits_is_refused(library, depth):
    with pytest.raises(InputError, match=rf"rerank is {depth}; it must be from 0, for no second look, to 250 hits"):
        library.search("lime", rerank=depth)


@pytest.mark.parametrize("query", [("- lime",), ("./photo.png",)])
def test_a_query_without_words_to_look_for_is_refused(library, matcher, tmp_path, monkeypatch, query):
    shutil.copy(tmp_path / "photos" / "red.png", tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="A second look reads words, and the query looks for none"):
        library.search(*query, rerank=4)


def test_models_that_can_t_look_again_are_refused_with_those_that_can():
    for name in ("starter", "endpoint:http://127.0.0.1:9/"):
        with pytest.raises(ModelError, match=r"starter-captioner, which ships with Sightline, .*blip-itm-base"):
            load_matcher(name)
    with pytest.raises(ModelError, match="Fetch them: `sightline models pull blip-itm-base`"):
        load_matcher("blip-itm-base")


def test_the_starter_s_captioner_tells_colours_apart_by_the_words_probability(library):
    captioner = load_matcher()
    assert captioner.card.name == "starter-captioner"
    pixels = np.stack([np.full((240, 240, 3), colour, np.uint8) for colour in COLOURS.values()])
    words = "a dog runs through the grass"
    match = captioner.match(captioner.see(pixels), words)
    means = [scores[0] for scores in load_captioner("starter-captioner").score(pixels, [[words]] * len(pixels))]
    ratios = match / np.array(means)
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)  # the sum is the mean, times tokens
    assert ratios[0] == pytest.approx(7, abs=1), "six words and the end"
    assert {hit.image.path.stem for hit in library.search(words, rerank=4)} == set(COLOURS)

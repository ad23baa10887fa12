import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sightline as sl
from sightline.core.captioning.dual import CaptionConfig
from sightline.errors import InputError, ModelError, StoreError

pytestmark = pytest.mark.usefixtures("kept_bank")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, colour in [("red", (220, 20, 20)), ("green", (20, 200, 20)), ("blue", (20, 60, 220))]:
        noise = rng.integers(-15, 15, (90, 120, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def library(tmp_path, photos):
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        library.index(photos)
        yield library


@pytest.fixture
def second_model(tmp_path):
    """The name of another CLIP: a folder as transformers saves it, with random weights."""
    pytest.importorskip("torch")
    import model_folders

    return f"dir:{model_folders.write_clip(tmp_path / 'clip', as_json=True)}"


def test_a_new_library_without_network_takes_the_starter_and_keeps_it(tmp_path, photos):
    with sl.Library.open(tmp_path / "library") as library:
        notice = library.choose_model()
        assert library.model == "starter"
        assert "sightline models pull ViT-B-32/openai" in notice
        library.index(photos)
    with sl.Library.open(tmp_path / "library") as library:
        assert library.choose_model() is None
        assert library.model == "starter"


def test_search_before_anything_is_indexed_finds_nothing(tmp_path):
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        assert library.search("anything") == []
        with pytest.raises(InputError, match="No folder was given"):
            library.index()


def test_a_second_model_lies_beside_the_first_and_each_is_searched(tmp_path, photos, library, second_model):
    with sl.Library.open(tmp_path / "library", model=second_model) as other:
        with pytest.raises(ModelError, match="no vectors of"):
            other.search("red")
        report = other.index()
        assert (report.embedded, report.unchanged) == (3, 3)
        assert other.info()["models"] == {"starter": 3, second_model: 3}
        assert len(other.search("red")) == 3
    with sl.Library.open(tmp_path / "library") as reopened:
        assert reopened.model == "starter"
        with pytest.raises(ModelError, match="is the library's default"):
            reopened.remove_model("starter")
        reopened.use_model(second_model)
        assert reopened.remove_model("starter") == 3
        assert reopened.info()["models"] == {second_model: 3}
        assert len(reopened.search("red")) == 3


def test_captions_are_kept_even_where_the_caller_stops_early(library):
    results = library.caption()
    first = next(results)
    results.close()
    kept = library.store.captions([library.store.find_path(first.path).id])
    assert first.best.text in [caption.text for (captions,) in [kept.values()] for caption in captions]
    assert library.info()["captions"] >= 1


def test_captions_say_which_is_best_and_where_they_come_from(library, photos):
    result = next(library.caption([photos / "red.png"]))
    assert {caption.source for caption in result.clip} == {"clip"}
    assert {caption.source for caption in result.generated} == {"generated"}
    assert [caption.text for caption in (*result.clip, *result.generated) if caption.best] == [result.best.text]
    for caption in (*result.clip, *result.generated):
        assert -1 <= caption.similarity <= 1
        assert caption.log_prob < 0
    hit = library.search("red", top=3)
    assert next(h.caption for h in hit if h.image.path.stem == "red") == result.best.text


def test_own_candidates_are_the_captions_and_replace_none(library, photos):
    config = CaptionConfig(candidates=("a red wall", "a green wall", "a blue wall"))
    (first,) = library.caption([photos / "red.png"])
    results = {result.path.stem: result for result in library.caption(config=config)}
    assert {name: (result.best, result.generated) for name, result in results.items()} == {
        name: (result.clip[0], ()) for name, result in results.items()
    }
    assert {result.best.text for result in results.values()} <= set(config.candidates)  # type: ignore[arg-type]
    kept = {hit.image.path.stem: hit.caption for hit in library.search("wall")}
    assert kept == {name: (first if name == "red" else result).best.text for name, result in results.items()}
    named = next(library.caption([photos / "red.png"], config=config, captioner="starter-captioner"))
    assert {caption.model for caption in named.generated} == {"starter-captioner"}
    (alone,) = sl.caption([photos / "red.png"], model="starter", config=config)
    assert (alone.best, alone.generated) == (alone.clip[0], ())


def test_captions_without_a_library(photos):
    texts = [result.best.text for result in sl.caption([photos], model="starter", captioner="none")]
    assert len(texts) == 3
    assert all(texts)
    (missing,) = sl.caption([photos / "gone.png"], model="starter", captioner="none")
    assert isinstance(missing, sl.CaptionFailure)
    assert missing.reason == "no such file"


def test_a_moved_library_and_its_photos_are_found_again_without_embedding(tmp_path, photos, library):
    library.close()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "photos").rename(moved / "photos")
    (tmp_path / "library").rename(moved / "library")
    with sl.Library.open(moved / "library") as again:
        report = again.index(moved / "photos")
        assert (report.embedded, report.added) == (0, 0)
        assert again.info()["images"] == 3
        assert all(hit.image.path.exists() for hit in again.search("red"))


def test_a_folder_without_a_library_is_an_error_unless_one_may_be_made(tmp_path):
    assert not sl.Library.exists(tmp_path / "none")
    with pytest.raises(StoreError, match="sightline index"):
        sl.Library.open(tmp_path / "none", create=False)
    sl.Library.open(tmp_path / "none").close()
    assert sl.Library.exists(tmp_path / "none")


@pytest.fixture
def starter_copy(tmp_path, monkeypatch):
    """A model folder of one's own, `own` in the working directory, that a test may change."""
    folder = shutil.copytree(Path(sl.__file__).parent / "core" / "models" / "starter" / "clip", tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    return folder


def change_card(folder, change):
    card = json.loads((folder / "sightline.json").read_text())
    change(card)
    (folder / "sightline.json").write_text(json.dumps(card))


def test_a_relative_model_folder_is_one_model_from_everywhere(tmp_path, photos, starter_copy, monkeypatch):
    with sl.Library.open(tmp_path / "library", model="dir:own") as library:
        library.index(photos)
        assert library.model == f"dir:{starter_copy}"
        library.use_model("dir:own")
    monkeypatch.chdir("/")
    with sl.Library.open(tmp_path / "library") as library:
        assert len(library.search("red")) == 3
        assert library.index().unchanged == 3
        assert library.remove_model(f"dir:{starter_copy}") == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.update(weights_hash="other"),
        lambda card: card["image"].update(resize="crop"),
        lambda card: card["image"].update(mean=[0.5, 0.5, 0.5]),
    ],
)
def test_vectors_of_other_weights_or_pixels_are_not_searched(tmp_path, photos, starter_copy, change):
    with sl.Library.open(tmp_path / "library", model="dir:own") as library:
        library.index(photos)
    change_card(starter_copy, change)
    with sl.Library.open(tmp_path / "library") as library:
        for use in (lambda: library.search("red"), lambda: library.similar(photos / "red.png"), library.index):
            with pytest.raises(StoreError, match=r"identity|other|weights"):
                use()


def test_dropping_the_last_model_leaves_no_dead_default(tmp_path, photos, library, starter_copy):
    library.remove_model("starter")
    with sl.Library.open(tmp_path / "library", model="dir:own") as other:
        other.index(photos)
    with sl.Library.open(tmp_path / "library") as reopened:
        assert reopened.model == f"dir:{starter_copy}"
        assert len(reopened.search("red")) == 3


def test_a_first_index_that_failed_settles_nothing(tmp_path):
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        with pytest.raises(InputError):
            library.index(tmp_path / "gone")
        assert library.info()["models"] == {}
        assert library.info()["model"] is None


def test_what_a_caller_has_seen_is_kept_however_it_ends(library):
    results = library.caption(captioner="none")
    first = next(results)
    with sl.Library.open(library.path) as other:  # before the generator goes on, or is ever closed
        row = other.store.find_path(first.path)
        assert first.best.text in [caption.text for caption in other.store.captions([row.id])[row.id]]


def test_copies_with_the_same_bytes_are_exact_and_take_one_place_in_a_search(library, photos):
    shutil.copy(photos / "red.png", photos / "copy.png")
    library.index()
    assert [(group.kind, len(group.images)) for group in library.duplicates(min_similarity=0.9999)] == [("exact", 2)]
    assert [hit.copies for hit in library.search("red", top=9)].count(1) == 1
    assert len(library.search("red", top=9, each_copy=True)) == len(library.search("red", top=9)) + 1


def test_what_is_removed_may_be_named_by_file_by_folder_and_through_a_link(tmp_path, photos, library):
    (tmp_path / "link").symlink_to(photos)
    assert library.remove(paths=[tmp_path / "link" / "red.png"]) == 1
    with pytest.raises(InputError, match="Nothing in this library"):
        library.remove(paths=[photos / "red.png"])
    assert library.remove(paths=[tmp_path / "link"]) == 2

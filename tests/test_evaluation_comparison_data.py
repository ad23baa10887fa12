import pytest

from captioning_fakes import paint
from conftest import SHARED_DATA
from sightline.errors import InputError
from sightline.evaluation.comparison_data import (
    DEFAULT_QUERIES,
    gather_pictures,
    is_own_pictures,
    load_benchmark,
    read_queries,
    take_pictures,
)


@pytest.fixture
def album(tmp_path):
    for year, colour in (("2023", "red"), ("2024", "blue"), ("2024/trip", "green")):
        paint(tmp_path / "album" / year / f"{colour}.png", colour)
    return tmp_path / "album"


def captioned(folder):
    paint(folder / "a.png", "red")
    (folder / "a.txt").write_text("something red\n")
    return folder


def test_a_folder_of_albums_is_pictures_and_no_data_set_with_classes(album):
    assert is_own_pictures(str(album))
    data = gather_pictures(str(album))
    assert [pair.id for pair in data.dataset] == ["2023/red.png", "2024/blue.png", "2024/trip/green.png"]
    assert data.dataset.name == f"pictures:{album}"
    assert (data.captioned, data.labelled, data.swapped, data.split) == (False, False, False, None)
    assert data.queries == DEFAULT_QUERIES
    assert data.dataset[0].image.read().shape == (32, 32, 3)


def test_a_folder_with_captions_is_a_data_set_unless_it_is_said_to_be_pictures(tmp_path):
    folder = captioned(tmp_path)
    assert not is_own_pictures(str(folder))
    assert is_own_pictures(f"pictures:{folder}")
    assert [pair.captions for pair in gather_pictures(f"pictures:{folder}").dataset] == [()]
    data = load_benchmark(str(folder), split="train")
    assert data.captioned
    assert data.queries == ("something red",)
    assert data.split == "train"


def test_other_addresses_are_no_pictures(tmp_path):
    assert not is_own_pictures("scenes")
    assert not is_own_pictures("coco:/nowhere")
    assert not is_own_pictures(str(tmp_path / "none"))


def test_the_limit_chooses_by_the_seed(album):
    assert len(gather_pictures(str(album), limit=2).dataset) == 2
    chosen = {tuple(pair.id for pair in gather_pictures(str(album), limit=1, seed=seed).dataset) for seed in range(9)}
    assert len(chosen) > 1


def test_what_cannot_be_followed_is_reported(album):
    (album / "away.png").symlink_to(album / "nowhere.png")
    (problem,) = gather_pictures(str(album)).problems
    assert problem.reason == "dangling symlink"


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no pictures"):
        gather_pictures(f"pictures:{tmp_path}")
    with pytest.raises(InputError, match="index some first"):
        take_pictures("library:x", [])


def test_pictures_of_a_library_are_named_by_their_path(album):
    data = take_pictures("library:x", sorted(album.rglob("*.png")), queries=("a", "b", "a"), limit=2)
    assert data.dataset.name == "library:x"
    assert len(data.dataset) == 2
    assert data.queries == ("a", "b")


def test_classes_are_asked_for_by_name(album):
    paint(album / "2023" / "trip" / "x.png", "red")
    data = load_benchmark(f"classes:{album}", split="train")
    assert data.labelled
    assert not data.captioned
    assert data.queries == ("a photo of a 2023", "a photo of a 2024")


@pytest.mark.shared
def test_class_names_of_tiny_imagenet_are_queries_and_its_captions_are_none():
    pytest.importorskip("pyarrow")
    data = load_benchmark(f"tiny-imagenet:{SHARED_DATA / 'tiny-imagenet'}", split="val", limit=3)
    assert (data.labelled, data.captioned, len(data.queries)) == (True, False, 200)


def test_class_names_come_from_a_file(album, tmp_path):
    (tmp_path / "names.txt").write_text("old\nnew\n")
    data = load_benchmark(f"classes:{album}", split="train", classes=tmp_path / "names.txt")
    assert data.queries == ("a photo of a old", "a photo of a new")


def test_scenes_have_captions_and_hard_negatives():
    data = load_benchmark("scenes:3", split="val", limit=5)
    assert data.captioned
    assert data.swapped
    assert not data.labelled
    assert len(data.dataset) == 5
    assert 1 <= len(data.queries) <= 5


def test_queries_of_a_file(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_text("# mine\n a red car \n\nsnow\nsnow\n")
    assert read_queries(path) == ("a red car", "snow")
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="has no query"):
        read_queries(path)
    with pytest.raises(InputError, match="doesn't exist"):
        read_queries(tmp_path / "none.txt")

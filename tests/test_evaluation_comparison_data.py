import pytest

from captioning_fakes import paint
from conftest import SHARED_DATA
from sightline.core.models.cards import find_card
from sightline.errors import InputError
from sightline.lab.evaluation.comparison_data import (
    DEFAULT_QUERIES,
    gather_images,
    is_own_images,
    load_benchmark,
    load_published,
    pull_commands,
    read_queries,
    take_images,
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


def test_a_folder_of_albums_is_images_and_no_data_set_with_classes(album):
    assert is_own_images(str(album))
    data = gather_images(str(album))
    assert [pair.id for pair in data.dataset] == ["2023/red.png", "2024/blue.png", "2024/trip/green.png"]
    assert data.dataset.name == f"pictures:{album}"
    assert (data.captioned, data.labelled, data.split) == (False, False, None)
    assert data.queries == DEFAULT_QUERIES
    assert data.dataset[0].image.read().shape == (32, 32, 3)


def test_a_folder_with_captions_is_a_data_set_unless_it_is_said_to_be_images(tmp_path):
    folder = captioned(tmp_path)
    assert not is_own_images(str(folder))
    assert is_own_images(f"pictures:{folder}")
    assert [pair.captions for pair in gather_images(f"pictures:{folder}").dataset] == [()]
    data = load_benchmark(str(folder), split="train")
    assert data.captioned
    assert data.queries == ("something red",)
    assert data.split == "train"


def test_other_addresses_are_no_images(tmp_path):
    assert not is_own_images("scenes")
    assert not is_own_images("coco:/nowhere")
    assert not is_own_images(str(tmp_path / "none"))


def test_the_limit_chooses_by_the_seed(album):
    assert len(gather_images(str(album), limit=2).dataset) == 2
    chosen = {tuple(pair.id for pair in gather_images(str(album), limit=1, seed=seed).dataset) for seed in range(9)}
    assert len(chosen) > 1


def test_what_cannot_be_followed_is_reported(album):
    (album / "away.png").symlink_to(album / "nowhere.png")
    (problem,) = gather_images(str(album)).problems
    assert problem.reason == "dangling symlink"


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no pictures"):
        gather_images(f"pictures:{tmp_path}")
    with pytest.raises(InputError, match="index some first"):
        take_images("library:x", [])


def test_images_of_a_library_are_named_by_their_path(album):
    data = take_images("library:x", sorted(album.rglob("*.png")), limit=2)
    assert data.dataset.name == "library:x"
    assert len(data.dataset) == 2
    assert data.queries == DEFAULT_QUERIES


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


def test_every_figure_has_a_model_that_we_know_and_a_source():
    tables = load_published()
    assert {table.key for table in tables} == {"imagenet", "flickr8k", "flickr30k", "coco"}
    for table in tables:
        assert table.source.startswith("github.com/")
        assert "commit" in table.source
        for model, figures in table.metrics.items():
            assert find_card(model).kind == "encoder"
            assert all(0 < figure < 1 for figure in figures.values())


def test_recall_grows_with_k():
    for table in load_published():
        for figures in table.metrics.values():
            for name in ("image_retrieval_recall@", "text_retrieval_recall@"):
                recalls = [figures[key] for k in (1, 5, 10) if (key := f"{name}{k}") in figures]
                assert recalls == sorted(recalls)


@pytest.mark.parametrize("model", ["ViT-B-32/openai", "ViT-B-16/openai", "ViT-L-14/openai"])
def test_they_agree_with_the_cards(model):
    published = next(table for table in load_published() if table.key == "imagenet").metrics[model]["acc1"]
    assert find_card(model).figures["imagenet_zeroshot_acc1"] == pytest.approx(published, abs=0.002)


def test_commands_repeat_them():
    tables = load_published()
    assert pull_commands(tables)[0] == "sightline models pull ViT-B-32/openai"
    assert len(pull_commands(tables)) == 4
    table = next(table for table in tables if table.key == "flickr30k")
    assert table.command("coco:x").startswith("sightline compare --models ViT-B-32/openai,ViT-B-16/openai,")
    assert table.command().endswith("--split test --data flickr30k:PATH")
    assert table.command("flickr30k:my photos").endswith("--data 'flickr30k:my photos'")


def test_headlines_are_the_strictest_of_each_kind():
    headlines = {table.key: table.headlines for table in load_published()}
    assert headlines["imagenet"] == ["acc1"]
    assert headlines["coco"] == ["image_retrieval_recall@1", "text_retrieval_recall@1"]

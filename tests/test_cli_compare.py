import json

import pytest
from click.testing import CliRunner

from captioning_fakes import FakeEncoder, paint
from comparison_fakes import install
from conftest import SHARED_DATA
from page_checks import read_page
from sightline.errors import InputError
from sightline.faces.cli.main import sightline


@pytest.fixture
def run():
    def call(*words):
        result = CliRunner().invoke(sightline, ["compare", *(str(word) for word in words)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Every model is a fake one in this process."""
    import sightline.lab.evaluation.comparison as comparison

    folder = tmp_path / "model"
    folder.mkdir()
    start = install(monkeypatch, folder)
    real = comparison.compare_models
    monkeypatch.setattr(comparison, "compare_models", lambda *a, **options: real(*a, **{**options, "start": start}))


@pytest.fixture
def album(tmp_path):
    for colour in ("red", "green", "blue", "white"):
        paint(tmp_path / "album" / colour / f"{colour}.png", colour)
    return tmp_path / "album"


def test_own_images_are_compared_without_captions(run, fakes, album):
    result = run("--models", "fast,slow", "--data", album, "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (values["data"], values["split"], values["n_images"]) == (f"pictures:{album}", None, 4)
    assert values["quality"] is None
    assert [model["model"] for model in values["models"]] == ["fast", "slow"]
    assert "metrics" not in values["models"][0]
    assert values["agreement"]["text_to_image"]["overlap"][0] == [1, 1]


def test_a_person_gets_tables(run, fakes, album):
    for colour in ("red", "green", "blue", "white"):
        (album / colour / f"{colour}.txt").write_text(f"{colour}\n")
    result = run("--models", "fast,slow,blind", "--random", "noise", "--data", f"folder:{album}", "--split", "all")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"folder:{album}, train: 4 images, 4 queries.")
    rows = [line.split() for line in lines]
    assert ["image_retrieval_recall@1", "100.0%", "100.0%", "25.0%"] in rows
    assert "dominated by fast" in result.stdout
    assert "noise (random weights)" in result.stdout
    assert "Published" not in result.stdout
    quality = result.stdout[result.stdout.index("Quality") : result.stdout.index("Speed")]
    assert "noise" not in quality


def test_queries_limit_seed_and_metric_are_taken(run, fakes, album, tmp_path):
    (tmp_path / "q.txt").write_text("red\nblue\n")
    own = run("--models", "fast", "--data", album, "--queries", tmp_path / "q.txt", "--limit", 2, "--json")
    assert (json.loads(own.stdout)["n_queries"], json.loads(own.stdout)["n_images"]) == (2, 2)
    words = ("--models", "fast", "--data", f"classes:{album}", "--split", "train", "--prompts", "names", "--json")
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\nwhite\n")
    labelled = json.loads(run(*words, "--classes", tmp_path / "names.txt", "--quality", "mean_per_class_recall").stdout)
    assert labelled["quality"] == "mean_per_class_recall"
    assert labelled["models"][0]["metrics"]["acc1"] == 1
    with pytest.raises(InputError, match="was not measured"):
        run(*words, "--quality", "recall@3")


def test_a_library_gives_its_images(run, fakes, album, tmp_path, monkeypatch):
    from sightline.core.library import Library

    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda *_, **__: FakeEncoder(name="starter"))
    with Library.open(tmp_path / "lib", model="starter") as library:
        library.index(album)
    values = json.loads(run("--models", "fast", "--library", tmp_path / "lib", "--json").stdout)
    assert values["data"].startswith("library:")
    assert values["n_images"] == 4
    refused = run("--models", "fast", "--library", tmp_path / "lib", "--data", album)
    assert refused.exit_code == 2
    assert "either --data or --library" in refused.stderr


def test_page_and_json_are_kept(run, fakes, album, tmp_path):
    words = ("--models", "fast,blind", "--data", album, "--json")
    result = run(*words, "--page", tmp_path / "c.html", "--output", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(result.stdout)
    images, _ = read_page((tmp_path / "c.html").read_text())
    assert len(images) == 8
    for option in ("--page", "--output"):
        refused = run(*words, option, tmp_path / "none" / "file")
        assert refused.exit_code == 2
        assert "doesn't exist" in refused.stderr


def test_a_file_that_cannot_be_written_does_not_cost_the_figures(run, fakes, album, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"No space left on device. The figures: .*images_per_s"):
        run("--models", "fast", "--data", album, "--output", tmp_path / "c.json")


def test_images_that_are_left_out_cost_the_exit_code(run, fakes, album):
    (album / "broken.jpg").write_bytes(b"no picture")
    result = run("--models", "fast", "--data", album, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["n_images"] == 4
    assert "left out broken.jpg:" in result.stderr
    for n in range(9):
        (album / f"broken{n}.jpg").write_bytes(b"no picture")
    told = run("--models", "fast", "--data", album).stderr
    assert "... and 5 more" in told
    assert "10 pictures could not be read" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "scenes"), "Name the models"),
        (("--models", " , ", "--data", "scenes"), "Name the models"),
        (("--models", "fast", "--data", ".", "--split", "val"), "no splits"),
    ],
)
def test_wrong_words_are_refused(run, fakes, album, monkeypatch, words, said):
    monkeypatch.chdir(album)
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.shared
def test_the_starter_in_a_process_of_its_own_finds_flickr_images(run, tmp_path):
    words = ("--models", "starter", "--data", f"flickr8k:{SHARED_DATA / 'flickr8k'}", "--limit", 60, "--rounds", 1)
    (model,) = json.loads(run(*words, "--json").stdout)["models"]
    assert model["metrics"]["image_retrieval_recall@10"] > 0.5  # chance is 0.17
    assert model["images_per_s"]["median"] > 0
    assert model["memory_bytes"] > 20e6

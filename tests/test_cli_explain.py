import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from explain_world import MappingEncoder, square_at
from sightline.errors import InputError
from sightline.faces.cli.main import sightline


@pytest.fixture
def run(monkeypatch):
    """`run(*words)` -> the finished run; every model is one that sees colours."""
    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda name, **_: MappingEncoder(name=name))
    monkeypatch.setattr(
        "sightline.lab.experiments.explain.load_explainable", lambda name, method: MappingEncoder(name=name)
    )

    def call(*words):
        result = CliRunner().invoke(sightline, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.fromarray(square_at(0, 0, size=8, colour=colour)).save(folder / name)
    return folder


def test_heatmap_prints_a_row_for_each_text(run, photos):
    result = run("heatmap", photos, "--text", "red", "--text", "blue", "--model", "m")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["text", "a.png", "b.png"]
    assert [line.split()[0] for line in lines[1:]] == ["red", "blue"]
    red = [float(value) for value in lines[1].split()[1:]]
    assert red[0] > red[1]
    assert result.exit_code == 0


def test_heatmap_as_json_with_probabilities_of_texts_in_a_file(run, photos, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("red\n\nblue\n", encoding="utf-8")
    options = ("--texts", texts, "--probability", "--json", "--model", "m", "--cluster")
    result = run("heatmap", photos / "a.png", photos / "b.png", *options)
    values = json.loads(result.stdout)
    assert values["kind"] == "probability"
    assert values["model"] == "m"
    assert sorted(values["texts"]) == ["blue", "red"]
    assert np.array(values["values"]).sum(axis=0) == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["heatmap.png", "heatmap.html", "HEATMAP.PNG"])
def test_heatmap_is_drawn_to_what_the_ending_says(run, photos, tmp_path, name):
    pytest.importorskip("matplotlib")
    result = run("heatmap", photos, "--text", "red", "--model", "m", "--output", tmp_path / name)
    start = (tmp_path / name).read_bytes()[:15]
    assert start.startswith(b"\x89PNG" if name.lower().endswith("png") else b"<!DOCTYPE html>")
    assert name in result.stderr


def test_heatmap_leaves_out_what_cannot_be_read_and_says_so(run, photos):
    (photos / "c.png").write_bytes(b"no picture")
    result = run("heatmap", photos, "--text", "red", "--model", "m")
    assert result.exit_code == 1
    assert "left out" in result.stderr
    assert "c.png" in result.stderr
    assert result.stdout.splitlines()[0].split() == ["text", "a.png", "b.png"]


def test_heatmap_refuses_what_cannot_be_done(run, photos, tmp_path):
    result = run("heatmap", photos, "--model", "m")
    assert (result.exit_code, "Give texts to compare with" in result.stderr) == (2, True)
    result = run("heatmap", photos, "--text", "a", "--output", tmp_path / "a.pdf")
    assert (result.exit_code, "must end in .png or .html" in result.stderr) == (2, True)
    result = run("heatmap", photos, "--text", "a", "--output", tmp_path / "no" / "a.png")
    assert (result.exit_code, "doesn't exist" in result.stderr) == (2, True)
    result = run("heatmap", photos, "--text", "a", "--text", " ", "--model", "m")
    assert (result.exit_code, "a text is empty" in result.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("heatmap", empty, "--text", "a", "--model", "m")
    assert (result.exit_code, "no images" in result.stderr) == (2, True)
    with pytest.raises(InputError, match="lines of UTF-8 text"):
        run("heatmap", photos, "--texts", tmp_path / "missing.txt", "--model", "m")


def test_explain_prints_where_and_how_strongly(run, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(square_at(12, 0)).save(photo)
    result = run("explain", photo, "red", "blue", "--model", "m")
    head, red, _ = result.stdout.splitlines()
    assert head.split() == ["words", "left", "top", "here", "elsewhere", "deviations", "similarity"]
    cells = red.split()
    assert cells[0] == "red"
    assert int(cells[1].rstrip("%")) < 25
    assert int(cells[2].rstrip("%")) > 75
    assert float(cells[3]) > float(cells[4])
    assert "method map" in result.stderr


def test_one_long_word_does_not_widen_the_tables(run, photos):
    for words in (("heatmap", photos, "--text", "a" * 300), ("explain", photos / "a.png", "a" * 300)):
        lines = run(*words, "--model", "m").stdout.splitlines()
        assert len(lines) == 2
        assert max(map(len, lines)) < 150
    assert json.loads(run("explain", photos / "a.png", "a" * 300, "--json").stdout)["words"] == "a" * 300


def test_explain_draws_and_prints_json(run, tmp_path):
    pytest.importorskip("matplotlib")
    photo, drawn = tmp_path / "photo.png", tmp_path / "explain.png"
    Image.fromarray(square_at(4, 8)).save(photo)
    result = run("explain", photo, "red", "white", "--model", "m", "--output", drawn, "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["words"], second["words"], first["model"]) == ("red", "white", "m")
    assert 0.5 <= first["place"][0] < 0.75
    assert 0.25 <= first["place"][1] < 0.5
    with Image.open(drawn) as image:
        assert image.width > 300


def test_explain_refuses_what_cannot_be_done(run, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises(InputError, match=r"broken\.jpg can't be read"):
        run("explain", broken, "red")
    with pytest.raises(InputError, match="can't be read"):
        run("explain", tmp_path / "missing.jpg", "red")
    assert "Missing argument 'WORDS" in run("explain", broken).stderr
    assert "must end in .png" in run("explain", broken, "red", "--output", tmp_path / "a.jpg").stderr
    assert "occlusion" in run("explain", broken, "red", "--method", "occlusion").stderr


def test_eval_pointing_prints_hits_beside_chance(run):
    result = run("eval", "pointing", "--model", "m", "--data", "scenes", "--limit", 5, "--resamples", 20, "--json")
    values = json.loads(result.stdout)
    assert values["n_images"] == 5
    assert {"pointing_hit", "pointing_chance", "pointing_energy", "pointing_on_another"} == set(values["metrics"])
    assert values["details"]["method"] == "map"
    table = run("eval", "pointing", "--model", "m", "--data", "scenes", "--limit", 5, "--resamples", 20)
    (line,) = [line for line in table.stdout.splitlines() if line.startswith("pointing_hit")]
    assert "%" in line


def test_without_a_model_the_default_is_used_and_named(run, photos):
    result = run("heatmap", photos, "--text", "red")
    assert "starter" in result.stderr

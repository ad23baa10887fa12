"""`--precision` of every command that runs models, with the starter, which comes in int8 only."""

import pytest
from click.testing import CliRunner

import sightline as sl
from sightline.faces.cli.main import sightline
from web_world import write_photos

SCENES = ("--data", "scenes:0", "--limit", "8")
COMMANDS = {
    "index": ("index", "{photos}"),
    "search": ("search", "sea"),
    "similar": ("similar", "{photos}/red.png"),
    "caption, ranked": ("caption", "--captioner", "none"),
    "caption, without a library": ("caption", "{photos}", "--library", "{photos}/none"),
    "eval retrieval": ("eval", "retrieval", "--model", "starter", *SCENES),
    "eval captions": ("eval", "captions", "--model", "starter-captioner", *SCENES),
    "compare": ("compare", "--models", "starter", *SCENES),
    "heatmap": ("heatmap", "{photos}/red.png", "--model", "starter", "--text", "red", "--output", "{photos}/h.png"),
    "explain": ("explain", "{photos}/red.png", "red", "--model", "starter"),
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "library"))
    photos = write_photos(tmp_path / "photos", ["red"])
    with sl.Library.open(tmp_path / "library", model="starter") as library:
        library.index(photos)
    return photos


def run(photos, *words):
    result = CliRunner().invoke(sightline, [word.format(photos=photos) for word in words])
    return result, str(result.exception or "") + result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_fp32_of_a_model_that_comes_in_int8_is_refused(photos, name):
    result, said = run(photos, *COMMANDS[name], "--precision", "fp32")
    assert result.exit_code == 1
    assert "The precision fp32 was asked for, but" in said
    assert "holds int8 graphs only. Use the precision auto or int8" in said


def test_fp32_of_the_captioner_is_refused_where_the_encoder_has_it(photos, monkeypatch):
    from captioning_fakes import FakeEncoder

    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda name: FakeEncoder())
    result, said = run(photos, "caption", "{photos}", "--library", "{photos}/none", "--precision", "fp32")
    assert result.exit_code == 1
    assert "captioner" in said
    assert "holds int8 graphs only" in said
    result, said = run(photos, "caption", "{photos}", "--library", "{photos}/none", "--precision", "fp32",
                       "--captioner", "none")  # fmt: skip
    assert result.exit_code == 0, said


def test_what_the_environment_asks_for_is_refused_as_the_option_is_and_auto_stays_quiet(photos, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp32")
    result, said = run(photos, "search", "sea")
    assert (result.exit_code, "holds int8 graphs only" in said) == (1, True)
    for precision in ("auto", "int8"):
        result, said = run(photos, "search", "sea", "--precision", precision)
        assert (result.exit_code, said) == (0, "")
    monkeypatch.setenv("SIGHTLINE_PRECISION", "auto")
    result, said = run(photos, "search", "sea")
    assert (result.exit_code, said) == (0, "")


def test_the_machine_is_checked_whatever_precision_the_environment_asks_for(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PRECISION", "fp32")
    shown = CliRunner().invoke(sightline, ["doctor"]).stdout.splitlines()
    assert [line.split()[0] for line in shown if line.split()[1].startswith("starter")] == ["ok", "ok"]

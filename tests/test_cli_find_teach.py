"""`sightline teach`, and marks on the command line."""

import json

import pytest
from click.testing import CliRunner

import sightline as sl
from sightline.faces.cli.main import sightline
from web_world import write_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teach")
    photos = write_photos(folder / "photos", ["red", "green", "blue"])
    with sl.Library.open(folder / "library", model="starter") as library:
        library.index(photos)
    return folder


def run(folder, *args):
    result = CliRunner().invoke(sightline, [*args, "--library", str(folder / "library")])
    return result.exit_code, result.stdout, result.stderr + str(result.exception or "")


def test_a_word_is_taught_listed_searched_for_and_forgotten(folder):
    green = str(folder / "photos/green.png")
    code, out, told = run(folder, "teach", "Blick", green, "--as", "wall")
    assert (code, out) == (0, "Blick, wall  1 example\n")
    assert "Three to ten examples tell it better apart" in told
    listed = json.loads(run(folder, "teach", "--list", "--json")[1])
    assert listed == {"name": "Blick", "kind": "wall", "examples": [green]}
    assert run(folder, "search", "blick", "-t", "1", "-f")[1] == green + "\n"
    assert "blue" in run(folder, "search", "blue", "-blick", "-t1", "-f")[1]
    assert run(folder, "teach", "--forget", "BLICK")[0] == 0
    assert "There is no word 'Blick'" in run(folder, "teach", "--forget", "Blick")[2]
    assert "No words yet" in run(folder, "teach", "--list")[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("teach",), "Give a NAME with images, or --list, or --forget NAME"),
        (("teach", "Rex", "--list"), "Give a NAME with images"),
        (("teach", "Rex"), "was given 0 examples"),
        (("teach", "--x", "a.jpg"), "No such option '--x'"),
        (("teach", "taken_at", "a.jpg"), "'taken_at' can't be a name: it is a field of filters"),
        (("teach", "Rex", "a.jpg"), "a.jpg can't be read"),
        (("search", "red", "--like", "gone.jpg"), "There is no picture"),
        (("search", "red", "--unlike", "gone.jpg"), "There is no picture"),
    ],
)
def test_what_cannot_be_taught_or_marked_is_refused(folder, args, message):
    code, _, told = run(folder, *args)
    assert code != 0
    assert message in told


def test_marks_rank_the_list_anew_with_words_or_alone(folder):
    red, green, blue = (str(folder / f"photos/{name}.png") for name in ("red", "green", "blue"))
    found = run(folder, "search", "a colour", "--like", blue, "--unlike", red, "-f")[1].split()
    assert found == [blue, green]
    assert run(folder, "search", "--like", green, "-f", "-t1")[1] == green + "\n"

"""What `sightline search` takes for words and what for options."""

import pytest
from click.testing import CliRunner

from sightline.core.search.engine import Hits
from sightline.faces.cli.main import sightline


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a search and gives the words and the options that the library is asked with, or what was said."""
    asked = {}

    def search(self, *words, **how):
        asked.update(words=words, **how)
        return Hits()

    monkeypatch.setattr("sightline.core.library.Library.search", search)
    library = str(tmp_path / "library")
    (tmp_path / "empty").mkdir()
    CliRunner().invoke(sightline, ["index", str(tmp_path / "empty"), "--library", library])

    def invoke(*args):
        asked.clear()
        result = CliRunner().invoke(sightline, ["search", "--library", library, *args])
        return asked if result.exit_code == 0 else result.stderr

    return invoke


WORDS = [("dog", "-snow"), ("-snow", "dog"), ("dog", "-fat"), ("dog", "-deep snow"), ("dog", "-5"), ("dog", "-tx")]


@pytest.mark.parametrize("words", [*WORDS, ("dog", "-", "snow"), ("dog", "-./a.jpg")])
def test_what_begins_with_a_minus_and_is_no_option_is_a_word(run, words):
    assert run(*words)["words"] == words
    assert run(*words, "-t", "3")["words"] == words


def test_hits_are_sorted_by_relevance_or_by_date(run):
    assert run("dog")["sort"] == "relevance"
    assert run("dog", "--sort", "date")["sort"] == "date"
    assert "is not one of 'relevance', 'date'" in run("dog", "--sort", "name")


def test_options_stand_anywhere_among_the_words(run):
    asked = run("-t5", "dog", "-s", "now", "-snow", "--match", "both", "cat", "-a", "-x")
    assert asked["words"] == ("dog", "-snow", "cat")
    assert (asked["top"], asked["match"], asked["subtract"], asked["add"]) == (5, "both", ("now",), ("-x",))
    assert run("dog", "--", "-t", "5")["words"] == ("dog", "-t", "5")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("dog", "-n", "5"), "There is no option -n. To look away from the letter, write: - n"),
        (("dog", "-top", "5"), "There is no option -top; did you mean --top?"),
        (("dog", "-match=both"), "did you mean --match=both?"),
        (("dog", "-t=5"), "-t takes its value after a space: -t 5"),
        (("dog", "-t", "x"), "'x' is not a valid integer"),
        (("dog", "--tpo", "5"), "No such option '--tpo'"),
        (("dog", "-t"), "'-t' requires an argument"),
    ],
)
def test_an_option_that_is_written_wrongly_is_refused(run, args, message):
    assert message in run(*args)

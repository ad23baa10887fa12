"""`endpoint:URL` wherever a model is named, and expanded searches, from the command line."""

import json

import pytest

import sightline as sl
from captioning_fakes import paint
from language_models import chat_answer
from moody_server import MoodyServer
from sightline.core.models.cards import find_card, resolve_name
from sightline.core.models.remote import RemoteEncoder
from sightline.errors import InputError, ModelError
from sightline.faces.cli.main import main
from sightline.faces.integrations.endpoint_export import export_endpoint
from sightline.faces.integrations.endpoint_local import run_endpoint


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "endpoint"
    export_endpoint("starter", folder, captioner="starter-captioner")
    with run_endpoint(folder) as address:
        yield address


@pytest.fixture
def photos(tmp_path):
    for colour in ("red", "green", "blue"):
        paint(tmp_path / "photos" / f"{colour}.png", colour)
    return tmp_path / "photos"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "library"))

    def call(*words):
        monkeypatch.setattr("sys.argv", ["sightline", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, [json.loads(line) for line in printed.out.splitlines()], printed.err

    return call


def test_a_library_is_indexed_there_and_searched_here(url, photos, tmp_path):
    with sl.Library.open(tmp_path / "library", model=f"endpoint:{url}") as library:
        assert isinstance(library.encoder, RemoteEncoder)
        assert library.index(photos).added == 3
        there = [hit.image.relative for hit in library.search("something red")]
        (first, *_) = library.caption([photos / "red.png"], captioner=f"endpoint:{url}")
        assert first.generated[0].model == "starter-captioner"
    with sl.Library.open(tmp_path / "library") as library:
        assert library.model == "starter"
        assert library.index().unchanged == 3
        assert [hit.image.relative for hit in library.search("something red")] == there


def test_the_command_line_takes_the_name(url, photos, run):
    assert run("index", photos, "--model", f"endpoint:{url}", "--json")[1][0]["embedded"] == 3
    code, hits, _ = run("search", "red", "--model", f"endpoint:{url}", "--json")
    assert (code, len(hits)) == (0, 3)
    assert run("info", "--json")[1][0]["models"] == {"starter": 3}
    code, _, error = run("search", "red", "--model", "endpoint:http://127.0.0.1:9")
    assert code == 1
    assert "no connection" in error
    assert "Traceback" not in error


def test_names_resolve_to_what_is_served(url):
    assert find_card(f"endpoint:{url}").name == "starter"
    assert resolve_name(f"endpoint:{url}", kind="encoder") == "starter"
    with pytest.raises(ModelError, match="needs captioners"):
        resolve_name(f"endpoint:{url}", kind="captioner")
    with pytest.raises(InputError, match="must begin with https"):
        find_card("endpoint:x")


def test_searches_are_expanded_and_say_so(photos, run, tmp_path):
    run("index", photos, "--model", "starter", "--json")
    plain = run("search", "something warm", "--json")[1]
    code, hits, error = run("search", "something warm", "--expansions", "standard", "--json")
    assert (code, len(hits)) == (0, 3)
    assert "'something warm' is searched together with: a photo of something warm; a picture" in error
    assert [hit["similarity"] for hit in hits] != [hit["similarity"] for hit in plain]
    with MoodyServer(lambda payload: chat_answer("red\nred things")) as server:
        code, hits, error = run("search", "warm", "--expand", "chat:x", "--chat-url", server.url, "--json")
        assert "'warm' is searched together with: red; red things" in error
        server.broken = "locked"
        code, fallen_back, error = run("search", "warm", "--expand", "chat:x", "--chat-url", server.url, "--json")
    assert code == 0
    assert "'warm' is searched as it is: The endpoint 127.0.0.1" in error
    assert fallen_back == run("search", "warm", "--json")[1]
    assert run("search", "a", "--expand", "chat:x", "--expansions", "standard")[0] == 2
    assert run("search", "a", "--expansions", tmp_path / "none")[0] == 2

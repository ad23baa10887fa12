"""`sightline write` on a library of painted pictures, with a chat endpoint on loopback.

Covers: sightline.faces.integrations.library_writing.
"""

import json

import pytest
from click.testing import CliRunner

import sightline as sl
from captioning_fakes import FakeEncoder, caption_of, paint
from language_models import chat_answer
from moody_server import MoodyServer
from sightline.errors import InputError
from sightline.faces.cli.caption import write

CAPTIONS = {
    "beach/a.png": ["a brown dog runs on the beach", "two dogs playing by the sea"],
    "beach/b.png": ["waves on the beach"],
    "party/c.png": ["a birthday cake on a table", "a cake with candles"],
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    encoder = FakeEncoder(name="starter")
    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda name: encoder)
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "library"))
    for relative, colour in zip(CAPTIONS, ("blue", "green", "red"), strict=True):
        paint(tmp_path / "photos" / relative, colour)
    paint(tmp_path / "photos" / "party" / "bare.png", "pink")
    with sl.Library.open(tmp_path / "library", model="starter") as opened:
        opened.index(tmp_path / "photos")
        for relative, texts in CAPTIONS.items():
            row = opened.store.find_path(tmp_path / "photos" / relative)
            captions = [
                caption_of(text, source=source) for text, source in zip(texts, ("generated", "clip"), strict=False)
            ]
            opened.store.put_captions({row.id: captions})
    return tmp_path / "photos"


@pytest.fixture
def server(monkeypatch):
    with MoodyServer(lambda payload: chat_answer("no use")) as running:
        monkeypatch.setenv("SIGHTLINE_CHAT_URL", running.url)
        yield running


def run(*words, fails=None):
    result = CliRunner().invoke(write, [str(word) for word in words])
    if fails is not None:
        assert isinstance(result.exception, fails), result.output
        return result
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def rows(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_captions_are_merged_and_what_changed_is_shown(library, server):
    server.answer = lambda payload: chat_answer(
        "Dogs run and play on the beach by the sea." if "dog" in payload["messages"][1]["content"] else "cake, candles"
    )
    merged = {row["path"]: row for row in rows(run("merge", "--writer", "chat:tiny", "--json"))}
    first = merged[str(library / "beach/a.png")]
    assert first["text"] == "Dogs run and play on the beach by the sea."
    assert first["plain"] in CAPTIONS["beach/a.png"]
    assert first["changed"] is True
    assert (len(merged), first["kept"]) == (3, False)
    result = run("merge", library / "beach/a.png", "--writer", "chat:tiny")
    assert "  * Dogs run and play on the beach by the sea." in result.stdout.splitlines()


def test_a_server_that_is_gone_leaves_the_plain_captions_with_a_notice(library, server):
    server.broken = "locked"
    result = run("merge", "--writer", "chat:tiny", "--json")
    assert all(row["text"] == row["plain"] and "refuses access" in row["problem"] for row in rows(result))
    assert "The plain result stands (3 of 3): " in result.stderr
    assert "refuses access" in result.stderr


def test_kept_texts_are_the_users_captions_and_never_replace_them(library, server, tmp_path):
    server.answer = lambda payload: chat_answer("Dogs on the beach.")
    image = library / "beach/a.png"
    assert rows(run("merge", image, "--writer", "chat:tiny", "--keep", "--json"))[0]["kept"] is True
    result = run("merge", image, "--writer", "chat:tiny", "--keep")
    assert "0 texts are kept" in result.stderr
    with sl.Library.open(tmp_path / "library") as opened:
        captions = opened.store.captions([opened.store.find_path(image).id])
    (texts,) = captions.values()
    assert (texts[0].text, texts[0].source, texts[0].best) == ("Dogs on the beach.", "user", True)
    assert {one.text for one in texts[1:]} == set(CAPTIONS["beach/a.png"])


def test_without_a_writer_nothing_is_asked(library, server):
    assert not any(row["changed"] for row in rows(run("merge", "--json", "--max-chars", 20)))
    names = {row["text"]: row for row in rows(run("name", "--json"))}
    assert any("beach" in name for name in names)
    assert len(run("candidates", "red", "bicycle", "--count", 5).stdout.splitlines()) == 5
    assert server.requests == []


def test_folders_and_clusters_get_names(library, server):
    server.answer = lambda payload: chat_answer(
        "Birthday cake" if "cake" in payload["messages"][1]["content"] else "On the beach"
    )
    named = {row["album"]: row for row in rows(run("name", "--writer", "chat:tiny", "--json"))}
    assert named[str(library / "beach")]["text"] == "On the beach"
    party = named[str(library / "party")]
    assert (party["text"], party["captioned"], len(party["images"])) == ("Birthday cake", 1, 2)
    clusters = rows(run("name", "--clusters", 4, "--json"))
    assert len(clusters) == 3
    table = run("name", "--writer", "chat:tiny").stdout
    assert table.splitlines()[0].split() == ["name", "without", "the", "model", "images", "album"]


def test_a_query_is_expanded_into_lines(server):
    server.answer = lambda payload: chat_answer("waves\n2. the open sea\nwaves")
    assert run("expand", "the", "sea", "--writer", "chat:tiny").stdout.splitlines() == ["waves", "the open sea"]
    server.broken = "html"
    server.broken = "locked"
    result = run("expand", "the", "sea", "--writer", "chat:tiny")
    assert result.stdout.splitlines() == ["the sea"]
    assert "refuses access" in result.stderr
    row = rows(run("expand", "sea", "--writer", "chat:tiny", "--json"))[0]
    assert (row["query"], row["descriptions"]) == ("sea", [])


def test_candidates_go_to_a_file(server, tmp_path):
    server.answer = lambda payload: chat_answer("a red bicycle in rain\na cat")
    path = tmp_path / "candidates.txt"
    result = run("candidates", "red bicycle", "--count", 5, "--writer", "chat:tiny", "-o", path)
    assert "5 captions are in" in result.stderr
    assert "1 of them by the text model" in result.stderr
    assert path.read_text().splitlines()[0] == "a red bicycle in rain"
    run("candidates", "dog", "-o", tmp_path / "none" / "x.txt", fails=InputError)


def test_captions_with_escape_sequences_are_shown_not_obeyed(library, tmp_path):
    with sl.Library.open(tmp_path / "library") as opened:
        row = opened.store.find_path(library / "beach/b.png")
        opened.store.put_captions({row.id: [caption_of("\x1b[31mred\nlines", source="user")]})
    output = run("merge", library / "beach/b.png").stdout
    assert "\x1b" not in output
    assert r"\x1b[31mred\nlines" in output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["merge", "/nowhere.png"], "is no picture of this library"),
        (["merge", "PHOTOS/party/bare.png"], "has no captions to merge"),
        (["merge", "--writer", "gpt"], "is no text model"),
        (["name", "--clusters", 9], "4 pictures make 1 to 4 clusters"),
    ],
)
def test_wrong_usage_is_named(library, words, error):
    result = run(*(str(word).replace("PHOTOS", str(library)) for word in words), fails=InputError)
    assert error in str(result.exception)


@pytest.mark.parametrize("words", [["expand", "sea"], ["candidates", "sea", "--chat-url", "http://x"], ["expand"]])
def test_options_that_do_not_go_together(words):
    assert CliRunner().invoke(write, words).exit_code == 2


def test_a_library_without_captions_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_LIBRARY", str(tmp_path / "empty"))
    sl.Library.open(tmp_path / "empty").close()
    assert "sightline caption" in run("merge").stderr
    assert "sightline caption" in str(run("name", fails=InputError).exception)

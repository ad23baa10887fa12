"""Texts that come with pictures, and the arguments that assistants give.

Covers: sightline.faces.integrations.tools_schemas.
"""

import base64
import threading
from typing import Any

import pytest

from sightline.faces.service.uploads import MAX_IMAGE_BYTES

pytest.importorskip("fastapi")

from sightline.errors import InputError, StoreError
from sightline.faces.integrations.tools import TOOLS, call_tool
from sightline.faces.integrations.tools_schemas import MAX_CAPTION_CHARS, MAX_NAME_CHARS, FoundImage
from sightline.faces.service.library import Libraries
from sightline.kit.text import neutralise
from web_world import image_bytes, index, open_for_tools, write_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    return index(folder / "library", write_photos(folder / "photos"))


@pytest.fixture(scope="module")
def library(folder):
    with open_for_tools(folder, captioner="none") as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog", "a dog"),
        ("Füße, 犬 and 🐕", "Füße, 犬 and 🐕"),
        ("a\nb\r\n\tc", "a\\nb\\r\\n\\tc"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("gpj.\u202egnp", "gpj.\\u202egnp"),
        ("\u2066a\u2069\u200b\ufeff", "\\u2066a\\u2069\\u200b\\ufeff"),
        ("line\u2028next\u2029", "line\\u2028next\\u2029"),
        ("tag\U000e0041\U000e0042", "tag\\U000e0041\\U000e0042"),
        ("smuggled\U000e0100\U000e01ef", "smuggled\\U000e0100\\U000e01ef"),
        ("not UTF-8: \udcff", "not UTF-8: \ufffd"),
        ('"quotes" stay: JSON quotes them', '"quotes" stay: JSON quotes them'),
    ],
)
def test_what_is_hidden_is_shown(text, shown):
    assert neutralise(text, max_chars=100) == shown
    assert neutralise(shown, max_chars=100) == shown


def test_long_texts_are_cut_also_where_escapes_make_them_longer():
    assert neutralise("a" * 10, max_chars=10) == "a" * 10
    assert neutralise("a" * 11, max_chars=10) == "a" * 9 + "…"
    assert len(neutralise("\u202e" * 10**6, max_chars=50)) == 50


def test_a_result_cannot_hold_an_unsafe_text():
    size: dict[str, Any] = {"width": 1, "height": 1}
    image = FoundImage(
        id=1, name="a\nb" * 999, path="/\x1b", **size, similarity=None, caption="\u202e" * 999, taken_at=""
    )
    assert image.name.isprintable()
    assert (len(image.name), len(image.caption)) == (MAX_NAME_CHARS, MAX_CAPTION_CHARS)
    assert image.path == "/\\x1b"


def test_null_stands_for_the_default_of_every_argument():
    request = TOOLS["search_images"]
    assert request.read(dict.fromkeys(request.request.model_fields)) == request.read({})


def test_base64_may_come_as_a_data_address_and_nothing_else_is_an_image():
    data = image_bytes()
    text = base64.b64encode(data).decode()
    read = TOOLS["similar_images"].read
    for given in (text, f"data:image/png;base64,{text}", data):
        assert read({"image": given}).image == data
    for given in ("~/a.png", "file:///a.png", "a b", "é"):
        with pytest.raises(InputError, match="paths and addresses are not read"):
            read({"image": given})
    with pytest.raises(InputError, match="at most 16,777,216 are taken"):
        read({"image": bytes(MAX_IMAGE_BYTES + 1)})


def test_many_problems_are_told_shortly_and_without_what_was_given():
    parts = [{"text": "secret" * 1000} for _ in range(9)]
    with pytest.raises(InputError) as told:
        TOOLS["search_images"].read({"parts": parts, "query": "secret" * 1000})
    assert "and 5 more" in str(told.value)
    assert "secret" not in str(told.value)
    assert len(str(told.value)) < 1000


def test_names_of_arguments_are_made_safe_too():
    with pytest.raises(InputError) as told:
        TOOLS["library_stats"].read({"ignore\u202e\n": 1})
    assert str(told.value).startswith("ignore\\u202e\\n: there is no such argument")


def test_an_unknown_tool_and_one_that_is_not_allowed_are_refused(library):
    for name in ("rm", "set_caption"):
        with pytest.raises(InputError, match=f"There is no tool '{name}'; there are: search_images"):
            call_tool(library, name, {"image_id": 1, "text": "a"})
    request = TOOLS["set_caption"].read({"image_id": 1, "text": "a"})
    with pytest.raises(InputError, match="open for reading only"):
        TOOLS["set_caption"].function(library, request)


def test_words_are_taught_used_in_searches_and_forgotten(tmp_path):
    made = index(tmp_path / "library", write_photos(tmp_path / "photos"))
    with open_for_tools(made, captioner="none", allow_write=True) as library:
        red, *_ = (hit["id"] for hit in call_tool(library, "search_images", {"query": "red"})["hits"])
        kept = call_tool(library, "teach_word", {"name": "Blick", "image_ids": [red, red], "kind": "wall"})
        assert kept == {"name": "Blick", "kind": "wall", "examples": 1, "images": [red]}
        assert call_tool(library, "search_images", {"query": "blick", "limit": 1})["hits"][0]["id"] == red
        parts = [{"image_id": red, "weight": -1, "mark": True}]
        hits = call_tool(library, "search_images", {"query": "blick", "parts": parts})["hits"]
        assert red not in {hit["id"] for hit in hits}
        with pytest.raises(InputError, match="only an image is marked"):
            call_tool(library, "search_images", {"parts": [{"text": "red", "mark": True}]})
        with pytest.raises(InputError, match="no image with the id 999"):
            call_tool(library, "teach_word", {"name": "Blick", "image_ids": [999]})
        assert call_tool(library, "forget_word", {"name": "BLICK"}) == {"words": []}
    with open_for_tools(made, captioner="none") as library:
        request = TOOLS["teach_word"].read({"name": "Rex", "image_ids": [1]})
        with pytest.raises(InputError, match="open for reading only"):
            TOOLS["teach_word"].function(library, request)


def test_copies_are_set_aside_and_moved_back(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (photos / "red 2.png").write_bytes((photos / "red.png").read_bytes())
    made = index(tmp_path / "library", photos)
    with open_for_tools(made, captioner="none", allow_write=True) as library:
        (group,) = call_tool(library, "find_duplicates", {})["groups"]
        asked = {"keep": [group["images"][0]["id"]], "files": group["movable"]}
        with pytest.raises(InputError, match="1 of 1 groups are still there, with 1 files to move, not 2"):
            call_tool(library, "set_copies_aside", {**asked, "files": 2})
        moves = call_tool(library, "set_copies_aside", asked)
        assert (moves["moved"], moves["left"]) == (1, [])
        assert (tmp_path / "library-set-aside" / "red 2.png").exists()
        assert call_tool(library, "find_duplicates", {})["total"] == 0
        assert call_tool(library, "undo_set_aside", {"log": moves["log"]})["moved"] == 1
        assert (photos / "red 2.png").exists()
        with pytest.raises(InputError, match="log: String should match pattern"):
            call_tool(library, "undo_set_aside", {"log": f"../photos/{moves['log']}"})


def test_the_store_itself_refuses_to_write(library):
    with pytest.raises(StoreError, match="opened for reading only"):
        library.store.put_captions({})


def test_a_cursor_of_duplicates_ends_with_a_change_of_the_library(tmp_path):
    photos = write_photos(tmp_path / "photos")
    for name in ("red", "green"):
        (photos / f"{name} 2.png").write_bytes((photos / f"{name}.png").read_bytes())
    made = index(tmp_path / "library", photos)
    with open_for_tools(made, captioner="none", allow_write=True) as library:
        first = call_tool(library, "find_duplicates", {"limit": 1})
        second = call_tool(library, "find_duplicates", {"limit": 1, "cursor": first["next_cursor"]})
        assert (first["total"], second["next_cursor"]) == (2, None)
        assert first["groups"] != second["groups"]
        call_tool(library, "set_caption", {"image_id": 1, "text": "mine"})
        with pytest.raises(InputError, match="has changed"):
            call_tool(library, "find_duplicates", {"limit": 1, "cursor": first["next_cursor"]})


@pytest.mark.usefixtures("kept_bank")
def test_too_many_captions_at_once_are_told_to_come_back(library):
    with library.shared.desk.take_turn():
        waiting = [
            threading.Thread(target=call_tool, args=(library, "caption_image", {"image_id": 1})) for _ in range(4)
        ]
        for thread in waiting:
            thread.start()
        while library.shared.desk._places._value:
            pass
        with pytest.raises(StoreError, match="try again"):
            call_tool(library, "caption_image", {"image_id": 1})
    for thread in waiting:
        thread.join()


def test_a_search_of_a_library_without_images_says_why(tmp_path):
    (tmp_path / "photos").mkdir()
    made = index(tmp_path / "library", write_photos(tmp_path / "photos", names=()))
    with open_for_tools(made, model="starter") as library:
        found = call_tool(library, "search_images", {"query": "a dog"})
    assert (found["hits"], found["note"]) == ([], "The library is empty: add a folder to it.")


def test_a_model_that_cannot_be_loaded_is_logged_at_the_start_and_told_by_the_search(folder, caplog):
    from sightline.errors import SightlineError

    with open_for_tools(folder, model="ViT-B-32/openai") as library:
        library.libraries.warm()
        library.libraries._warming.join()
        assert "The model can't be loaded" in caplog.text
        with pytest.raises(SightlineError):
            call_tool(library, "similar_images", {"image": image_bytes()})


def test_libraries_are_opened_once_for_all_tools_and_again_after_closing(folder):
    shared = Libraries()
    first = shared.open_folder(str(folder))
    assert shared.open_folder(str(folder)) is first
    assert shared.open_folder(str(folder), allow_write=True) is not first
    shared.close()
    again = shared.open_folder(str(folder))
    assert call_tool(again, "library_stats", {})["images"] == 3
    shared.close()

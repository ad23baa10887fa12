"""Near and exact copies: found, listed and resolved over HTTP.

Covers: sightline.core.search.duplicates.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("fastapi")

import numpy as np
from PIL import Image

from sightline.core.search import duplicates as search_duplicates
from sightline.errors import InputError, StoreError
from sightline.faces.service import duplicates as web_duplicates
from web_world import PATIENCE_S, index, open_app, wait_for, write_photos


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("duplicates")
    photos = write_photos(folder / "photos")
    (photos / "copies").mkdir()
    shutil.copy(photos / "red.png", photos / "copies" / "red again.png")
    Image.open(photos / "blue.png").save(photos / "blue.jpg", quality=95)
    return index(folder / "library", photos)


def test_exact_copies_lie_side_by_side_with_what_tells_them_apart(library):
    with open_app(library) as client:
        answer = client.get("/api/duplicates").json()
        (group,) = answer["groups"]
        assert answer["total"] == 1
        assert (group["kind"], group["similarity"]) == ("exact", 1)
        assert group["count"] == 2
        assert sorted(image["name"] for image in group["images"]) == ["red again.png", "red.png"]
        assert [difference.split(" ", 1)[0] for difference in group["differences"]] == ["name", "folder"]
        assert all(image["thumbnail"].startswith("/api/images/") for image in group["images"])


def test_near_copies_come_after_exact_ones(library):
    with open_app(library) as client:
        groups = client.get("/api/duplicates", params={"min_similarity": 0.87}).json()["groups"]
        assert [group["kind"] for group in groups] == ["exact", "near"]
        near = groups[1]
        assert {image["name"] for image in near["images"]} == {"blue.png", "blue.jpg"}
        assert 0.87 <= near["similarity"] <= 1
        assert "format" in {difference.split(" ", 1)[0] for difference in near["differences"]}
        assert any(difference.startswith("size ") and "kB / " in difference for difference in near["differences"])
        page = client.get("/api/duplicates", params={"min_similarity": 0.87, "limit": 1, "offset": 1}).json()
        assert (page["groups"], page["total"]) == ([near], 2)


@pytest.mark.parametrize(
    "query", ["min_similarity=0.5", "min_similarity=1.1", "min_similarity=nan", "limit=0", "offset=-1"]
)
def test_what_can_not_be_asked_is_refused(library, query):
    with open_app(library) as client:
        assert client.get(f"/api/duplicates?{query}").status_code == 422


def test_so_many_pairs_that_they_are_no_duplicates_are_refused(library, monkeypatch):
    monkeypatch.setattr(web_duplicates, "MAX_PAIRS", 1)
    with open_app(library) as client:
        for _ in range(2):  # a failure is not kept: it is looked for again
            refused = client.get("/api/duplicates", params={"min_similarity": 0.8})
            assert refused.status_code == 422
            assert "Ask for a higher similarity" in refused.json()["detail"]


def test_an_empty_library_has_none(tmp_path):
    with open_app(tmp_path / "library", model="starter") as client:
        for params in ({}, {"min_similarity": 0.9}):
            assert client.get("/api/duplicates", params=params).json() == {"groups": [], "total": 0}


@pytest.fixture
def held(monkeypatch):
    """Holds every search for near copies until it is set; `searches` counts them."""
    release = threading.Event()
    release.searches = 0  # type: ignore[attr-defined]
    find_near = search_duplicates.find_near

    def find_slowly(*arguments, on_block, **settings):
        release.searches += 1  # type: ignore[attr-defined]
        while not release.wait(0.02):
            on_block()
        return find_near(*arguments, on_block=on_block, **settings)

    monkeypatch.setattr(web_duplicates, "find_near", find_slowly)
    return release


def test_a_long_search_is_made_once_for_all_and_leaves_threads_to_others(library, held):
    with open_app(library) as client, ThreadPoolExecutor(60) as threads:
        asked = [
            threads.submit(client.get, "/api/duplicates", params={"min_similarity": 0.87})
            for _ in range(50)  # more than the server has threads
        ]
        wait_for(lambda: held.searches)
        assert client.get("/api/search", params={"q": "red"}).status_code == 200
        held.set()
        assert {len(one.result(PATIENCE_S).json()["groups"]) for one in asked} == {2}
        assert held.searches == 1
        client.get("/api/duplicates", params={"min_similarity": 0.87})
        assert held.searches == 1
        client.put("/api/images/1/captions", json={"text": "the library changes"})
        client.get("/api/duplicates", params={"min_similarity": 0.87})
        assert held.searches == 2


def test_too_many_different_searches_are_told_to_wait(library, held):
    with open_app(library) as client, ThreadPoolExecutor(10) as threads:
        asked = [
            threads.submit(client.get, "/api/duplicates", params={"min_similarity": 0.9 + number / 100})
            for number in range(8)
        ]
        wait_for(lambda: sum(one.done() for one in asked) == 3)
        assert [one.result().status_code for one in asked if one.done()] == [429] * 3
        held.set()
        assert sorted(one.result(PATIENCE_S).status_code for one in asked) == [200] * 5 + [429] * 3


def test_closing_gives_up_a_long_search(library, held):
    with open_app(library) as client:
        served = client.app.state.libraries.get()
        finder = served.shared.duplicates
        future = finder.find(served, 0.9)
        wait_for(lambda: held.searches)
        finder.close()
        with pytest.raises(StoreError, match="stopping"):
            future.result(PATIENCE_S)


class Vectors:
    """Only what finding near ones asks of a store."""

    def __init__(self, vectors_ND):
        self._vectors_ND = vectors_ND

    def vectors(self, model):
        return np.arange(len(self._vectors_ND)), self._vectors_ND


def test_a_search_can_be_ended_at_each_block_and_by_too_many_pairs():
    store: Any = Vectors(np.ones((200, 2), np.float32))
    blocks = []

    def end_at_the_second():
        blocks.append(None)
        if len(blocks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(InputError, match="More than 10 pairs"):
        search_duplicates.find_near(store, "m", min_similarity=0.9, max_pairs=10)
    store = Vectors(np.random.default_rng(0).normal(size=(5000, 64)).astype(np.float32))
    with pytest.raises(KeyboardInterrupt):
        search_duplicates.find_near(store, "m", min_similarity=0.9999, on_block=end_at_the_second)
    assert len(blocks) == 2

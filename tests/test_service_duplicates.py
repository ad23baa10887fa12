"""Copies and what is alike: found, listed and resolved over HTTP."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi")

from PIL import Image

from sightline.core.search import duplicates as search_duplicates
from sightline.errors import StoreError
from sightline.faces.service import duplicates as web_duplicates
from web_world import PATIENCE_S, index, open_app, wait_for, write_many, write_photos


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


def test_what_is_too_plain_to_be_a_copy_is_alike_where_a_model_finds_it_near(library):
    with open_app(library) as client:
        groups = client.get("/api/duplicates", params={"min_similarity": 0.87}).json()["groups"]
        assert [group["kind"] for group in groups] == ["exact", "alike"]
        assert {image["name"] for image in groups[1]["images"]} == {"blue.png", "blue.jpg"}
        assert 0.87 <= groups[1]["similarity"] <= 1
        assert [group["kind"] for group in client.get("/api/duplicates").json()["groups"]] == ["exact"]


def test_kinds_follow_each_other_and_can_be_asked_for(tmp_path):
    photos = write_many(tmp_path / "photos", 3)
    first = Image.open(photos / "0000.png")
    first.resize((40, 40)).save(photos / "small.jpg")
    shutil.copy(photos / "0001.png", photos / "again.png")
    (photos / "link.png").symlink_to("0001.png")
    with open_app(index(tmp_path / "library", photos)) as client:
        exact, copy = client.get("/api/duplicates").json()["groups"]
        assert (exact["kind"], copy["kind"]) == ("exact", "copy")
        assert [(image["name"], image["keep"], image["link"]) for image in copy["images"]] == [
            ("0000.png", True, False),
            ("small.jpg", False, False),
        ]
        assert (copy["reason"], copy["count"]) == ("most pixels", 2)
        assert [image["name"] for image in exact["images"] if image["link"]] == ["link.png"]
        assert "format" in {difference.split(" ", 1)[0] for difference in copy["differences"]}
        assert any(difference.startswith("size ") and "kB / " in difference for difference in copy["differences"])
        for kind, groups in {"exact": [exact], "copy": [copy], "alike": []}.items():
            assert client.get("/api/duplicates", params={"kind": kind}).json()["groups"] == groups
        page = client.get("/api/duplicates", params={"limit": 1, "offset": 1}).json()
        assert page == {"groups": [copy], "total": 2, "not_compared": 0}
        found = client.get("/api/search", params={"q": "red"}).json()
        assert (found["total"], sorted(hit["copies"] for hit in found["hits"])) == (4, [0, 0, 0, 2])
        every = client.get("/api/search", params={"q": "red", "each_copy": True}).json()
        assert (every["total"], {hit["copies"] for hit in every["hits"]}) == (6, {0})
        assert client.get("/api/search", params={"q": "red", "where": "name = 'again.png'"}).json()["total"] == 1


@pytest.mark.parametrize(
    "query", ["min_similarity=0.5", "min_similarity=1.1", "min_similarity=nan", "limit=0", "offset=-1", "kind=near"]
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
            assert client.get("/api/duplicates", params=params).json()["groups"] == []


@pytest.fixture
def held(monkeypatch):
    """Holds every search for copies until it is set; `searches` counts them."""
    release = threading.Event()
    release.searches = 0  # type: ignore[attr-defined]
    find_duplicates = search_duplicates.find_duplicates

    def find_slowly(*arguments, on_progress, **settings):
        release.searches += 1  # type: ignore[attr-defined]
        while not release.wait(0.02):
            on_progress(0, 1, "waiting")
        return find_duplicates(*arguments, on_progress=on_progress, **settings)

    monkeypatch.setattr(web_duplicates, "find_duplicates", find_slowly)
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
        future = finder.find(served, web_duplicates.Wanted())
        wait_for(lambda: held.searches)
        finder.close()
        with pytest.raises(StoreError, match="stopping"):
            future.result(PATIENCE_S)

"""Copies and what is alike: found, listed and resolved over HTTP."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi")

from PIL import Image

import sightline as sl
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


@pytest.fixture
def copies(tmp_path):
    """A library of three different pictures; of two there are two copies each."""
    photos = write_many(tmp_path / "pictures" / "photos", 3)
    for name in ("0000", "0001"):
        shutil.copy(photos / f"{name}.png", photos / f"{name} again.png")
        shutil.copy(photos / f"{name}.png", photos / f"{name} once more.png")
    return index(tmp_path / "library", photos)


def files(folder):
    return sorted(path.name for path in folder.rglob("*.png"))


def move(client, groups, **request):
    asked = {"keep": [group["images"][0]["id"] for group in groups], "files": sum(g["movable"] for g in groups)}
    return client.post("/api/duplicates/set-aside", json={"kind": "exact", **asked, **request})


def test_copies_are_moved_beside_the_library_and_back(copies, tmp_path):
    photos, before = tmp_path / "pictures" / "photos", files(tmp_path)
    with open_app(copies) as client:
        first, second = client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"]
        moves = move(client, [first]).json()
        assert (moves["moved"], moves["left"], first["movable"]) == (2, [], 2)
        assert moves["folder"] == client.get("/api/folders").json()["set_aside"] == str(tmp_path / "library-set-aside")
        assert files(tmp_path / "library-set-aside") == [image["name"] for image in first["images"][1:]]
        assert client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"] == [second]
        assert client.get("/api/search", params={"q": "red", "each_copy": True}).json()["total"] == 5
        back = client.post("/api/duplicates/undo", json={"log": moves["log"]}).json()
        assert (back["moved"], files(photos), files(tmp_path)) == (2, before, before)
        assert len(client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"]) == 2


def test_other_groups_than_those_that_were_seen_are_not_moved(copies, tmp_path):
    with open_app(copies) as client:
        first, second = client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"]
        stranger = first["images"][1]["id"]
        for wrong in ({"files": 3}, {"keep": [stranger]}, {"keep": [first["images"][0]["id"], stranger]}):
            refused = move(client, [first], **wrong)
            assert (refused.status_code, refused.json()["type"]) == (409, "/problems/changed")
        (tmp_path / "pictures" / "photos" / "0001 again.png").write_bytes(b"changed")
        moves = move(client, [first, second]).json()
        assert (moves["moved"], moves["left"][0]["reason"]) == (3, "it isn't there, or has changed: index again")


def test_copies_go_nowhere_but_where_the_server_may_write(copies, tmp_path):
    pictures = tmp_path / "pictures"
    with open_app(copies, allow_roots=(pictures,)) as client:
        groups = client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"]
        for folder, status, told in (
            (str(tmp_path), 403, "can't be moved to or from"),
            (str(pictures / ".." / "aside"), 403, "can't be moved to or from"),
            (str(pictures / "photos" / "aside"), 422, "lies in a folder of the library"),
            (str(pictures), 422, "holds the library's own images"),
            ("aside", 422, "no full path"),
        ):
            refused = move(client, groups, folder=folder)
            assert (refused.status_code, told in refused.json()["detail"]) == (status, True), folder
        assert move(client, groups, folder=str(pictures / "aside")).json()["moved"] == 4
        for log in ("../library/jobs.json", "/etc/set-aside-1.jsonl", "set-aside-nothing.jsonl"):
            assert client.post("/api/duplicates/undo", json={"log": log}).status_code == 422
        elsewhere = {"log": "set-aside-1.jsonl", "folder": "/etc"}
        assert client.post("/api/duplicates/undo", json=elsewhere).status_code == 403


def test_a_library_that_is_only_read_moves_nothing(copies, tmp_path):
    before = files(tmp_path)
    with open_app(copies, read_only=True) as client:
        groups = client.get("/api/duplicates", params={"kind": "exact"}).json()["groups"]
        assert move(client, groups).status_code == 503
    with sl.Library.open(copies, read_only=True) as library, pytest.raises(StoreError, match="reading only"):
        library.undo_set_aside(tmp_path / "set-aside-1.jsonl")
    assert files(tmp_path) == before

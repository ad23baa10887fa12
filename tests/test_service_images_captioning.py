import threading

import pytest

pytest.importorskip("fastapi")

from sightline.faces.service.models import MAX_WAITING
from web_world import PATIENCE_S, image_bytes, index, open_app, wait_for, write_photos

pytestmark = pytest.mark.usefixtures("kept_bank")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    return index(folder / "library", write_photos(folder / "photos", ["red", "blue"]))


@pytest.fixture
def client(library):
    with open_app(library) as client:
        yield client


def captions_of(client, id_):
    return client.get(f"/api/images/{id_}/captions").json()["captions"]


def test_any_image_is_captioned_both_ways_and_kept_nowhere(client):
    answer = client.post("/api/caption", files={"file": ("a.png", image_bytes())})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [c["source"] for c in found["clip"]] == ["clip"] * 5
    assert [c["source"] for c in found["generated"]] == ["generated"]
    for caption in (*found["clip"], *found["generated"]):
        assert -1 <= caption["similarity"] <= 1
        assert caption["log_prob"] < 0
    assert [c for c in (*found["clip"], *found["generated"]) if c["best"]] == [found["best"]]
    assert found["took_ms"] > 0
    assert client.get("/api/stats").json()["captions"] == 0


def test_own_candidates_are_ranked_instead_of_composed_ones(client):
    lines = "# mine\na red square\n\na blue dog\na red square\n"
    answer = client.post("/api/caption", files={"file": ("a.png", image_bytes())}, data={"candidates": lines}).json()
    assert {c["text"] for c in answer["clip"]} == {"a red square", "a blue dog"}
    assert [c["similarity"] for c in answer["clip"]] == sorted((c["similarity"] for c in answer["clip"]), reverse=True)


def test_the_best_is_an_own_candidate_unless_the_server_was_started_with_a_captioner(library):
    asked = {"files": {"file": ("a.png", image_bytes())}, "data": {"candidates": "a red square\na blue dog"}}
    with open_app(library, captioner=None) as client:
        composed = client.post("/api/caption", files=asked["files"]).json()
        assert [c["model"] for c in composed["generated"]] == ["starter-captioner"]
        answer = client.post("/api/caption", **asked).json()
        assert (answer["best"], answer["generated"]) == (answer["clip"][0], [])
    with open_app(library, captioner="starter-captioner") as client:
        answer = client.post("/api/caption", **asked).json()
        assert [c["model"] for c in answer["generated"]] == ["starter-captioner"]


def test_an_image_of_the_library_is_captioned_and_keeps_them(client):
    assert captions_of(client, 1) == []
    with_own = client.post("/api/caption", data={"id": "1", "candidates": "a red square"}).json()
    assert [c["text"] for c in with_own["clip"]] == ["a red square"]
    assert captions_of(client, 1) == []
    answer = client.post("/api/caption", data={"id": "1"}).json()
    kept = captions_of(client, 1)
    assert [c for c in kept if c["best"]] == [answer["best"]]
    assert {c["source"] for c in kept} == {"clip", "generated"}
    client.put("/api/images/1/captions", json={"text": "mine"})
    client.post("/api/caption", data={"id": "1"})
    before = captions_of(client, 1)
    assert [c["text"] for c in before if c["best"]] == ["mine"]
    client.post("/api/caption", data={"id": "1", "candidates": "a red square"})
    assert captions_of(client, 1) == before


def test_a_server_without_a_captioner_only_ranks(library):
    with open_app(library, captioner="none") as client:
        answer = client.post("/api/caption", files={"file": ("a.png", image_bytes())}).json()
        assert (len(answer["clip"]), answer["generated"], answer["best"]["log_prob"]) == (5, [], None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not an image"),
        (image_bytes()[:60], "can't be read"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "can't be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "can't be read"),
    ],
)
def test_uploads_that_are_no_images_are_refused_with_the_reason(client, data, says):
    refused = client.post("/api/caption", files={"file": ("a.png", data)})
    assert refused.status_code == 422
    assert says in refused.json()["detail"]


def test_an_upload_bomb_is_refused_before_it_is_decoded(client, monkeypatch):
    monkeypatch.setattr("sightline.faces.service.uploads.MAX_UPLOAD_PIXELS", 80 * 60 - 1)
    refused = client.post("/api/caption", files={"file": ("a.png", image_bytes())})
    assert (refused.status_code, "too large" in refused.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({}, 422, "either a picture"),
        ({"id": "0"}, 422, "greater than or equal to 1"),
        ({"id": "99"}, 404, "no image with the id 99"),
        ({"id": "1", "candidates": "\n#\n"}, 422, "holds no caption"),
        ({"id": "1", "candidates": "x" * 401}, 422, "Line 1 of the list of candidates has 401 characters"),
        ({"id": "1", "candidates": "\n".join(map(str, range(201)))}, 422, "at most 200"),
    ],
)
def test_requests_that_can_not_be_met_say_why(client, form, status, says):
    refused = client.post("/api/caption", data=form)
    assert refused.status_code == status
    assert says in refused.json()["detail"]


def test_a_file_and_an_id_are_one_too_many(client):
    assert client.post("/api/caption", data={"id": "1"}, files={"file": ("a.png", image_bytes())}).status_code == 422


def test_an_image_whose_file_is_gone_says_so(tmp_path):
    photos = write_photos(tmp_path / "photos", ["red"])
    library = index(tmp_path / "library", photos)
    (photos / "red.png").unlink()
    with open_app(library) as client:
        refused = client.post("/api/caption", data={"id": "1"})
        assert (refused.status_code, "no such file" in refused.json()["detail"]) == (409, True)


def test_too_many_requests_for_captions_leave_the_threads_of_searches_alone(client):
    desk = client.app.state.libraries.shared.desk
    entered, leave = threading.Barrier(2), threading.Event()

    def hold_the_desk():
        with desk.take_turn():
            entered.wait(PATIENCE_S)
            leave.wait(PATIENCE_S)

    holder = threading.Thread(target=hold_the_desk)
    holder.start()
    entered.wait(PATIENCE_S)
    upload = {"file": ("a.png", image_bytes())}
    answers = []
    waiting = [
        threading.Thread(target=lambda: answers.append(client.post("/api/caption", files=upload).status_code))
        for _ in range(MAX_WAITING + 3)
    ]
    for thread in waiting:
        thread.start()
    wait_for(lambda: len(answers) == 3)
    assert answers == [429] * 3
    assert client.get("/api/search", params={"q": "red"}).status_code == 200
    leave.set()
    for thread in (holder, *waiting):
        thread.join()
    assert sorted(answers) == [200] * MAX_WAITING + [429] * 3

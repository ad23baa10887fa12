import pytest

pytest.importorskip("fastapi")

from sightline.errors import ModelError
from web_world import index, open_app, submit, wait_for_job, write_photos


@pytest.fixture
def client(tmp_path):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red", "blue"]))
    with open_app(tmp_path / "library") as client:
        yield client


def test_a_caption_is_kept_edited_and_undone(client):
    first = client.put("/api/images/1/captions", json={"text": "Rex's  first\nwinter"}).json()
    assert first["previous"] is None
    (caption,) = first["captions"]
    assert (caption["text"], caption["source"], caption["best"]) == ("Rex's first winter", "user", True)
    assert -1 <= caption["similarity"] <= 1
    second = client.put("/api/images/1/captions", json={"text": "Rex's second winter"}).json()
    assert second["previous"] == "Rex's first winter"
    undone = client.put("/api/images/1/captions", json={"text": second["previous"]}).json()
    assert [c["text"] for c in undone["captions"]] == ["Rex's first winter"]
    gone = client.delete("/api/images/1/captions").json()
    assert gone == {"captions": [], "previous": "Rex's first winter"}
    assert client.delete("/api/images/1/captions").json() == {"captions": [], "previous": None}


def test_a_kept_caption_is_found_and_shown_with_hits_at_once(client):
    def hits():
        return client.get("/api/search", params={"q": "zebra", "match": "captions"}).json()["hits"]

    assert hits() == []
    client.put("/api/images/2/captions", json={"text": "a zebra crossing"})
    assert [(hit["id"], hit["caption"]) for hit in hits()] == [(2, "a zebra crossing")]
    client.delete("/api/images/2/captions")
    assert hits() == []


def test_the_fused_caption_is_the_best_again_when_the_users_is_taken_back(client):
    wait_for_job(client, submit(client, kind="caption"))
    before = client.get("/api/images/1/captions").json()["captions"]
    assert [caption["best"] for caption in before].count(True) == 1
    kept = client.put("/api/images/1/captions", json={"text": before[-1]["text"]}).json()["captions"]
    assert [(c["source"], c["text"]) for c in kept if c["best"]] == [("user", before[-1]["text"])]
    assert client.delete("/api/images/1/captions").json()["captions"] == before


def test_a_caption_is_kept_also_where_the_model_can_not_run(client, monkeypatch):
    def fail(self):
        raise ModelError("The files of starter are not on this machine.")

    monkeypatch.setattr("sightline.faces.service.library.OpenLibrary.encoder", property(fail))
    (caption,) = client.put("/api/images/1/captions", json={"text": "words"}).json()["captions"]
    assert (caption["text"], caption["similarity"]) == ("words", None)


@pytest.mark.parametrize(
    "body", [{"text": ""}, {"text": " \n"}, {"text": "x" * 2001}, {}, {"text": 7}, {"text": "a", "b": 1}]
)
def test_captions_that_can_not_be_kept_are_refused(client, body):
    refused = client.put("/api/images/1/captions", json=body)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert client.get("/api/images/1/captions").json()["captions"] == []


def test_text_that_is_no_unicode_is_refused(client):
    body = b'{"text": "\\ud800"}'
    refused = client.put("/api/images/1/captions", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422


@pytest.mark.parametrize("id_", [3, 2**63 - 1])
def test_unknown_images_have_no_captions(client, id_):
    for answer in (
        client.get(f"/api/images/{id_}/captions"),
        client.put(f"/api/images/{id_}/captions", json={"text": "words"}),
        client.delete(f"/api/images/{id_}/captions"),
    ):
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/unknown-image"


def test_captions_change_only_with_the_token(client):
    del client.headers["X-Sightline-Token"]
    assert client.put("/api/images/1/captions", json={"text": "words"}).status_code == 403
    assert client.delete("/api/images/1/captions").status_code == 403
    assert client.get("/api/images/1/captions").json() == {"captions": [], "previous": None}

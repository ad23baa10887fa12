"""Jobs of a library: done, paused, cancelled, and kept over a restart.

Covers: sightline.faces.service.job_work, sightline.faces.web.routes.jobs.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi")

import httpx2
from filelock import FileLock

import sightline as sl
from web_world import (
    PATIENCE_S,
    SlowEncoder,
    copy_model,
    index,
    open_app,
    read_events,
    submit,
    wait_for,
    wait_for_job,
    write_image,
    write_many,
    write_photos,
)

pytestmark = pytest.mark.usefixtures("kept_bank")

MANY = 80
"""Pictures that the slow encoder needs many seconds for: what a test does meanwhile comes in time if others use the
machine, too."""


@pytest.fixture
def slow_encoder(monkeypatch):
    encoder = SlowEncoder(0.3)
    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda name, **_: encoder)
    return encoder


def images_of(client):
    return client.get("/api/libraries").json()[0]["images"]


def test_folders_are_indexed_and_what_could_not_be_read_is_named(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture at all")
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path,)) as client:
        queued = submit(client, kind="index", folders=[str(tmp_path / "photos")])
        assert queued["kind"] == "index"
        assert queued["model"] == "starter"
        job = wait_for_job(client, queued)
        assert job["state"] == "done"
        assert job["summary"] == "3 added, 3 embedded, 1 skipped"
        progress = job["progress"]
        assert (progress["done"], progress["total"], progress["found"]) == (4, 4, 4)
        (skipped,) = progress["skipped"]
        assert skipped["path"].endswith("broken.jpg")
        assert "not an image" in skipped["reason"]
        assert progress["skipped_count"] == 1
        assert images_of(client) == 3
        assert client.get("/api/search", params={"q": "red"}).json()["total"] == 3


def test_known_folders_are_brought_up_to_date_without_being_named_or_allowed(tmp_path):
    photos = write_photos(tmp_path / "photos", ["red"])
    index(tmp_path / "library", photos)
    write_photos(photos, ["blue"])
    with open_app(tmp_path / "library") as client:
        assert wait_for_job(client, submit(client, kind="index"))["summary"] == "1 added, 1 unchanged, 1 embedded"
        write_photos(photos, ["green"])
        named = submit(client, kind="index", folders=[str(photos)])
        assert wait_for_job(client, named)["summary"] == "1 added, 2 unchanged, 1 embedded"


def test_only_folders_below_allowed_roots_may_be_added_also_through_links(tmp_path):
    inside = write_photos(tmp_path / "allowed" / "photos")
    outside = write_photos(tmp_path / "secret")
    (tmp_path / "allowed" / "way-out").symlink_to(outside)
    (tmp_path / "way-in").symlink_to(inside)
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path / "allowed",)) as client:
        for folder in (
            outside,
            tmp_path / "allowed" / "way-out",
            tmp_path / "allowed" / ".." / "secret",
            "/",
            "/nowhere",
        ):
            refused = client.post("/api/jobs", json={"kind": "index", "folders": [str(folder)]})
            assert refused.status_code == 403
            assert refused.json()["type"] == "/problems/folder"
        for folder in (
            "photos",
            "~/photos",
            "/photos\0",
            str(tmp_path / "allowed" / "missing"),
            str(inside / "red.png"),
        ):
            assert client.post("/api/jobs", json={"kind": "index", "folders": [folder]}).status_code == 422
        assert client.get("/api/jobs").json()["jobs"] == []
        job = submit(client, kind="index", folders=[str(tmp_path / "way-in"), str(inside)])
        assert job["folders"] == [str(inside)]
        assert wait_for_job(client, job)["state"] == "done"


def test_without_allowed_roots_nothing_can_be_added(tmp_path):
    write_photos(tmp_path / "photos")
    with open_app(tmp_path / "library", model="starter") as client:
        refused = client.post("/api/jobs", json={"kind": "index", "folders": [str(tmp_path / "photos")]})
        assert (refused.status_code, "--allow-root" in refused.json()["detail"]) == (403, True)


def test_a_folder_that_is_no_longer_allowed_when_its_job_starts_is_not_indexed(tmp_path, slow_encoder):
    slow_encoder.pause_s = 0.8
    first, second = write_photos(tmp_path / "first", ["red"]), write_photos(tmp_path / "second", ["blue"])
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path,)) as client:
        submit(client, kind="index", folders=[str(first)])
        waiting = submit(client, kind="index", folders=[str(second)])
        assert slow_encoder.started.wait(PATIENCE_S)
    with open_app(tmp_path / "library", model="starter", allow_roots=(first,)) as client:
        job = wait_for_job(client, waiting)
        assert job["state"] == "failed"
        assert "doesn't lie below" in job["error"]


def test_links_inside_an_allowed_folder_may_not_lead_out_of_what_is_allowed(tmp_path):
    allowed = write_photos(tmp_path / "allowed" / "photos", ["red"])
    secret = write_photos(tmp_path / "secret", ["blue", "grey"])
    beside = write_photos(tmp_path / "allowed" / "beside", ["green"])
    (allowed / "beside").symlink_to(beside)
    (allowed / "out").symlink_to(secret)
    (allowed / "out.png").symlink_to(secret / "blue.png")
    (allowed / "twice").symlink_to(allowed / "out")
    (allowed / "notes").symlink_to(tmp_path / "nowhere")
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path / "allowed",)) as client:
        for _ in range(2):  # also once the folder is the library's own
            job = wait_for_job(client, submit(client, kind="index", folders=[str(allowed)]))
            left_out = {(skipped["path"], skipped["reason"]) for skipped in job["progress"]["skipped"]}
            reason = "a link that leads out of the folders that are allowed"
            assert left_out == {(str(allowed / name), reason) for name in ("out", "out.png", "twice")}
            assert {hit["name"] for hit in client.get("/api/search").json()["hits"]} == {"red.png", "green.png"}
    index(tmp_path / "library", allowed)  # who can use the command line may follow it
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path / "allowed",)) as client:
        wait_for_job(client, submit(client, kind="index"))
        assert client.get("/api/search").json()["total"] == 5, "what is known stays"
    with open_app(tmp_path / "library", model="starter") as client:  # nothing but what the command line added
        assert wait_for_job(client, submit(client, kind="index"))["progress"]["skipped_count"] == 0


def test_a_library_among_its_photos_does_not_index_its_own_thumbnails(tmp_path):
    write_photos(tmp_path)
    library = tmp_path / "library [1]"
    with open_app(library, model="starter", allow_roots=(tmp_path,)) as client:
        wait_for_job(client, submit(client, kind="index", folders=[str(tmp_path)]))
        write_image(library / "thumbnails" / "ab" / "made.png", (1, 2, 3))
        assert wait_for_job(client, submit(client, kind="index"))["summary"] == "3 unchanged"


def test_the_library_is_captioned_and_only_what_lacks_captions_is_captioned_again(tmp_path):
    photos = write_photos(tmp_path / "photos", ["red", "blue"])
    index(tmp_path / "library", photos)
    with open_app(tmp_path / "library") as client:
        client.put("/api/images/1/captions", json={"text": "my own words"})
        job = wait_for_job(client, submit(client, kind="caption"))
        assert (job["state"], job["captioner"]) == ("done", "starter-captioner")
        assert job["summary"] == "2 captioned"
        captions = client.get("/api/images/1/captions").json()["captions"]
        assert [c["source"] for c in captions if c["best"]] == ["user"]
        assert {c["source"] for c in captions} == {"user", "clip", "generated"}
        assert all(c["similarity"] is not None for c in captions)
        assert wait_for_job(client, submit(client, kind="caption"))["summary"] == "0 captioned"
        (photos / "blue.png").write_bytes(b"damaged")
        wait_for_job(client, submit(client, kind="caption", captioner="none"))
        index(tmp_path / "library", write_photos(photos, ["green"]))
        again = wait_for_job(client, submit(client, kind="caption", folders=[str(photos)]))
        assert again["summary"] == "1 captioned"


def test_images_that_can_not_be_captioned_are_named(tmp_path):
    photos = write_photos(tmp_path / "photos", ["red", "blue"])
    index(tmp_path / "library", photos)
    (photos / "red.png").unlink()
    with open_app(tmp_path / "library") as client:
        job = wait_for_job(client, submit(client, kind="caption"))
        assert job["summary"] == "1 captioned; 1 could not be read"
        assert [file["reason"] for file in job["progress"]["skipped"]] == ["no such file"]


def test_a_model_is_added_beside_the_old_one(tmp_path, slow_encoder, monkeypatch):
    monkeypatch.undo()
    photos = write_photos(tmp_path / "photos")
    index(tmp_path / "library", photos)
    other = copy_model(tmp_path)
    index(tmp_path / "other", write_photos(tmp_path / "one", ["red"]), model=other)
    with sl.Library.open(tmp_path / "library") as library:  # a model of the user's own, known but incomplete
        library.store.add_model(sl.Library.open(tmp_path / "other").store.models()[other])
    write_photos(photos, ["grey"])  # not known yet, so not the model's business
    with open_app(tmp_path / "library") as client:
        job = wait_for_job(client, submit(client, kind="add_model", model=other))
        assert (job["state"], job["summary"]) == ("done", "3 embedded")
        models = {model["name"]: model for model in client.get("/api/models").json()["models"]}
        assert (models["starter"]["vectors"], models[other]["vectors"]) == (3, 3)
        assert client.get("/api/models").json()["default"] == "starter"
        assert images_of(client) == 3


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"kind": "add_model"}, 422, "Name the model"),
        ({"kind": "add_model", "model": "starter", "folders": ["FOLDER"]}, 422, "leave `folders` out"),
        ({"kind": "index", "model": "nonsense"}, 409, "these can: starter"),
        ({"kind": "index", "model": "ViT-B-32/openai"}, 409, "models pull"),
        ({"kind": "index", "model": "hf:someone/something"}, 409, "can't be chosen from here"),
        ({"kind": "index", "model": "dir:/etc"}, 409, "can't be chosen from here"),
        ({"kind": "index", "model": "endpoint:http://127.0.0.1:9/"}, 409, "can't be chosen from here"),
        ({"kind": "caption", "captioner": "endpoint:http://127.0.0.1:9/"}, 409, "can't be chosen from here"),
        ({"kind": "index", "model": "starter-captioner"}, 409, "these can: starter. Others"),
        ({"kind": "index", "captioner": "none"}, 422, "job `caption` only"),
        ({"kind": "caption", "captioner": "starter"}, 409, "these can: none, starter-captioner"),
        ({"kind": "dance"}, 422, "kind"),
        ({"kind": "index", "surprise": 1}, 422, "surprise"),
    ],
)
def test_work_that_can_not_be_done_is_refused_with_the_reason(tmp_path, request_, status, says):
    photos = write_photos(tmp_path / "photos", ["red"])
    index(tmp_path / "library", photos)
    if "folders" in request_:
        request_ = {**request_, "folders": [str(photos)]}
    with open_app(tmp_path / "library") as client:
        refused = client.post("/api/jobs", json=request_)
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"
        assert says in refused.text


def test_an_empty_library_has_nothing_to_caption_or_to_bring_up_to_date(tmp_path):
    with open_app(tmp_path / "library", model="starter") as client:
        for request in ({"kind": "caption"}, {"kind": "add_model", "model": "starter"}, {"kind": "index"}):
            assert client.post("/api/jobs", json=request).status_code == 422
        assert client.post("/api/jobs", json={"kind": "caption"}, params={"library": "none"}).status_code == 404


def test_a_job_is_paused_between_batches_and_goes_on_without_doing_anything_twice(tmp_path, slow_encoder):
    photos = write_many(tmp_path / "photos", MANY)
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path,)) as client:
        job = submit(client, kind="index", folders=[str(photos)])
        wait_for(lambda: slow_encoder.images >= 4)
        asked = client.post(f"/api/jobs/{job['id']}/pause").json()
        assert (asked["state"], asked["stopping"]) in (("running", "pause"), ("paused", None))
        paused = wait_for_job(client, job, "paused")
        assert paused["ended_at"] is None
        assert paused["progress"]["rate_per_s"] is None
        kept = images_of(client)
        assert 4 <= kept == slow_encoder.images < MANY  # all that was embedded is there
        assert client.get("/api/search", params={"q": "red"}).json()["total"] == kept
        slow_encoder.pause_s = 0
        assert client.post(f"/api/jobs/{job['id']}/resume").json()["state"] in ("queued", "running")
        done = wait_for_job(client, job)
        assert (done["state"], done["progress"]["done"], done["progress"]["total"]) == ("done", MANY, MANY)
        assert slow_encoder.images == MANY
        assert images_of(client) == MANY


def test_a_cancelled_job_keeps_what_it_did_and_the_next_one_starts(tmp_path, slow_encoder):
    many, few = write_many(tmp_path / "many", MANY), write_photos(tmp_path / "few", ["red"])
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path,)) as client:
        running, waiting, dropped = (
            submit(client, kind="index", folders=[str(folder)]) for folder in (many, few, tmp_path)
        )
        assert [job["id"] for job in client.get("/api/jobs").json()["jobs"]] == [
            dropped["id"],
            waiting["id"],
            running["id"],
        ]
        assert client.post(f"/api/jobs/{dropped['id']}/cancel").json()["state"] == "cancelled"
        wait_for(lambda: slow_encoder.images >= 4)
        assert client.get(f"/api/jobs/{waiting['id']}").json()["state"] == "queued"
        client.post(f"/api/jobs/{running['id']}/cancel")
        cancelled = wait_for_job(client, running)
        assert cancelled["state"] == "cancelled"
        assert cancelled["ended_at"] is not None
        assert 4 <= images_of(client) < MANY
        assert wait_for_job(client, waiting)["state"] == "done"
        assert client.post(f"/api/jobs/{dropped['id']}/resume").json()["state"] in ("queued", "running")


def test_captioning_is_paused_and_resumed_too(tmp_path, slow_encoder):
    index(tmp_path / "library", write_many(tmp_path / "photos", 12))
    with open_app(tmp_path / "library") as client:
        job = submit(client, kind="caption")
        wait_for(lambda: client.get(f"/api/jobs/{job['id']}").json()["progress"]["done"] >= 1)
        client.post(f"/api/jobs/{job['id']}/pause")
        paused = wait_for_job(client, job, "paused")
        assert 1 <= paused["progress"]["done"] < 12
        slow_encoder.pause_s = 0
        client.post(f"/api/jobs/{job['id']}/resume")
        done = wait_for_job(client, job)
        assert (done["progress"]["done"], done["progress"]["total"]) == (12, 12)
        assert done["summary"] != "12 captioned"  # it went on, it didn't start anew
        assert all(client.get(f"/api/images/{id_}/captions").json()["captions"] for id_ in range(1, 13))


@pytest.mark.parametrize(("verb", "says"), [("pause", "paused"), ("resume", "resumed"), ("cancel", "cancelled")])
def test_a_job_that_has_ended_is_left_alone(tmp_path, verb, says):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(tmp_path / "library") as client:
        job = submit(client, kind="index")
        wait_for_job(client, job)
        refused = client.post(f"/api/jobs/{job['id']}/{verb}")
        assert refused.status_code == 409
        assert refused.json()["detail"] == f"The job is done; it can't be {says}."
        assert client.post(f"/api/jobs/none/{verb}").status_code == 404
        assert client.get("/api/jobs/none").json()["type"] == "/problems/unknown-job"


def test_the_same_work_is_not_queued_twice_and_the_queue_is_bounded(tmp_path, slow_encoder, monkeypatch):
    monkeypatch.setattr("sightline.faces.service.jobs.MAX_UNFINISHED", 2)
    many = write_many(tmp_path / "many", 12)
    with open_app(tmp_path / "library", model="starter", allow_roots=(tmp_path,)) as client:
        jobs = [submit(client, kind="index", folders=[str(many)]) for _ in range(3)]
        assert len({job["id"] for job in jobs}) == 1
        client.post(f"/api/jobs/{jobs[0]['id']}/pause")
        wait_for_job(client, jobs[0], "paused")
        resumed = submit(client, kind="index", folders=[str(many)])
        assert (resumed["id"], resumed["state"]) == (jobs[0]["id"], "queued")
        submit(client, kind="index", folders=[str(tmp_path)])
        full = client.post("/api/jobs", json={"kind": "index", "folders": [str(many.parent / "library")]})
        assert (full.status_code, full.json()["type"]) == (409, "/problems/queue-full")


def test_only_the_latest_ended_jobs_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.faces.service.jobs._MAX_ENDED", 2)
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(tmp_path / "library") as client:
        ids = []
        for _ in range(5):
            ids.append(submit(client, kind="index")["id"])
            wait_for_job(client, {"id": ids[-1]})
        assert [job["id"] for job in client.get("/api/jobs").json()["jobs"]] == ids[:1:-1]


def test_a_job_that_fails_says_why_and_the_queue_goes_on(tmp_path, monkeypatch):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    failures = iter([sl.errors.StoreError("The disk is full."), RuntimeError("a bug")])

    def index_badly(*_, **__):
        for failure in failures:
            raise failure
        return monkeypatch.undo()

    monkeypatch.setattr("sightline.core.indexing.indexer.index", index_badly)
    with open_app(tmp_path / "library") as client:
        first = wait_for_job(client, submit(client, kind="index"))
        assert (first["state"], first["error"]) == ("failed", "The disk is full.")
        second = wait_for_job(client, submit(client, kind="index"))
        assert (second["state"], "server's log" in second["error"]) == ("failed", True)
        monkeypatch.undo()
        client.post(f"/api/jobs/{second['id']}/resume")
        again = wait_for_job(client, second)
        assert (again["state"], again["error"], again["summary"]) == ("done", None, "1 unchanged")


def test_libraries_have_queues_of_their_own(tmp_path, slow_encoder):
    for name in ("one", "two"):
        write_many(tmp_path / f"photos-{name}", 6)
    with open_app(tmp_path / "one", tmp_path / "two", model="starter", allow_roots=(tmp_path,)) as client:
        for name in ("one", "two"):
            request = {"kind": "index", "folders": [str(tmp_path / f"photos-{name}")]}
            assert client.post("/api/jobs", json=request, params={"library": name}).json()["library"] == name
        jobs = client.get("/api/jobs").json()["jobs"]
        assert {job["library"] for job in jobs} == {"one", "two"}
        wait_for(lambda: {job["state"] for job in client.get("/api/jobs").json()["jobs"]} == {"running"})
        (one,) = client.get("/api/jobs", params={"library": "one"}).json()["jobs"]
        assert one["library"] == "one"
        assert client.get("/api/jobs", params={"library": "three"}).status_code == 404
        slow_encoder.pause_s = 0
        assert {wait_for_job(client, job)["state"] for job in jobs} == {"done"}


# --- closing, killing, starting again ---------------------------------------------------------------------------


def test_closing_the_server_stops_a_job_amid_its_work_and_the_next_start_goes_on_with_it(tmp_path, slow_encoder):
    photos = write_many(tmp_path / "photos", MANY)
    settings = {"model": "starter", "allow_roots": (tmp_path,)}
    with open_app(tmp_path / "library", **settings) as client:
        first = submit(client, kind="index", folders=[str(photos)])
        second = submit(client, kind="index", folders=[str(tmp_path)])
        wait_for(lambda: slow_encoder.images >= 4)
    saved = {job["id"]: job for job in json.loads((tmp_path / "library" / "jobs.json").read_text())["jobs"]}
    assert (saved[first["id"]]["state"], saved[second["id"]]["state"]) == ("running", "queued")
    done_before = slow_encoder.images
    slow_encoder.pause_s = 0
    with open_app(tmp_path / "library", **settings) as client:
        assert client.get(f"/api/jobs/{first['id']}").json()["interruptions"] == 1
        job = wait_for_job(client, first)
        assert (job["state"], job["progress"]["done"], job["progress"]["total"]) == ("done", MANY, MANY)
        assert wait_for_job(client, second)["interruptions"] == 0
        assert images_of(client) == MANY
    assert 4 <= done_before < slow_encoder.images == MANY


def test_a_paused_job_stays_paused_over_a_restart(tmp_path, slow_encoder):
    photos = write_many(tmp_path / "photos", 12)
    settings = {"model": "starter", "allow_roots": (tmp_path,)}
    with open_app(tmp_path / "library", **settings) as client:
        job = submit(client, kind="index", folders=[str(photos)])
        wait_for(lambda: slow_encoder.images >= 2)
        client.post(f"/api/jobs/{job['id']}/pause")
    with open_app(tmp_path / "library", **settings) as client:
        assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "paused"
        slow_encoder.pause_s = 0
        client.post(f"/api/jobs/{job['id']}/resume")
        assert wait_for_job(client, job)["state"] == "done"


def test_a_second_server_does_no_work_in_the_same_library_until_the_first_one_ends(tmp_path):
    index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    lock = FileLock(tmp_path / "library" / "jobs.lock", thread_local=False)
    lock.acquire(blocking=False)
    with open_app(tmp_path / "library") as client:
        assert client.get("/api/jobs").json()["jobs"] == []
        refused = client.post("/api/jobs", json={"kind": "index"})
        assert (refused.status_code, "Another Sightline server" in refused.json()["detail"]) == (503, True)
        lock.release()
        assert wait_for_job(client, submit(client, kind="index"))["state"] == "done"


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99, "jobs": []}', '{"version": 1}', "[" * 100_000, "\ud800"])
def test_a_damaged_list_of_jobs_is_put_aside(tmp_path, text):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    (library / "jobs.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with open_app(library) as client:
        assert client.get("/api/jobs").json()["jobs"] == []
        assert (library / "jobs.json.damaged").read_bytes() == text.encode("utf-8", "surrogatepass")
        assert wait_for_job(client, submit(client, kind="index"))["state"] == "done"


def test_jobs_that_can_not_be_understood_are_left_out_of_the_list(tmp_path):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    with open_app(library) as client:
        job = wait_for_job(client, submit(client, kind="index"))
    saved = json.loads((library / "jobs.json").read_text())
    saved["jobs"] += [{**job, "id": "x", "kind": "format-disk"}, 7]
    (library / "jobs.json").write_text(json.dumps(saved))
    with open_app(library) as client:
        assert [known["id"] for known in client.get("/api/jobs").json()["jobs"]] == [job["id"]]


def test_a_list_that_can_not_be_written_costs_the_list_and_not_the_work(tmp_path, monkeypatch):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    monkeypatch.setattr("sightline.kit.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with open_app(library) as client:
        assert wait_for_job(client, submit(client, kind="index"))["state"] == "done"
    assert not (library / "jobs.json").exists()


def test_a_library_whose_folder_can_not_be_written_is_served_without_jobs(tmp_path, monkeypatch):
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))

    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr("sightline.faces.service.jobs.FileLock.acquire", refuse)
    with open_app(library) as client:
        assert client.get("/api/jobs").json()["jobs"] == []
        refused = client.post("/api/jobs", json={"kind": "index"})
        assert (refused.status_code, "can't be written" in refused.json()["detail"]) == (503, True)


# --- real processes ---------------------------------------------------------------------------------------------


class Server:
    """`sightline serve` as a process of its own."""

    def __init__(self, library, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            "-m",
            "sightline",
            "serve",
            "--library",
            library,
            "--port",
            self.port,
            "--model",
            "starter",
            *arguments,
        ]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)
        wait_for(self._is_up)
        page = self.client.get("/").text
        self.client.headers["X-Sightline-Token"] = page.split('name="sightline-token" content="')[1].split('"')[0]

    def _is_up(self):
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx2.TransportError:
            assert self.process.poll() is None, self.process.stderr.read()
            return False

    def end(self, how):
        """Send a signal; the exit code, and what the server had to say."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        self.client.close()
        return self.process.returncode, said


@pytest.fixture
def start_server(tmp_path):
    servers = []

    def start(*arguments):
        servers.append(Server(tmp_path / "library", "--allow-root", tmp_path, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
        server.process.stderr.close()
        server.client.close()


def write_slow_photos(folder, count):
    """Pictures that take long to decode, whatever the machine; each with bytes of its own."""
    original = write_image(folder / "000.png", (30, 90, 60), size=(1500, 1500)).read_bytes()
    for number in range(1, count):
        (folder / f"{number:03d}.png").write_bytes(original + bytes([number]))
    return folder


def test_a_killed_server_loses_no_work(tmp_path, start_server):
    photos = write_slow_photos(tmp_path / "photos", 40)
    server = start_server()
    job = submit(server.client, kind="index", folders=[str(photos)])
    wait_for_job(server.client, job, "running")
    wait_for(lambda: server.client.get(f"/api/jobs/{job['id']}").json()["progress"]["done"] > 4)
    server.end(signal.SIGKILL)
    saved = json.loads((tmp_path / "library" / "jobs.json").read_text())["jobs"]
    assert [one["state"] for one in saved] == ["running"]

    again = start_server()
    resumed = again.client.get(f"/api/jobs/{job['id']}").json()
    assert (resumed["interruptions"], resumed["state"] in ("queued", "running", "done")) == (1, True)
    done = wait_for_job(again.client, job)
    assert (done["state"], done["error"]) == ("done", None)
    assert again.client.get("/api/libraries").json()[0]["images"] == 40
    assert again.client.get("/api/search", params={"q": "green"}).json()["total"] == 40


def test_ctrl_c_ends_the_server_at_once_though_pages_listen_and_a_job_runs(tmp_path, start_server):
    photos = write_slow_photos(tmp_path / "photos", 40)
    server = start_server()
    job = submit(server.client, kind="index", folders=[str(photos)])
    with server.client.stream("GET", "/api/events") as response, ThreadPoolExecutor(1) as threads:
        events = threads.submit(read_events, response.iter_lines(), 10_000)
        wait_for(lambda: server.client.get(f"/api/jobs/{job['id']}").json()["progress"]["done"] > 4)
        os.kill(server.process.pid, signal.SIGINT)
        server.process.wait(PATIENCE_S)
        told = events.result(PATIENCE_S)
    assert server.process.stderr.read().strip().splitlines()[-1] == "Ctrl-C stops it."  # nothing else: no complaint
    states = [data["state"] for name, data in told if name == "job" and data["id"] == job["id"]]
    assert states[0] in ("queued", "running")
    assert "running" in states
    done = [data["progress"]["done"] for name, data in told if name == "job"]
    assert done == sorted(done)
    assert done[-1] < 40  # the rest of the work wasn't waited for
    (saved,) = json.loads((tmp_path / "library" / "jobs.json").read_text())["jobs"]
    assert saved["state"] == "running"


def test_events_over_http_tell_of_jobs_and_libraries_and_resume(tmp_path, start_server):
    photos = write_photos(tmp_path / "photos")
    server = start_server()
    with server.client.stream("GET", "/api/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert read_events(lines, 1) == [("library", {"library": "library", "images": 0, "captions": 0})]
        job = submit(server.client, kind="index", folders=[str(photos)])
        told = []
        while not any(name == "library" and data["images"] == 3 for name, data in told):
            told += read_events(lines, 1)
        last_id = next(line.removeprefix("id: ") for line in lines if line.startswith("id: "))
    states = [data["state"] for name, data in told if name == "job"]
    assert states[-1] == "done"
    with server.client.stream("GET", "/api/events", headers={"Last-Event-ID": last_id}) as response:
        lines = response.iter_lines()
        assert "event: ping" in [next(lines) for _ in range(6)]  # nothing but the greeting: nothing is new
        other = submit(server.client, kind="index")
        assert read_events(lines, 1)[0][1]["id"] == other["id"]
    with server.client.stream("GET", "/api/events", params={"job": job["id"]}) as response:
        lines = response.iter_lines()
        server.client.post(f"/api/jobs/{other['id']}/pause")
        assert "event: ping" in [next(lines) for _ in range(6)]


def test_a_hundred_clients_that_read_nothing_hold_nobody_up(tmp_path, start_server):
    photos = write_many(tmp_path / "photos", 60)
    server = start_server()
    request = f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    clients = []
    try:
        for _ in range(100):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.sendall(request)
            clients.append(client)
        job = submit(server.client, kind="index", folders=[str(photos)])
        assert wait_for_job(server.client, job)["state"] == "done"
        assert server.client.get("/api/search", params={"q": "red"}).json()["total"] == 60
    finally:
        for client in clients:
            client.close()
    code, said = server.end(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)
    assert "exceeded" not in said  # no stream of events had to be cut

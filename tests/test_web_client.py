import contextlib
import itertools
import json
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx2

from sightline.errors import InputError
from sightline.faces.service.schemas import CaptionAnswer, JobAnswer, LibraryEvent, PartRequest
from sightline.faces.web.client import Client, RefusedError, read_events
from web_demo import make_demo_library, run_on_a_socket
from web_world import image_bytes, index, wait_for, write_many


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo_library(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def client(demo):
    with run_on_a_socket(demo, allow_roots=(demo.parent,)) as (_, address), Client(address) as client:
        yield client


def test_a_client_searches_by_words_rows_and_images(client, demo):
    found = client.search("a cat", limit=3)
    assert (len(found.hits), found.total) == (3, 15)
    assert client.search("a cat", limit=3, cursor=found.next).hits[0].id not in {hit.id for hit in found.hits}
    assert [hit.id for hit in client.search_all("a cat", limit=4)] == [hit.id for hit in client.search_all("a cat")]
    assert len(list(client.search_all())) == 15
    upload = client.upload(demo.parent / "photos" / "coffee.png")
    (hit,) = client.search(parts=[PartRequest(upload=upload.key)], limit=1).hits
    assert hit.name == "coffee.png"
    assert client.search(like=hit.id, where="width > 1").total == 14
    with pytest.raises(InputError, match="knows no top"):
        client.search("a", top=3)


def test_a_client_reads_images(client, demo):
    hit = client.search(where="name = 'chelsea.png'").hits[0]
    assert client.image(hit.id).name == "chelsea.png"
    assert client.file(hit.id) == (demo.parent / "photos" / "chelsea.png").read_bytes()
    assert len(client.thumbnail(hit.id, size_px=640)) > len(client.thumbnail(hit.id)) > 100
    heatmap = client.heatmap(hit.id, "whiskers")
    assert len(heatmap.values) == heatmap.rows


def test_a_client_teaches_a_word_and_forgets_it(client):
    cat = client.search(where="name = 'chelsea.png'").hits[0]
    word = client.teach("Chelsea the Cat", [cat.id], kind="cat")
    assert (word.examples, word.images) == (1, [cat.id])
    assert [found.name for found in client.words()] == ["Chelsea the Cat"]
    assert client.search("chelsea the cat").hits[0].id == cat.id
    assert client.forget("chelsea the cat") == []
    with pytest.raises(RefusedError, match="There is no word 'Rex'"):
        client.forget("Rex")


def test_a_client_sets_copies_aside_and_moves_them_back(tmp_path):
    photos = write_many(tmp_path / "photos", 2)
    (photos / "again.png").write_bytes((photos / "0000.png").read_bytes())
    with run_on_a_socket(index(tmp_path / "library", photos)) as (_, address), Client(address) as client:
        moves = client.set_aside(client.duplicates().groups)
        assert (moves.moved, client.duplicates().groups, (photos / "again.png").exists()) == (1, [], False)
        assert client.undo(moves).moved == 1
        assert (photos / "again.png").exists()


def test_a_client_writes_captions_and_takes_them_back(client):
    hit = client.search(limit=1).hits[0]
    assert client.set_caption(hit.id, "one").captions[0].text == "one"
    assert client.set_caption(hit.id, "two").previous == "one"
    assert client.remove_caption(hit.id).previous == "two"


def test_a_client_reads_what_an_older_server_calls_the_source_of_a_sentence():
    values = {"text": "a dog", "source": "blip", "similarity": 0.3, "log_prob": -1.0, "model": "c", "best": True}
    assert CaptionAnswer.model_validate(values).source == "generated"
    with pytest.raises(ValueError, match="'clip', 'generated' or 'user'"):
        CaptionAnswer.model_validate({**values, "source": "someone"})


def test_a_client_embeds_and_captions(client):
    texts = client.embed_texts(["a", "b"])
    images = client.embed_images([image_bytes()])
    assert (len(texts.vectors), len(images.vectors), len(images.vectors[0])) == (2, 1, texts.dim)
    caption = client.caption(image_bytes(), candidates=["a red field", "a dog"])
    assert {one.text for one in caption.clip} == {"a red field", "a dog"}


def test_a_client_hears_of_a_job_until_it_has_ended(client, demo):
    job = client.submit("caption", folders=[str(demo.parent / "photos")], captioner="none")
    assert job.captioner == "none"
    told = list(client.follow(job.id))
    assert {event.id for event in told} == {job.id}
    assert (told[-1].state, told[-1].summary) == ("done", "15 captioned")
    assert [event.state for event in client.follow(job.id)] == ["done"], "one that had ended before"
    with pytest.raises(RefusedError, match="no-such-job"):
        next(client.follow("no-such-job"))


def test_a_client_hears_of_all_that_happens_until_it_stops_listening(client, demo):
    with contextlib.closing(client.events()) as events:
        job = client.submit("index", folders=[str(demo.parent / "photos")])
        seen = list(itertools.takewhile(lambda event: not (isinstance(event, JobAnswer) and event.has_ended), events))
    assert job.id in {event.id for event in seen if isinstance(event, JobAnswer)}
    assert any(isinstance(event, LibraryEvent) and event.images == 15 for event in seen)
    assert client.health().status == "ok"


def test_events_that_cannot_be_had_say_why(demo):
    refused = pytest.raises(RefusedError, match="demands its access token")
    with run_on_a_socket(demo, host="0.0.0.0") as (_, address), Client(address) as stranger, refused:
        next(stranger.events())
    with Client(address) as nobody, pytest.raises(InputError, match="Is `sightline serve` running"):
        next(nobody.events())


def test_events_are_read_as_the_standard_has_them():
    job: dict[str, Any] = {
        "id": "a",
        "kind": "index",
        "state": "done",
        "library": "l",
        "created_at": "2024-01-01T00:00:00",
    }
    job |= {"progress": {}, "ended_at": None, "summary": None, "error": None}
    lines = [
        ": hello",
        "retry: 5",
        "",
        "event:library",
        'data:{"library": "l",',
        'data: "images": 1, "captions": 2}',
        "",
    ]
    lines += ["event: later", "data: {}", "", "data: {}", "", "event: job", f"data: {json.dumps(job)}", "id: 7", ""]
    lines += ["event: ping", "data: {}", "", "event: job", "data: {"]
    library, done, ping = read_events(lines)
    assert (library.images, library.captions) == (1, 2)
    assert (done.id, done.has_ended, ping) == ("a", True, "ping")


def test_a_client_reads_training_runs(client, demo, tmp_path):
    with pytest.raises(RefusedError, match="--runs DIR"):
        client.runs()
    run = tmp_path / "runs" / "sets" / "first run"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"epochs": 2}')
    (run / "log.jsonl").write_text(
        '{"step": 1, "kind": "train", "loss": 2.5}\n{"step": 2, "kind": "train", "loss": 2}\n'
    )
    with run_on_a_socket(demo, runs=tmp_path / "runs") as (_, address), Client(address) as training:
        assert [(found.name, found.step) for found in training.runs()] == [("sets/first run", 2)]
        shown = training.run("sets/first run", after=1)
        assert (shown.config, [row["loss"] for row in shown.rows], shown.next) == ({"epochs": 2}, [2], 2)


def test_a_client_follows_a_job(client, demo):
    job = client.submit("index", folders=[str(demo.parent / "photos")])
    assert wait_for(lambda: client.job(job.id).state == "done")
    assert client.list_jobs()[0].id == job.id
    for act in (client.pause, client.resume, client.cancel):
        with pytest.raises(RefusedError) as refused:
            act("no-such-job")
        assert refused.value.problem.status in (404, 422)


def test_a_client_knows_the_library_and_the_server(client, demo):
    assert client.stats().images == 15
    assert client.health().status == "ok"
    assert client.list_libraries()[0].images == 15
    assert client.list_models().default == "starter"
    assert client.use_model("starter").default == "starter"
    assert client.duplicates().groups == []
    assert len(client.compare("a cat", ["starter"], limit=3).models[0].hits) == 3


def test_errors_of_the_server_are_raised_with_what_it_said(client):
    with pytest.raises(RefusedError, match="Not Found: The library 'library' has no image with the id 99") as refused:
        client.image(99)
    assert refused.value.problem.type == "/problems/unknown-image"
    with pytest.raises(RefusedError, match="can't be read: not an image"):
        client.upload(b"\x01\x02\x03nothing")


def test_what_cannot_be_reached_or_read_is_an_input_error(tmp_path):
    with Client("http://127.0.0.1:9") as client, pytest.raises(InputError, match="Is `sightline serve` running"):
        client.stats()
    with Client("http://127.0.0.1:9") as client, pytest.raises(InputError, match=r"gone\.png can't be read"):
        client.upload(tmp_path / "gone.png")


def test_another_server_is_no_sightline():
    def answer(request):
        return httpx2.Response(200, text="hello") if request.url.path == "/" else httpx2.Response(502, text="bad")

    http = httpx2.Client(base_url="http://127.0.0.1:8000", transport=httpx2.MockTransport(answer))
    with Client(http=http) as client:
        with pytest.raises(InputError, match="no Sightline server"):
            client.embed_texts(["a"])
        with pytest.raises(RefusedError, match="status 502"):
            client.stats()


def test_the_access_token_and_the_library_go_with_every_request(demo):
    with run_on_a_socket(demo, host="0.0.0.0") as (config, address):
        with Client(address, access_token=config.access_token, library="library") as client:
            assert client.stats().library == "library"
            assert client.embed_texts(["a"]).model == "starter"
        with Client(address) as stranger, pytest.raises(RefusedError, match="demands its access token"):
            stranger.stats()
        lost = Client(address, access_token=config.access_token, library="no")
        with lost, pytest.raises(RefusedError, match="no library 'no'"):
            lost.stats()

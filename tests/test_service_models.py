"""Slow models and the requests beside them: an endpoint that says nothing holds only its own threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anyio
import httpx2
import pytest

pytest.importorskip("fastapi")

import sightline as sl
from moody_server import MoodyServer
from sightline.core.models.cards import card_to_json
from sightline.core.models.loading import load_encoder
from sightline.errors import ModelError, OverloadedError
from sightline.faces.service.models import Lane
from sightline.faces.web.problems import explain
from web_demo import run_on_a_socket
from web_world import copy_model, image_bytes, index, open_for_tools, wait_for, write_photos

LONG_S = 240


def test_a_full_line_sends_the_next_one_away():
    release, started = threading.Event(), threading.Event()

    def work():
        started.set()
        assert release.wait(LONG_S)

    async def ask():
        lane = Lane(threads=1, max_waiting=1)
        async with anyio.create_task_group() as group:
            group.start_soon(lane.run, work)
            group.start_soon(lane.run, work)
            await anyio.to_thread.run_sync(started.wait, LONG_S)
            with pytest.raises(OverloadedError, match="Too many") as refused:
                await lane.run(work)
            release.set()
        assert await lane.run(lambda: "again") == "again"
        return explain(refused.value)

    refused = anyio.run(ask)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0


class SilentEndpoint:
    """Tells its card, embeds some words to be opened with, and then says nothing to anyone."""

    def __init__(self, model):
        self.encoder = load_encoder(model)
        self.is_silent, self.release = False, threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, payload):
        if payload["parameters"]["task"] == "card":
            return {"tasks": ["card", "feature-extraction"], "encoder": self.card(), "captioner": None}
        if self.is_silent:
            self.waiting.release()
            assert self.release.wait(LONG_S)
        return self.encoder.encode_texts(payload["inputs"]).tolist()

    def card(self):
        return card_to_json(replace(self.encoder.card, weights_hash=self.encoder.identity.weights_hash))


@pytest.fixture
def silent(tmp_path, monkeypatch):
    """A server whose default model computes behind an endpoint that says nothing; the library holds `starter`, too."""
    library = index(tmp_path / "library", write_photos(tmp_path / "photos"))
    model = copy_model(tmp_path)
    with sl.Library.open(library, model=model) as opened:
        opened.index()
    endpoint = SilentEndpoint(model)
    monkeypatch.setattr("sightline.faces.service.models.ANSWER_S", 10 * LONG_S)
    with (
        MoodyServer(endpoint) as server,
        run_on_a_socket(library, model=f"endpoint:{server.url}") as (config, address),
        httpx2.Client(base_url=address, timeout=LONG_S) as client,
    ):
        client.headers["X-Sightline-Token"] = config.token
        wait_for(lambda: client.get("/healthz").json()["status"] != "starting")
        endpoint.is_silent = True
        client.slow_model = model  # type: ignore[attr-defined]
        yield client, endpoint, server
        endpoint.release.set()


def test_the_threads_of_searches_are_free_while_an_endpoint_says_nothing(silent):
    client, endpoint, _ = silent
    assert client.get("/healthz").json()["status"] == "ok"
    slow = {"model": client.slow_model}

    def ask(number):
        match number % 5:
            case 0:
                return client.get("/api/search", params={"q": f"red {number}", **slow})
            case 1:
                return client.get("/api/images/1/heatmap", params={"q": f"red {number}", **slow})
            case 2:
                return client.post("/api/embed", json={"texts": [f"red {number}"]}, params=slow)
            case 3:
                return client.put("/api/images/1/captions", json={"text": f"red {number}"})
            case _:
                files = {"file": image_bytes((number, 0, 0))}
                return client.post("/api/embed", files=files, params=slow)

    with ThreadPoolExecutor(45) as pool:
        hanging = [pool.submit(ask, number) for number in range(45)]
        assert endpoint.waiting.acquire(timeout=LONG_S)
        try:
            for number in range(60):  # more than there are threads in any pool
                assert (
                    client.get("/api/search", params={"q": f"blue {number}", "model": "starter"}).json()["total"] == 3
                )
                assert client.get("/healthz").status_code == 200
            assert client.get("/api/search").json()["total"] == 3
            assert client.get("/api/images/1/thumbnail").status_code == 200
            assert client.get("/api/compare", params={"q": "red", "models": "starter"}).status_code == 200
            assert client.get("/api/duplicates").status_code == 200
            assert not any(request.done() for request in hanging if request in hanging[0::5])
        finally:
            endpoint.release.set()
        assert {request.result().status_code for request in hanging} <= {200, 409}


def test_an_endpoint_of_the_command_line_answers_and_no_other_is_asked(silent, monkeypatch):
    client, endpoint, server = silent
    endpoint.is_silent = False
    monkeypatch.setenv("SIGHTLINE_ENDPOINT_KEY", "a secret that no address of a request's own may see")
    before = len(server.requests)
    assert client.get("/api/search", params={"q": "red"}).json()["model"] == client.slow_model
    assert len(server.requests) > before
    with MoodyServer(lambda payload: None) as other:
        for name in (f"endpoint:{other.url}", f"endpoint:{server.url}"):
            refused = client.get("/api/search", params={"q": "red", "model": name})
            assert refused.status_code == 409
        assert other.requests == []


def test_an_endpoint_can_not_call_its_model_by_an_address(tmp_path):
    """A library would hold its vectors under a name that leads elsewhere."""
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))
    endpoint = SilentEndpoint("starter")
    card = endpoint.card()
    endpoint.card = lambda: {**card, "name": "endpoint:http://127.0.0.1:9/"}
    with MoodyServer(endpoint) as server, pytest.raises(ModelError, match="name can't be used"):
        sl.Library.open(library, model=f"endpoint:{server.url}")


def test_a_slow_tool_holds_no_other_tool_up(tmp_path, monkeypatch):
    mcp_server = pytest.importorskip("sightline.faces.integrations.mcp_server", reason="needs the extra mcp")

    release, call = threading.Event(), mcp_server._call

    def call_slowly(library, tool, arguments):
        if tool.name == "search_images":
            assert release.wait(LONG_S)
        return call(library, tool, arguments)

    monkeypatch.setattr(mcp_server, "_call", call_slowly)
    library = index(tmp_path / "library", write_photos(tmp_path / "photos", ["red"]))

    async def ask(opened):
        server = mcp_server.LibraryServer(opened)
        async with anyio.create_task_group() as group:
            for _ in range(45):
                group.start_soon(server.call_tool, "search_images", {"query": "red"})
            await anyio.sleep(0)
            with anyio.fail_after(LONG_S / 2):
                stats = await server.call_tool("library_stats", {})
            release.set()
        return stats.structured_content["images"]

    with open_for_tools(library) as opened:
        assert anyio.run(ask, opened) == 1

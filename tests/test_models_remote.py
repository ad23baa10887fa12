"""Remote encoders and captioners, over an exported endpoint that really runs, also fails, and talks nonsense."""

import json
import threading

import numpy as np
import pytest

import sightline as sl
from captioning_fakes import paint
from indexing_world import write_photos
from model_folders import TEXTS, cosines, random_pixels
from moody_server import MoodyServer
from sightline.core.indexing.report import IndexConfig
from sightline.core.models.base import Captioner, Encoder, GenerationConfig
from sightline.core.models.cards import find_card
from sightline.core.models.json_client import PostLimits
from sightline.core.models.loading import load_captioner, load_encoder
from sightline.core.models.remote import (
    CostEstimate,
    Endpoint,
    RemoteCaptioner,
    RemoteConfig,
    RemoteEncoder,
    estimate_cost,
    load_remote_captioner,
    load_remote_encoder,
)
from sightline.core.search.engine import embed_image
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.endpoint_export import export_endpoint
from sightline.faces.integrations.endpoint_handler import EndpointHandler

QUICK = RemoteConfig(batch_size=4, limits=PostLimits(retry_wait_s=0.005, read_timeout_s=60, tries=3))
SIDE_PX, CAPTIONER_PX = (find_card(name).preprocessing.size_px for name in ("starter", "starter-captioner"))


@pytest.fixture(scope="module")
def handler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote") / "endpoint"
    export_endpoint("starter", folder, captioner="starter-captioner")
    return EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def local():
    return load_encoder("starter")


@pytest.fixture
def server(handler):
    with MoodyServer(handler) as running:
        yield running


@pytest.fixture
def remote(server):
    return RemoteEncoder(Endpoint(server.url, config=QUICK))


@pytest.fixture
def captioner(server):
    return RemoteCaptioner(Endpoint(server.url, config=QUICK))


def test_it_is_an_encoder_of_the_identity_that_the_model_has_here(remote, local):
    assert isinstance(remote, Encoder)
    assert remote.identity == local.identity
    assert remote.card.preprocessing == local.card.preprocessing
    assert remote.card.nats_per_cosine == local.card.nats_per_cosine
    assert (remote.dim, remote.precision) == (local.dim, local.precision)
    assert remote.runtime.startswith("endpoint:127.0.0.1:")


def test_vectors_and_maps_are_those_made_here(remote, local, server):
    pixels = random_pixels(9, SIDE_PX)
    assert cosines(remote.encode_images(pixels), local.encode_images(pixels)).min() >= 0.9999
    asked = [len(request["inputs"]) for request in server.requests if request["inputs"]]
    assert sorted(asked) == [1, 4, 4]
    texts = [*TEXTS, "a file \udcff name"]
    assert cosines(remote.encode_texts(texts), local.encode_texts(texts)).min() >= 0.9999
    here = local.encode_maps(pixels[:5])
    there = remote.encode_maps(pixels[:5])
    assert there.shape == here.shape
    np.testing.assert_allclose(there, here, atol=1e-3)
    assert remote.encode_images(pixels[:0]).shape == (0, remote.dim)
    assert remote.encode_texts([]).shape == (0, remote.dim)
    with pytest.raises(ModelError, match=r"takes uint8 pixels of shape \(B, 240, 240, 3\)"):
        remote.encode_images(pixels[:, :50])


def test_captions_and_scores_are_those_made_here(captioner):
    here = load_captioner()
    assert isinstance(captioner, Captioner)
    assert captioner.card.kind == "captioner"
    pixels = random_pixels(5, CAPTIONER_PX)
    config = GenerationConfig(beams=2, num_candidates=2, prompt="a")
    expected = here.generate(pixels, config)
    written = captioner.generate(pixels, config)
    assert [[one.text for one in several] for several in written] == [
        [one.text for one in several] for several in expected
    ]
    assert {(one.source, one.model) for several in written for one in several} == {("generated", "starter-captioner")}
    texts = [["a dog", "a man in the snow"], [], ["a car"], [], ["x " * 3000]]
    for several, theirs in zip(captioner.score(pixels, texts), here.score(pixels, texts), strict=True):
        np.testing.assert_allclose(several, theirs, atol=1e-4)
    assert captioner.generate(pixels[:0], config) == captioner.score(pixels[:0], []) == []
    with pytest.raises(InputError, match="give each image a list"):
        captioner.score(pixels, [])


def test_requests_run_beside_each_other_and_stay_in_order(handler):
    together = threading.Barrier(2, timeout=60)

    def answer(payload):
        if payload["inputs"] is None:
            return handler(payload)
        together.wait()
        return [[float(text == word) for word in ("one", "two", "three", "four")] for text in payload["inputs"]]

    with MoodyServer(answer) as server:
        endpoint = Endpoint(server.url, config=RemoteConfig(batch_size=1, connections=2, limits=QUICK.limits))
        encoder = RemoteEncoder(endpoint)
        encoder.dim = 4
        assert encoder.encode_texts(["one", "two", "three", "four"]).tolist() == np.eye(4).tolist()


def test_it_keeps_to_the_limits_that_the_endpoint_tells(handler):
    def answer(payload):
        answered = handler(payload)
        return {**answered, "limits": {"max_images": 2, "max_texts": "many"}} if payload["inputs"] is None else answered

    with MoodyServer(answer) as server:
        encoder = RemoteEncoder(Endpoint(server.url, config=QUICK))
        assert encoder.least_batch == 2 * QUICK.connections
        encoder.encode_images(random_pixels(5, SIDE_PX))
        encoder.encode_texts(["a"] * 5)
        assert sorted(len(request["inputs"]) for request in server.requests[1:]) == [1, 1, 2, 2, 4]


@pytest.mark.parametrize("mood", ["busy", "html", "breaking", "not_http"])
def test_a_passing_failure_costs_only_time(remote, local, server, mood):
    pixels = random_pixels(2, SIDE_PX)
    server.moods.extend([mood, mood])
    assert cosines(remote.encode_images(pixels), local.encode_images(pixels)).min() >= 0.9999
    assert len(server.requests) == 4


NONSENSE = {
    "words": ("hello", "doesn't consist of numbers"),
    "an object": ({"vectors": []}, "doesn't consist of numbers"),
    "ragged": ([[0.1], [0.1, 0.2]], "doesn't consist of numbers"),
    "too few": ([[1.0] + [0.0] * 383], r"\(1, 384\) instead of \(2, 384\)"),
    "of another dimension": ([[1.0, 0.0]] * 2, r"\(2, 2\) instead of \(2, 384\)"),
    "not finite": ([[float("nan")] * 384] * 2, "finite"),
    "zeros": ([[0.0] * 384] * 2, "length isn't 1"),
    "long": ([[5.0] * 384] * 2, "length isn't 1"),
    "none": (None, r"\(\) instead of|numbers"),
}


@pytest.mark.parametrize(("answer", "reason"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_and_named(remote, server, answer, reason):
    server.broken = lambda payload: answer
    with pytest.raises(ModelError, match=rf"127\.0\.0\.1:\d+ gives a vector that can't be used: .*({reason})"):
        remote.encode_images(random_pixels(2, SIDE_PX))
    with pytest.raises(ModelError, match="vector that can't be used"):
        remote.encode_texts(["a", "b"])


@pytest.mark.parametrize("answer", [[], [[[[1.0]]]], [[1.0]], "x", [[[[1.0] * 384]], [[[1.0] * 384] * 2]]])
def test_nonsense_for_maps_is_refused(remote, server, answer):
    server.broken = lambda payload: answer
    with pytest.raises(ModelError, match="feature map that can't be used"):
        remote.encode_maps(random_pixels(2, SIDE_PX))


def test_a_model_without_maps_has_none_here_too(remote, server):
    server.broken = lambda payload: None
    assert remote.encode_maps(random_pixels(2, SIDE_PX)) is None
    assert remote.encode_maps(random_pixels(0, SIDE_PX)) is None


@pytest.mark.parametrize(
    "answer",
    ["x", [], [["a"]], [[{"generated_text": 5, "log_prob": -1}]], [[{"generated_text": "a", "log_prob": "high"}]]],
)
def test_nonsense_for_captions_is_refused(captioner, server, answer):
    server.broken = lambda payload: answer
    with pytest.raises(ModelError, match="caption that can't be used"):
        captioner.generate(random_pixels(1, CAPTIONER_PX), GenerationConfig())


@pytest.mark.parametrize("answer", ["x", [], [[]], [["a"]], [[0.5]], [[True]], [[-1.0, -2.0]]])
def test_nonsense_for_scores_is_refused(captioner, server, answer):
    server.broken = lambda payload: answer
    with pytest.raises(ModelError, match="log-probability that can't be used"):
        captioner.score(random_pixels(1, CAPTIONER_PX), [["a dog"]])


def test_what_an_endpoint_writes_is_one_line_of_bounded_length(captioner, server):
    text = "\x1b[31ma dog\n" + "very " * 200
    server.broken = lambda payload: [[{"generated_text": text, "log_prob": -1.0}] * 9]
    ((caption,),) = captioner.generate(random_pixels(1, CAPTIONER_PX), GenerationConfig())
    assert caption.text.startswith("[31ma dog very very")
    assert caption.text.isprintable()
    assert len(caption.text) < 400


CARDS = {
    "no card": ("hello", "is no card"),
    "nothing served": ({"tasks": ["x\n"]}, "serves no encoder"),
    "not an object": ({"tasks": [], "encoder": "starter"}, "must be a JSON object"),
    "an unknown key": ({"tasks": [], "encoder": {"shell": 1}}, "unknown key 'shell'"),
    "a captioner": ({"kind": "captioner"}, "kind can't be used"),
    "no weights": ({"weights_hash": None}, "weights_hash can't be used"),
    "a bad name": ({"name": "a\x1b"}, "name can't be used"),
    "huge pixels": ({"image": {"size_px": 10**6, "resize": "crop"}}, "size_px can't be used"),
    "huge vectors": ({"dim": 10**9}, "dim can't be used"),
    "a bad temperature": ({"temperature": -1}, "temperature can't be used"),
    "bad channels": ({"image": {"size_px": 8, "resize": "crop", "std": [0, 0, 0]}}, "std positive"),
}


@pytest.mark.parametrize(("told", "reason"), CARDS.values(), ids=CARDS)
def test_cards_that_make_no_sense_are_refused(handler, told, reason):
    good = handler({"inputs": None, "parameters": {"task": "card"}})
    whole = not isinstance(told, dict) or "tasks" in told
    answer = told if whole else {**good, "encoder": {**good["encoder"], **told}}
    with MoodyServer(lambda payload: answer) as server, pytest.raises(ModelError, match=reason):
        RemoteEncoder(Endpoint(server.url, config=QUICK))


def test_a_model_that_is_exchanged_does_not_mix_its_vectors_in(remote, handler, server, monkeypatch):
    assert len(remote.encode_texts(["a"])) == 1
    told = handler({"inputs": None, "parameters": {"task": "card"}})["encoder"]
    assert server.requests[-1]["parameters"]["expects"] == told["weights_hash"]
    monkeypatch.setattr(remote.endpoint, "ask", lambda task, inputs, **rest: ask_other(remote, task, inputs))
    with pytest.raises(ModelError, match="The model of this endpoint was exchanged"):
        remote.encode_texts(["a"])


def ask_other(remote, task, inputs):
    return remote.endpoint._client.post({"inputs": inputs, "parameters": {"task": task, "expects": "of yesterday"}})


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_never_sent")
    assert load_remote_encoder(f"endpoint:{server.url}", config=QUICK).dim == 384
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv("SIGHTLINE_ENDPOINT_KEY", "k1")
    assert load_remote_captioner(f"endpoint:{server.url}", config=QUICK).card.name == "starter-captioner"
    assert server.headers[-1]["Authorization"] == "Bearer k1"


@pytest.mark.parametrize("name", ["batch_size", "connections"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(InputError, match=name):
        RemoteConfig(**{name: 0})  # type: ignore[arg-type]


# --- indexing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path, remote, monkeypatch):
    """A library whose model computes behind the endpoint."""
    monkeypatch.setattr("sightline.core.models.loading.load_encoder", lambda name: remote)
    with sl.Library.open(tmp_path / "library", model="starter") as opened:
        yield opened


def test_indexing_and_searching_work_as_with_the_model_here(library, tmp_path, local):
    for colour in ("red", "green", "blue", "white"):
        paint(tmp_path / "photos" / f"{colour}.png", colour)
    assert library.index(tmp_path / "photos").added == 4
    there = [(hit.image.relative, hit.similarity) for hit in library.search("something red")]
    library._encoders["starter"] = local  # vectors made there, words embedded here
    here = [(hit.image.relative, hit.similarity) for hit in library.search("something red")]
    assert [name for name, _ in there] == [name for name, _ in here]
    assert [similarity for _, similarity in there] == pytest.approx([similarity for _, similarity in here], abs=1e-3)


def test_indexing_that_loses_its_endpoint_keeps_what_it_has_and_resumes(library, tmp_path, server, local):
    photos = write_photos(tmp_path / "photos", 20)
    config = IndexConfig(max_batch_size=4, readers=1)
    good, answered = server.answer, []

    def answer_two_batches(payload):
        if len(answered) >= 2:
            raise ValueError("the machine is gone")
        answered.append(len(payload["inputs"]))
        return good(payload)

    server.answer = answer_two_batches
    with pytest.raises(ModelError, match="the machine is gone"):
        library.index(tmp_path / "photos", config=config)
    kept = library.store.stats().models["starter"]
    assert kept == sum(answered) > 0
    server.answer = good
    server.requests.clear()
    report = library.index(tmp_path / "photos", config=config)
    assert (report.embedded, report.unchanged) == (len(photos) - kept, kept)
    assert sum(len(request["inputs"]) for request in server.requests) == len(photos) - kept
    ids, there = library.store.vectors("starter")
    here = [embed_image(local, record.path) for record in library.store.get(ids.tolist())]
    assert len(ids) == 20
    assert cosines(there, np.stack(here)).min() > 0.999  # kept in half precision


def test_indexing_waits_for_an_endpoint_that_is_only_busy(library, tmp_path, server):
    write_photos(tmp_path / "photos", 6)
    server.moods.extend(["busy", "good", "busy"])
    assert library.index(tmp_path / "photos").embedded == 6


# --- cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_run_is_images_times_seconds_times_price():
    estimate = CostEstimate(images=90_000, image_s=0.04, price_per_hour=0.5)
    assert estimate.seconds == pytest.approx(3600)
    assert estimate.price == pytest.approx(0.5)
    assert estimate.describe() == "90,000 images, 25.0 images/s: about 1 h 0 min, about 0.50 at 0.50 an hour"
    assert CostEstimate(images=10, image_s=0.1).describe() == "10 images, 10.0 images/s: about 1 min"
    assert CostEstimate(images=10, image_s=0.1).price is None


def test_the_time_of_an_image_is_measured_on_full_batches(remote, server):
    estimate = estimate_cost(remote, 1_000, price_per_hour=1.0, rounds=1)
    assert estimate.image_s > 0
    assert estimate.price == pytest.approx(estimate.image_s * 1_000 / 3600)
    assert [len(request["inputs"]) for request in server.requests[1:]] == [4, 4] * 2


@pytest.mark.parametrize(
    "wrong", [{"images": -1}, {"rounds": 0}, {"price_per_hour": -1}, {"price_per_hour": float("nan")}]
)
def test_costs_of_nonsense_are_refused(remote, wrong):
    with pytest.raises(InputError, match="must not be negative"):
        estimate_cost(remote, **{"images": 1, **wrong})


def test_answers_are_json_so_nothing_of_it_can_run(server, remote):
    """What leaves is JSON too: pixels as PNG in base64, and no path of this machine."""
    remote.encode_images(random_pixels(1, SIDE_PX))
    sent = json.dumps(server.requests[-1])
    assert set(server.requests[-1]) == {"inputs", "parameters"}
    assert "/" not in sent.replace(server.requests[-1]["inputs"][0], "")

"""JSON requests to servers that fail in every way."""

import time
from typing import Any

import pytest

from moody_server import MoodyServer
from sightline.core.models import json_client
from sightline.core.models.json_client import JsonClient, PostLimits
from sightline.errors import InputError, ModelError

QUICK: dict[str, Any] = {"retry_wait_s": 0.005, "read_timeout_s": 60, "tries": 3}
IMPATIENT = {**QUICK, "read_timeout_s": 0.15}
"""With servers that never answer: a good answer may take longer where a machine is busy."""


@pytest.fixture
def server():
    with MoodyServer(lambda payload: {"you sent": payload}) as running:
        yield running


def poster(server, **limits):
    return JsonClient(server.url, limits=PostLimits(**{**QUICK, **limits}))


def test_json_goes_out_and_comes_back_over_one_connection(server):
    client = poster(server)
    assert client.post({"a": ["é", 1.5]}) == {"you sent": {"a": ["é", 1.5]}}
    assert client.post({"a": None}) == {"you sent": {"a": None}}
    assert "Authorization" not in server.headers[0]
    client.close()


@pytest.mark.parametrize("mood", ["busy", "stalling", "html", "not_http", "breaking"])
def test_what_may_pass_is_tried_again(server, mood):
    server.moods.extend([mood, mood])
    stalls = mood == "stalling"
    limits = {**IMPATIENT, "tries": 100} if stalls else QUICK
    assert poster(server, **limits).post({}) == {"you sent": {}}
    assert len(server.requests) == 3 or (stalls and len(server.requests) > 3)


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("busy", "HTTP 503 "),
        ("stalling", "no answer in time"),
        ("html", "its answer is no JSON"),
        ("not_http", r"the connection broke off \(RemoteProtocolError\)"),
        ("breaking", "the connection broke off"),
    ],
)
def test_tries_end(server, mood, reason):
    server.broken = mood
    limits = IMPATIENT if mood == "stalling" else QUICK
    with pytest.raises(ModelError, match=rf"127\.0\.0\.1:\d+ failed: {reason}.*tried 3 times"):
        poster(server, **limits).post({})
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("locked", "refuses access"),
        ("refusing", r"HTTP 400\): no \[31mred lines"),
        ("redirecting", "redirects to 'http://127.0.0.1:9/elsewhere'"),
        ("endless", "more than 100,000 bytes"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server, mood, reason):
    server.broken = mood
    with pytest.raises(ModelError, match=reason):
        poster(server, max_answer_bytes=100_000).post({})
    assert len(server.requests) == 1


def test_an_answer_that_only_drips_ends_in_time(server):
    server.broken = "dripping"
    with pytest.raises(ModelError, match="no whole answer in time"):  # the server never stops
        poster(server, read_timeout_s=60, total_timeout_s=0.2, tries=1).post({})


def test_retry_after_is_waited_for(server):
    server.moods.append("limited")
    started = time.monotonic()
    assert poster(server).post({})
    assert time.monotonic() - started >= 1


def test_a_server_that_wants_a_day_is_not_waited_for(server):
    server.broken = "limited_for_long"
    with pytest.raises(ModelError, match=r"HTTP 429; it asks to wait 86,400 s \(tried 1 time\)"):
        poster(server).post({})


def test_waits_double_with_jitter_and_a_bound(monkeypatch):
    def fail(payload):
        raise json_client._Passing("busy")

    waits = []
    client = JsonClient("http://127.0.0.1:9", limits=PostLimits(retry_wait_s=1, longest_wait_s=5, tries=6))
    monkeypatch.setattr(client, "_try", fail)
    monkeypatch.setattr("time.sleep", waits.append)
    for _ in range(50):
        with pytest.raises(ModelError, match="tried 6 times"):
            client.post({})
    for tried, longest_s in enumerate((1, 2, 4, 5, 5)):
        assert longest_s / 2 <= min(waits[tried::5]) < max(waits[tried::5]) <= longest_s


def test_nobody_there_is_told_soon():
    with pytest.raises(ModelError, match=r"no connection .*tried 2 times"):
        JsonClient("http://127.0.0.1:9", limits=PostLimits(retry_wait_s=0.001)).post({})


def test_requests_keep_to_a_rate(server):
    client = poster(server, requests_per_minute=60 / 0.05)
    started = time.monotonic()
    for _ in range(4):
        client.post({})
    assert time.monotonic() - started >= 3 * 0.05


def test_a_key_is_sent_as_a_bearer_token_and_never_shown(server):
    client = JsonClient(server.url, key="sk-secret", limits=PostLimits(**QUICK))
    client.post({})
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    server.broken = "locked"
    with pytest.raises(ModelError) as error:
        client.post({})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "key", "reason"),
    [
        ("ftp://x.org", None, "must begin with https"),
        ("file:///etc/passwd", None, "must begin with https"),
        ("x.org/path", None, "must begin with https"),
        ("http://[::1", None, "is no address"),
        ("https://user:pass@x.org", None, "must not hold a user name"),
        ("http://x.org", "k", "would travel unencrypted"),
        ("https://x.org", "k\nX-Evil: 1", "printable ASCII"),
        ("https://x.org", " ", "printable ASCII"),
    ],
)
def test_addresses_and_keys_that_are_refused(url, key, reason):
    with pytest.raises(InputError, match=reason):
        JsonClient(url, key=key)


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.0.0.1:1", "http://[::1]:1", "https://x.org"])
def test_a_key_may_go_to_this_machine_and_over_https(url):
    assert JsonClient(url, key="k").name


@pytest.mark.parametrize(
    "change", [{"tries": 0}, {"read_timeout_s": 0}, {"requests_per_minute": 0}, {"retry_wait_s": -1}]
)
def test_limits_that_allow_nothing_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        PostLimits(**change)

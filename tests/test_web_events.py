import asyncio
import json
import threading

import pytest

pytest.importorskip("fastapi")

from sightline.faces.web import events as events_module
from sightline.faces.web.events import Events
from web_world import PATIENCE_S


def parse(chunk):
    """One event as it goes over the wire -> its fields."""
    fields = dict(line.split(": ", 1) for line in chunk.decode().strip().splitlines())
    return {"event": fields.get("event"), "id": fields.get("id"), "data": json.loads(fields.get("data", "null"))}


async def take(stream, count):
    return [parse(await asyncio.wait_for(anext(stream), PATIENCE_S)) for _ in range(count)]


def follow(scenario):
    return asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


def test_a_newcomer_is_told_what_lasts_and_then_what_happens():
    async def scenario():
        events = Events()
        events.publish("job", "old", '{"state": "done"}', lasting=False)
        events.publish("job", "new", '{"state": "running"}')
        stream = events.stream()
        _, first, ping = await take(stream, 3)
        events.publish("job", "old", '{"state": "queued"}')
        (second,) = await take(stream, 1)
        await stream.aclose()  # type: ignore[attr-defined]
        return first, ping, second

    first, ping, second = follow(scenario())
    assert (first["event"], first["data"]) == ("job", {"state": "running"})
    assert (ping["event"], ping["id"]) == ("ping", first["id"])
    assert second["data"] == {"state": "queued"}
    assert second["id"] != first["id"]


def test_a_client_that_comes_back_is_told_exactly_what_changed_since():
    async def scenario():
        events = Events()
        events.publish("job", "a", "1")
        events.publish("job", "b", "2")
        *_, ping = await take(events.stream(), 4)
        events.publish("job", "b", "3", lasting=False)
        events.publish("library", "x", "4")
        again = events.stream(last_id=ping["id"])
        _, *told = await take(again, 3)
        unchanged = events.stream(last_id=told[-1]["id"])
        _, nothing = await take(unchanged, 2)
        return told, nothing

    told, nothing = follow(scenario())
    assert [(event["event"], event["data"]) for event in told] == [("job", 3), ("library", 4)]
    assert nothing["event"] == "ping"


@pytest.mark.parametrize("last_id", ["", "0-1", "nonsense", "12-٣", "-", "0-" + "9" * 90])
def test_an_id_of_another_start_counts_as_none(last_id):
    async def scenario():
        events = Events()
        events.publish("job", "a", "1")
        _, told, ping = await take(events.stream(last_id=last_id), 3)
        return told, ping

    told, ping = follow(scenario())
    assert (told["data"], ping["event"]) == (1, "ping")


def test_a_slow_client_gets_the_latest_state_only_and_holds_nobody_up():
    async def scenario():
        events = Events()
        slow, quick = events.stream(), events.stream()
        await take(slow, 2)
        await take(quick, 2)
        seen = []
        for number in range(1000):
            events.publish("job", "a", str(number))
            if number % 100 == 0:
                seen += await take(quick, 1)
        events.publish("job", "b", '"other"')
        late = await take(slow, 2)
        return seen, late

    seen, late = follow(scenario())
    assert [event["data"] for event in seen] == list(range(0, 1000, 100))
    assert [event["data"] for event in late] == [999, "other"]


def test_threads_publish_to_many_clients():
    async def scenario():
        events = Events()
        streams = [events.stream() for _ in range(200)]
        for stream in streams:
            await take(stream, 2)
        threading.Thread(target=events.publish, args=("job", "a", "7")).start()
        return [(await take(stream, 1))[0]["data"] for stream in streams]

    assert follow(scenario()) == [7] * 200


def test_a_stream_pings_while_nothing_happens_and_is_told_only_what_it_wants(monkeypatch):
    monkeypatch.setattr(events_module, "PING_S", 0.05)

    async def scenario():
        events = Events()
        stream = events.stream(wanted=lambda event: event.subject == "mine")
        _, first = await take(stream, 2)
        events.publish("job", "other", "1")
        (ping,) = await take(stream, 1)
        events.publish("job", "mine", "2")
        rest = []
        while not rest or rest[-1]["event"] == "ping":
            rest += await take(stream, 1)
        return first, ping, rest[-1]

    first, ping, mine = follow(scenario())
    assert ping["event"] == "ping"
    assert ping["id"] != first["id"]  # a client that comes back is not told of what it did not want
    assert mine["data"] == 2


def test_closing_ends_streams_that_are_open_and_those_that_come():
    async def scenario():
        events = Events()
        stream = events.stream()
        await take(stream, 2)
        threading.Thread(target=events.close).start()
        rest = [chunk async for chunk in stream]
        return rest, [parse(chunk)["event"] async for chunk in events.stream()]

    assert follow(scenario()) == ([], [None, "ping"])


def test_a_forgotten_subject_is_told_to_nobody():
    async def scenario():
        events = Events()
        events.publish("job", "a", "1")
        events.forget("job", "a")
        events.forget("job", "never")
        _, ping = await take(events.stream(), 2)
        return ping

    assert follow(scenario())["event"] == "ping"

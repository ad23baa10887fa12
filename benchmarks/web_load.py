"""The web app under use: a person who types, 32 programs that search, 10,000 requests in a row. A real server process.

python benchmarks/web_load.py [--photos DIR] [--quick]      without DIR as many small pictures are rendered

The goals are meant for 7,000 photos of Flickr8k: `--photos ../shared/data/flickr8k/Images`. Programs send their
requests when they are due, whether earlier ones were answered or not, so that waiting in a queue counts. Clients and
browser run on the same processors as the server.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from report import Row, show
from web_server import Server, serve
from web_typing import type_sentences

import sightline as sl

CLIENTS, REQUESTS_PER_S = 32, 50
_WORDS = (
    ("two dogs", "a man in a red shirt", "children", "a woman", "three people", "a climber", "a white horse"),
    ("running", "waiting", "playing football", "on a bicycle", "jumping", "sitting"),
    ("on the beach", "in the snow", "near the water", "at night", "in front of a house", "on a rock"),
)
_SENTENCES = ("two dogs running on the beach", "a man climbing a rock", "children playing football", "snowy mountains")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    photos: int
    sentences: int
    load_s: int
    requests: int


FULL = Size(photos=7000, sentences=4, load_s=20, requests=10_000)
QUICK = Size(photos=150, sentences=1, load_s=2, requests=400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photos to index")
    parser.add_argument("--quick", action="store_true", help="150 pictures and some seconds: a smoke run")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        photos = options.photos or _render(Path(scratch) / "photos", count=size.photos)
        library = Path(scratch) / "library"
        count = _index(photos, library)
        with serve(library):
            pass  # compiles modules, and has their files read, as an earlier start of the user's did
        with serve(library) as server:
            rows = [*_start(server), *_typing(server, size), *_load(server, size), *_memory(server, size)]
    rows = [dataclasses.replace(row, journey=f"{row.journey}, {count:,} photos") for row in rows]
    show("web_load-quick" if options.quick else "web_load", rows)


def _start(server: Server) -> list[Row]:
    first_s = server.first_page_s
    page = Row(journey="process to first page", unit="s", ours=first_s, goal="<= 1 s", reached=first_s <= 1)
    return [page, Row(journey="process to model loaded", unit="s", ours=server.ready_s)]


def _typing(server: Server, size: Size) -> list[Row]:
    """From a key to its results in the window, for every key of some sentences."""
    times = type_sentences(server.address, _SENTENCES[: size.sentences])
    if times is None:
        return []
    drawn, complete = times
    return [
        _quantile("key press to new results drawn", drawn, 50, goal_ms=150),
        _quantile("key press to new results drawn", drawn, 95, goal_ms=300),
        _quantile("key press to all pictures in the window", complete, 50),
        _quantile("key press to all pictures in the window", complete, 95),
    ]


def _load(server: Server, size: Size) -> list[Row]:
    """Searches of different words, at a steady rate, by many clients."""
    queries = [*itertools.islice(_queries(), REQUESTS_PER_S * size.load_s)]
    start_s = time.perf_counter() + 0.2

    def run_client(number: int) -> tuple[list[float], int]:
        connection, waits_ms, errors = server.connect(), [], 0
        for turn in range(number, len(queries), CLIENTS):
            due_s = start_s + turn / REQUESTS_PER_S
            time.sleep(max(0.0, due_s - time.perf_counter()))
            connection.request("GET", f"/api/search?q={queries[turn]}")
            answer = connection.getresponse()
            errors += not answer.read().startswith(b'{"hits":[{') or answer.status != 200
            waits_ms.append(1000 * (time.perf_counter() - due_s))
        connection.close()
        return waits_ms, errors

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = [*pool.map(run_client, range(CLIENTS))]
    waits_ms = [wait for waits, _ in done for wait in waits]
    failed = sum(errors for _, errors in done)
    journey = f"{REQUESTS_PER_S} searches/s by {CLIENTS} clients"
    return [
        _quantile(journey, waits_ms, 50),
        _quantile(journey, waits_ms, 95, goal_ms=500),
        Row(journey=f"{journey}: errors", unit="", ours=failed, goal="0", reached=failed == 0),
    ]


def _memory(server: Server, size: Size) -> list[Row]:
    """What the server holds after a tenth of many requests, and after all."""
    if server.memory_mb is None:
        print("Memory is measured on Linux only.")
        return []
    addresses = [*itertools.islice(_requests(server), size.requests)]
    warm = size.requests // 10
    _ask(server, addresses[:warm])
    before_mb = server.memory_mb
    started_s = time.perf_counter()
    _ask(server, addresses[warm:])
    took_s = time.perf_counter() - started_s
    grown_mb = server.memory_mb - before_mb
    journey = f"memory, {size.requests:,} requests"
    return [
        Row(journey=f"{journey}: at first", unit="MB", ours=before_mb),
        Row(journey=f"{journey}: more in the end", unit="MB", ours=grown_mb, goal="<= 10", reached=grown_mb <= 10),
        Row(journey="requests one after another, 8 clients", unit="requests/s", ours=(size.requests - warm) / took_s),
    ]


def _ask(server: Server, addresses: Sequence[str]) -> None:
    def run_client(number: int) -> None:
        connection = server.connect()
        for address in addresses[number::8]:
            connection.request("GET", address)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{address}: {answer.status}")
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run_client, range(8)))


def _requests(server: Server) -> Iterator[str]:
    """What pages ask for: searches, thumbnails, pictures' facts."""
    hits = server.get_json("/api/search?limit=500")["hits"]
    for number, query in enumerate(_queries()):
        hit = hits[number % len(hits)]
        yield f"/api/search?q={query}"
        yield hit["thumbnail"]
        yield f"/api/images/{hit['id']}"


def _queries() -> Iterator[str]:
    """Different words each time."""
    for number in itertools.count():
        for words in itertools.product(*_WORDS):
            yield quote(" ".join([*words, *([f"number {number}"] if number else [])]))


def _quantile(journey: str, times_ms: Sequence[float], percent: int, *, goal_ms: float | None = None) -> Row:
    value = statistics.quantiles(times_ms, n=100, method="inclusive")[percent - 1]
    return Row(
        journey=f"{journey}, p{percent}",
        unit="ms",
        ours=value,
        goal="" if goal_ms is None else f"<= {goal_ms:g} ms",
        reached=None if goal_ms is None else value <= goal_ms,
    )


def _index(photos: Path, folder: Path) -> int:
    with sl.Library.open(folder, model="starter") as library:
        report = library.index(photos)
    print(f"indexed {report.added:,} photos in {report.seconds:.1f} s", flush=True)
    return report.added


def _render(folder: Path, *, count: int) -> Path:
    """Small pictures of soft colours, each different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(folder / f"{number:05}.jpg", quality=85)
    return folder


if __name__ == "__main__":
    main()

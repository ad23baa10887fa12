"""`sightline mcp` under load: memory over a thousand calls, and what searches of 7,000 photos cost."""

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")
pytest.importorskip("fastapi")

import sightline as sl
from conftest import SHARED_DATA
from test_integrations_mcp_server import assistant
from web_world import index, write_many

pytestmark = pytest.mark.slow

CALLS = 1000
MAX_GROWTH_BYTES = 12 * 2**20
MAX_CPU_S = 0.1
"""Of the processor for a search, which other work on the machine doesn't change."""
WORDS = ("a dog", "two people on a beach", "a red car", "children playing", "a mountain in the snow", "a man climbing")


def find_server():
    """The process id of the server that this process started."""
    children = Path("/proc/self/task").glob("*/children")
    started = {int(pid) for file in children for pid in file.read_text().split()}
    (server,) = [pid for pid in started if b"\0mcp\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return server


def resident_bytes(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def call_all(connected, number):
    """One of each tool's calls, the wrong ones too."""
    match number % 8:
        case 0 | 1 | 2:
            connected.ask("search_images", query=f"{WORDS[number % len(WORDS)]} {number}", limit=10)
        case 3:
            connected.ask("search_images", query=WORDS[number % len(WORDS)], limit=5, pictures=3)
        case 4:
            connected.ask("similar_images", image_id=1 + number % 100)
        case 5:
            connected.ask("describe_image", image_id=1 + number % 100)
        case 6:
            connected.fail("search_images", limit=-number)
        case _:
            connected.ask("library_stats")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_calls_in_a_row_leave_memory_flat(tmp_path):
    library = index(tmp_path / "library", write_many(tmp_path / "photos", 120))
    with assistant(library, log=tmp_path / "log", home=tmp_path) as connected:
        server = find_server()
        connected.ask("caption_image", image_id=1)
        for number in range(300):  # what is kept (rankings, arenas of allocators) reaches its limits
            call_all(connected, number)
        before = resident_bytes(server)
        for number in range(CALLS):
            call_all(connected, 300 + number)
        growth = resident_bytes(server) - before
    print(f"resident {before / 2**20:.1f} MiB before, {growth / 2**20:+.2f} MiB after {CALLS} calls")
    assert growth < MAX_GROWTH_BYTES


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def time_searches(connected, count):
    """Kind of search -> the seconds that each of `count` took, as the client sees them."""
    seconds = {"words": [], "words and an image": [], "with 3 pictures": []}
    for number in range(count):
        words = f"{WORDS[number % len(WORDS)]} {number}"  # no two searches are alike: none is answered from memory
        asked: dict[str, dict[str, Any]] = {
            "words": {"query": words},
            "words and an image": {"query": words, "parts": [{"image_id": 1 + 100 * number, "weight": 0.5}]},
            "with 3 pictures": {"query": f"{words}.", "pictures": 3},
        }
        for kind, arguments in asked.items():
            start_s = time.perf_counter()
            connected.ask("search_images", **arguments)
            seconds[kind].append(time.perf_counter() - start_s)
    return seconds


@pytest.mark.shared
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_search_of_7000_photos_takes_little_of_the_processor(tmp_path):
    with sl.Library.open(tmp_path / "library", model="starter") as opened:
        opened.index(SHARED_DATA / "flickr8k" / "Images")
        assert opened.info()["images"] >= 7000
    with assistant(tmp_path / "library", log=tmp_path / "log", home=tmp_path) as connected:
        connected.ask("search_images", query="warm")
        server, count = find_server(), 40
        before_s = cpu_seconds(server)
        seconds = time_searches(connected, count)
        cpu_s = (cpu_seconds(server) - before_s) / (len(seconds) * count)
    medians = {kind: statistics.median(taken) for kind, taken in seconds.items()}
    told = {kind: f"{1000 * median_s:.0f} ms" for kind, median_s in medians.items()}
    print(f"{told}, {1000 * cpu_s:.1f} ms of the processor's time a search")
    assert cpu_s < MAX_CPU_S

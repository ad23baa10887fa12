"""The table that `make bench` writes."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import table

ROW = {
    "journey": "index a | b",
    "unit": "images/s",
    "ours": 1234.5,
    "other": 12.345,
    "alternative": "rclip's way",
    "ratio": 3.456,
    "goal": ">= 3 times",
    "reached": True,
    "limit": "",
}
ALONE = {**ROW, "other": None, "ratio": None, "alternative": "", "ours": 0.1234, "goal": "<= 0.1 s", "reached": False}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    written = {"name": "indexing", "machine": "a CPU, 2 cores", "date": "2026-01-02", "rows": [ROW, ALONE]}
    (folder / "indexing.json").write_text(json.dumps(written))
    return folder


def test_rows_say_what_was_reached_and_what_was_not(results):
    lines = table.make_tables(results).splitlines()
    assert lines[0] == "**indexing** (a CPU, 2 cores, 2026-01-02)"
    expected = "| index a / b | 1,234 images/s | 12.3 images/s (rclip's way) | 3.46 | >= 3 times: reached |  |"
    assert lines[4] == expected
    assert lines[5] == "| index a / b | 0.123 images/s |  |  | <= 0.1 s: **missed** |  |"


def test_what_was_written_by_hand_stays(tmp_path, results):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_tables(page, results)
    table.write_tables(page, results)
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n\n**indexing**")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text


def test_a_page_without_marks_is_refused(tmp_path, results):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="must hold the lines"):
        table.write_tables(page, results)
    assert page.read_text() == "no marks"


def test_the_page_of_this_checkout_has_its_marks():
    text = table.PAGE.read_text(encoding="utf-8")
    assert (text.count(table.BEGIN), text.count(table.END)) == (1, 1)

"""Scripts that only compute: rows of pictures, queries as text and as addresses, filters, numbers."""

from itertools import pairwise

import pytest


@pytest.fixture(scope="module")
def scripts(browser, address):
    """Calls a function of a module: `scripts("search/layout.js", "justify", ...)`."""
    context = browser.new_context(base_url=address)
    page = context.new_page()
    page.goto("/")

    def call(module, name, *given):
        script = "([module, name, given]) => import(`/static/js/${module}`).then((found) => found[name](...given))"
        return page.evaluate(script, [module, name, list(given)])

    yield call
    context.close()


SHAPES = [[1.5] * 60, [0.66, 1.5, 1, 1.33, 0.75] * 12, [3.5, 0.2] * 30, [1.78] * 7 + [0.4] * 13, [1.0]]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("width", [380, 1220, 2400])
def test_rows_fill_the_width_and_are_about_as_high_as_wanted(scripts, shapes, width):
    frame = {"width": width, "rowHeight": 200, "gap": 6, "isLast": False}
    layout = scripts("search/layout.js", "justify", shapes, frame)
    rows = {}
    for box, row in zip(layout["boxes"], layout["rowOf"], strict=True):
        rows.setdefault(row, []).append(box)
    for boxes in rows.values():
        assert boxes[0]["x"] == 0
        assert boxes[-1]["x"] + boxes[-1]["width"] == width
        assert all(b["x"] == a["x"] + a["width"] + 6 for a, b in pairwise(boxes))
        assert len({box["height"] for box in boxes}) == 1
    if len(shapes) == 60 and width >= 1220:
        heights = [boxes[0]["height"] for boxes in rows.values()]
        assert 120 < min(heights) <= max(heights) < 330


def test_the_last_row_of_all_is_not_stretched(scripts):
    frame = {"width": 1200, "rowHeight": 200, "gap": 6, "isLast": True}
    layout = scripts("search/layout.js", "justify", [1.5, 1.5], frame)
    assert [(box["width"], box["height"]) for box in layout["boxes"]] == [(300, 200), (300, 200)]
    assert layout["height"] == 206
    assert scripts("search/layout.js", "justify", [], frame) == {"boxes": [], "rowOf": [], "height": 0}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("two dogs", [("two dogs", 1)]),
        ("beach - people + 2:snow", [("beach", 1), ("people", -1), ("snow", 2)]),
        ("- people", [("people", -1)]),
        ("t-shirt at 10:30", [("t-shirt at 10:30", 1)]),
        (".5:sun", [("sun", 0.5)]),
        ("beach -", [("beach", 1)]),
        ("  ", []),
        ("+ - +", []),
    ],
)
def test_the_box_reads_the_query_language(scripts, text, parts):
    found = scripts("search/query.js", "parseText", text)
    assert [(part["text"], part["weight"]) for part in found] == parts


def test_an_address_gives_the_query_back(scripts):
    query = {
        "text": "a + b & c=d",
        "parts": [
            {"kind": "text", "text": "50% @ home: #1", "weight": -0.5},
            {"kind": "image", "id": 12, "weight": 2},
            {"kind": "upload", "key": "ab" * 16, "weight": 1},
        ],
        "filters": {
            "after": "2024-01-01", "before": "", "folder": "/photos/it's", "size": "large", "shape": "square",
            "camera": "Canon", "captions": "no", "where": "width > 3",
        },
        "match": "pictures",
        "plain": "places",
        "min": "0.25",
        "newest": True,
        "again": True,
        "model": "starter",
    }  # fmt: skip
    address = scripts("search/query.js", "toAddress", query)
    assert scripts("search/query.js", "fromAddress", address) == query
    nonsense = scripts("search/query.js", "fromAddress", "?p=x&p=0:a&p=1@b&match=all&plain=all&min=much")
    assert nonsense["parts"] == []
    assert [nonsense[name] for name in ("match", "plain", "min", "again", "newest")] == ["both", "", "", False, False]


@pytest.mark.parametrize(
    ("hit", "text"),
    [
        ({"probability": None, "similarity": 0.2871}, "0.287"),
        ({"probability": 0.834, "similarity": 0.2871}, "83%"),
        ({"probability": 0.9999, "similarity": 0.5}, "99%"),
        ({"probability": 0.0001, "similarity": -0.5}, "1%"),
        ({"probability": None, "similarity": None}, None),
    ],
)
def test_how_well_an_image_fits_is_told_by_its_probability_if_that_is_known(scripts, hit, text):
    assert scripts("format.js", "formatMatch", hit) == text


def test_filters_are_quoted(scripts):
    nothing = dict.fromkeys(("after", "before", "folder", "size", "shape", "camera", "captions", "where"), "")
    where = scripts("search/where.js", "makeWhere", {**nothing, "camera": "o'Neil", "folder": "/a/it's/"})
    assert (
        where == "(folder = '/a/it''s' or (folder >= '/a/it''s/' and folder < '/a/it''s0')) and camera like '%o''Neil%'"
    )
    assert scripts("search/where.js", "makeWhere", nothing) == ""


def test_a_cursor_is_moved(scripts):
    import base64

    def write(fields):
        return base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")

    assert scripts("search/cursor.js", "cursorAt", write('["a?>","v",60]'), 7000) == write('["a?>","v",7000]')


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("formatBytes", 999, "999 bytes"),
        ("formatBytes", 1_234_567, "1.2 MB"),
        ("formatDuration", 0.2, "1 ms"),
        ("formatDuration", 61_000, "1 min"),
        ("formatSimilarity", -0.1234, "−0.123"),
        ("formatRate", 3.14159, "3.1/s"),
        ("formatRate", 0.02, "1.2/min"),
        ("formatMonth", "2024-05-01T12:30:00", "May 2024"),
        ("formatMoment", "no date", "no date"),
        ("baseName", "/a/b c/", "b c"),
    ],
)
def test_numbers_and_dates_as_people_read_them(scripts, name, value, text):
    assert scripts("format.js", name, value) == text

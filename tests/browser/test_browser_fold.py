"""What is less likely is folded away below the likely, and comes when it is asked for; what is said of a query.

The answers are the server's, but for what they say of likelihood, which is made up here.
"""

import base64
import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from browser.waiting import seen, wait_at_rest, wait_until

NEAREST = "Nothing here matches; the nearest images follow."
INDICES = "() => [...document.querySelectorAll('.tile a')].map((link) => Number(link.dataset.index))"


@pytest.fixture
def told(open_page):
    """Opens a page whose searches by words say what is given: how many are `likely` (`None`: unsaid), and `notices`."""

    pages = []

    def open_(path, *, likely=None, notices=(), **options):
        page = open_page("/?size=large", **options)
        pages.append(page)

        def tell(route):
            answer = route.fetch(url=f"{route.request.url}&each_copy=true")  # the big library has few contents
            found = json.loads(answer.text())
            if likely is None:
                found["verdict"] = None
                for hit in found["hits"]:
                    hit["probability"] = None
            elif found["parts"]:
                verdict = {"present": 0.9, "matches": likely > 0, "likely": likely, "unlikely_below": 0.2}
                found["verdict"] = {**verdict, "notices": list(notices)}
                first = _offset_of(route.request.url)
                for at, hit in enumerate(found["hits"], start=first):
                    hit["probability"] = 0.9 if at < likely else 0.1
            route.fulfill(response=answer, body=json.dumps(found))

        page.route(re.compile(r"/api/search\?"), tell)
        page.goto(path)
        return page

    yield open_
    for page in pages:
        page.unroute_all(behavior="ignoreErrors")  # a search may be under way when a test ends


def _offset_of(address):
    cursor = parse_qs(urlsplit(address).query).get("cursor")
    return json.loads(base64.urlsafe_b64decode(cursor[0] + "==="))[-1] if cursor else 0


def scroll_down(page):
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    wait_at_rest(page)


def test_only_the_likely_are_on_the_wall_until_the_others_are_asked_for(told):
    page = told("/?q=a+cup+of+coffee&library=big", likely=130)
    page.locator("#count", has_text="130 likely of 100,000").wait_for()
    scroll_down(page)
    wait_until(page, f"({INDICES})().includes(129)")
    assert max(page.evaluate(INDICES)) == 129
    seen(page, "99,870 less likely pictures").wait_for()
    below = page.evaluate("document.documentElement.scrollHeight")
    page.get_by_role("button", name="Show them").click()
    wait_until(page, f"({INDICES})().includes(130)")
    assert page.evaluate("document.documentElement.scrollHeight") > 100 * below
    line = seen(page, "Less likely", exact=True)
    above, under = (page.locator(f".tile a[data-index='{at}']").bounding_box() for at in (129, 130))
    assert above["y"] + above["height"] <= line.bounding_box()["y"] < under["y"]
    wait_until(page, "document.activeElement.dataset.index === '130'")
    page.get_by_role("button", name="Hide them").click()
    wait_until(page, f"Math.max(...({INDICES})()) === 129")
    wait_until(page, "document.activeElement.dataset.index === '129'")


def test_every_picture_is_there_once_however_it_is_unfolded(told):
    page = told("/?q=a+cup+of+coffee&library=big", likely=70)
    page.locator("#count", has_text="70 likely").wait_for()
    scroll_down(page)
    page.get_by_role("button", name="Show them").click()
    wait_until(page, f"({INDICES})().includes(75)")
    shown = {}
    for y in range(0, 6000, 400):
        drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        page.evaluate(f"async (y) => {{ scrollTo(0, y); await {drawn}; }}", y)
        wait_until(page, "[...document.querySelectorAll('.tile')].every((tile) => tile.querySelector('a'))")
        links = page.evaluate("[...document.querySelectorAll('.tile a')].map((a) => [a.dataset.index, a.dataset.id])")
        for index, id_ in links:
            assert shown.setdefault(int(index), id_) == id_
    assert sorted(shown)[:110] == list(range(110))
    assert len(set(shown.values())) == len(shown)
    asked = page.evaluate(
        "q => fetch(`/api/search?q=${q}&limit=110&library=big&each_copy=true`).then((answer) => answer.json())",
        "a cup of coffee",
    )
    assert [shown[at] for at in range(110)] == [str(hit["id"]) for hit in asked["hits"]]


def test_nothing_likely_says_so_and_what_can_be_done(told):
    page = told("/?q=a+submarine&shape=landscape", likely=0, notices=[NEAREST, "The model has no word 犬."])
    page.get_by_role("heading", name="Nothing here matches").wait_for()
    assert "that pass the filters is likely to show this" in page.locator("#message").inner_text()
    assert page.locator("#notices").inner_text() == "The model has no word 犬."
    assert not page.locator(".tile").first.is_visible()
    page.get_by_role("button", name="Show the nearest").click()
    page.locator(".tile a").first.wait_for()
    assert page.locator("#notices").inner_text().startswith(NEAREST), "they do follow now"
    assert page.get_by_role("heading", name="Nothing here matches").count() == 0
    page.get_by_role("button", name="Hide them").click()
    page.get_by_role("heading", name="Nothing here matches").wait_for()
    page.locator("#message").get_by_role("button", name="Clear filters").click()
    page.wait_for_url("**/?q=a+submarine")


def test_probabilities_stand_where_similarities_did(told):
    page = told("/?q=a+cup+of+coffee", likely=3)
    page.get_by_role("button", name="Show probability").click()
    assert page.locator(".similarity").first.inner_text() == "90%"
    page.locator(".tile a").first.click()
    seen(page, "1 of 3 · 90% likely").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    seen(page, "3 of 3 · 90% likely").wait_for()
    assert page.get_by_role("button", name="Next picture").is_hidden()


def test_a_picture_beyond_the_line_opens_with_what_is_around_it(told):
    page = told("/?q=a+cup+of+coffee", likely=2)
    page.locator("#count", has_text="2 likely").wait_for()
    fifth = page.evaluate(
        "fetch('/api/search?q=a cup of coffee&limit=5&each_copy=true').then((answer) => answer.json())"
    )["hits"][4]
    page.evaluate("id => history.pushState({}, '', `/image/${id}?q=a+cup+of+coffee`)", fifth["id"])
    page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
    seen(page, re.compile(r"5 of \d+ · 10% likely")).wait_for()


def test_without_probabilities_the_wall_is_as_it_was(told):
    page = told("/?q=a+cup+of+coffee")
    page.locator("#count", has_text="pictures").wait_for()
    assert page.locator(".fold, .fold-line").count() == 0
    assert page.locator("#notices").is_hidden()
    page.get_by_role("button", name="Show similarity").click()
    page.locator(".similarity").nth(5).wait_for()
    shown = page.locator(".similarity").all_inner_texts()
    assert len(shown) > 5
    assert all(re.fullmatch(r"−?0\.\d{3}", text) for text in shown)


def test_a_second_look_is_a_setting_that_the_address_holds(told):
    page = told("/?q=a+cup+of+coffee")
    page.get_by_role("button", name="More", exact=True).click()
    with page.expect_response(re.compile("rerank=20")) as answer:
        page.get_by_label("Second look").check()
    assert answer.value.ok
    page.wait_for_url("**/?q=a+cup+of+coffee&again=1")

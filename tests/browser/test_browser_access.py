"""For everyone: themes, phones, screen readers; and safe: what the page may load and send."""

import importlib.util
import os
from pathlib import Path

import pytest

from browser.waiting import ids_of, wait_at_rest, wait_until

PAGES = (
    "/",
    "/?q=a+cat&p=-1:grass",
    "/?q=a&min=0.99",
    "/library",
    "/library?view=duplicates",
    "/caption",
    "/compare?q=a+cat",
    "/train",
)
WIDTHS = (320, 390, 768, 1280, 1920)
CHECK = (Path(__file__).parent / "accessible.js").read_text()
AXE = """() => axe.run().then((result) => result.violations
    .filter((one) => one.impact === 'serious' || one.impact === 'critical')
    .flatMap((one) => one.nodes.map((node) => [one.id, node.html.slice(0, 120), node.failureSummary])))"""
WIDEST = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def settle(page):
    wait_until(page, "document.querySelector('#page-search:not([hidden]), #page-other:not([hidden]) h1') !== null")
    wait_until(page, "!document.querySelector('.skeleton, .busy-line, #results[aria-busy=true]')")
    wait_at_rest(page)


def visit_all(page):
    """Each page of the app in turn, and a picture's."""
    for path in PAGES:
        page.goto(path)
        settle(page)
        yield path
    page.goto(f"/image/{ids_of(page, 'chelsea.png')[0]}")
    page.get_by_role("heading", name="chelsea.png").wait_for()
    yield "/image"


def audit(page, check, prepare=""):
    found = {}
    for path in visit_all(page):
        page.evaluate(prepare)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            wait_until(page, "theme => matchMedia(`(prefers-color-scheme: ${theme})`).matches", theme)
            if faults := page.evaluate(check):
                found[path, theme] = faults
    return found


def test_no_page_has_faults_that_shut_readers_out(open_page):
    assert audit(open_page(), CHECK) == {}


@pytest.mark.slow
def test_axe_finds_no_serious_violation(open_page):
    axe = find_axe()
    if axe is None:
        pytest.skip("needs axe-core: install axe-playwright-python, or name axe.min.js in SIGHTLINE_AXE")
    assert audit(open_page(), AXE, prepare=axe.read_text()) == {}


def find_axe():
    if path := os.environ.get("SIGHTLINE_AXE"):
        return Path(path)
    spec = importlib.util.find_spec("axe_playwright_python")
    places = spec.submodule_search_locations if spec else []
    return next((file for place in places or [] for file in Path(place).rglob("axe.min.js")), None)


@pytest.mark.slow
def test_no_page_is_wider_than_the_window(open_page):
    page = open_page()
    for path in visit_all(page):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            wait_at_rest(page)
            assert page.evaluate(WIDEST) <= 0, (path, width)


def test_a_phone_has_its_pages_below_and_swipes(open_page):
    page = open_page("/", viewport=(390, 844), has_touch=True)
    page.locator(".tile img.shown").first.wait_for()
    tabs = page.get_by_role("navigation", name="Pages").bounding_box()
    assert tabs["y"] + tabs["height"] == pytest.approx(844, abs=1)
    page.get_by_role("link", name="Library").click()
    page.get_by_role("heading", name="demo", exact=True).wait_for()
    page.get_by_role("link", name="Search", exact=True).click()
    page.locator(".pill", has_text="Date").click()
    sheet = page.get_by_role("dialog", name="Date").bounding_box()
    assert sheet["width"] >= 370
    assert sheet["y"] + sheet["height"] == pytest.approx(844, abs=1)


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    page = open_page("/", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").wait_for()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Theme: dark").click()
    page.emulate_media(color_scheme="light")
    wait_until(page, f"light => {ground} === light", light)


def test_screen_readers_are_told_of_results(page):
    page.get_by_role("searchbox", name="Search your pictures").fill("a cat")
    wait_until(page, "document.querySelector('#announcer').textContent.includes('best match')")
    tile = page.locator(".tile").first
    assert tile.get_attribute("aria-posinset") == "1"
    assert tile.get_attribute("aria-setsize") == page.locator("#count strong").inner_text()


def test_the_policy_forbids_what_the_page_does_not_need(page):
    page.watch.expected += ["Content Security Policy", "Refused"]
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.pwned = 1';
            document.body.append(script);
            document.body.setAttribute('onclick', 'window.pwned = 2');
            document.body.click();
            const image = new Image();
            image.src = 'https://example.com/spy.png';
            document.body.append(image);
        }"""
    )
    wait_at_rest(page)
    assert page.evaluate("window.pwned") is None
    page.watch.hosts.discard("example.com")

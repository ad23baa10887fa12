"""A wall of 100,000 pictures: what is seen is there, what isn't costs nothing, and nothing jumps."""

import pytest

from browser.waiting import wait_at_rest, wait_until
from browser.world import MANY_ROWS

SEEN = """() => [...document.querySelectorAll('.tile a')].filter((link) => {
    const place = link.getBoundingClientRect();
    return place.bottom > 150 && place.top < innerHeight;
}).map((link) => Number(link.dataset.index))"""
ALL_SEEN_ARE_THERE = """() => {
    const seen = [...document.querySelectorAll('.tile')].filter((tile) => {
        const place = tile.getBoundingClientRect();
        return place.bottom > 150 && place.top < innerHeight;
    });
    return seen.length > 0 && seen.every((tile) => tile.querySelector('img')?.classList.contains('shown'));
}"""


@pytest.fixture
def wall(open_page):
    page = open_page("/?library=big")
    wait_until(page, ALL_SEEN_ARE_THERE)
    page.locator("#count strong", has_text="100,000").wait_for()
    return page


def scroll_to(page, share):
    page.evaluate("share => scrollTo(0, share * (document.documentElement.scrollHeight - innerHeight))", share)
    wait_at_rest(page)
    wait_until(page, ALL_SEEN_ARE_THERE)


def test_any_of_a_hundred_thousand_images_is_a_scroll_away(wall):
    scroll_to(wall, 0.5)
    middle = wall.evaluate(SEEN)
    assert 0.4 * MANY_ROWS < min(middle) < 0.6 * MANY_ROWS
    scroll_to(wall, 1)
    assert MANY_ROWS - 1 in wall.evaluate(SEEN)
    assert wall.locator(".tile").count() < 200
    scroll_to(wall, 0)
    assert 0 in wall.evaluate(SEEN)


def test_the_keyboard_reaches_the_end_and_the_image_there_opens(wall):
    wall.watch.expected.append("404")  # the rows are real, their files aren't
    wall.locator(".tile a").first.focus()
    wall.keyboard.press("End")
    wait_until(wall, f"document.activeElement.dataset.index === '{MANY_ROWS - 1}'")
    wall.keyboard.press("Enter")
    wall.get_by_text("100,000 of 100,000").wait_for()
    wall.keyboard.press("ArrowLeft")
    wall.get_by_text("99,999 of 100,000").wait_for()
    wall.keyboard.press("Escape")
    wait_until(wall, f"document.activeElement.dataset.index === '{MANY_ROWS - 2}'")


def test_what_comes_in_above_does_not_move_what_is_looked_at(wall):
    scroll_to(wall, 0.5)
    wall.mouse.move(640, 400)
    start = wall.evaluate(SEEN)[0]
    wall.mouse.wheel(0, -1500)
    wait_until(wall, f"start => ({SEEN})()[0] < start", start)
    wait_at_rest(wall)
    wait_until(wall, ALL_SEEN_ARE_THERE)
    before = wall.evaluate(SEEN)
    wait_at_rest(wall)
    assert wall.evaluate(SEEN) == before


def test_another_size_and_another_window_keep_the_place(wall):
    scroll_to(wall, 0.3)
    first = wall.evaluate(SEEN)[0]
    wall.get_by_role("button", name="Size of pictures: medium").click()
    wait_until(wall, ALL_SEEN_ARE_THERE)
    assert abs(wall.evaluate(SEEN)[0] - first) < 12
    wall.set_viewport_size({"width": 700, "height": 800})
    wait_at_rest(wall)
    wait_until(wall, ALL_SEEN_ARE_THERE)
    assert abs(wall.evaluate(SEEN)[0] - first) < 24


def test_scrolling_stays_cheap(wall):
    """However far one scrolls, the page holds no more tiles than some screens full."""
    held = wall.evaluate(
        """async () => {
            const held = [];
            for (let step = 0; step < 60; step += 1) {
                scrollBy(0, 180);
                await new Promise((resolve) => requestAnimationFrame(resolve));
                held.push(document.querySelectorAll('.tile').length);
            }
            return held;
        }"""
    )
    assert 0 < max(held) < 300


def test_back_returns_to_the_same_place(wall):
    scroll_to(wall, 0.25)
    wait_at_rest(wall)
    before = wall.evaluate(SEEN)
    wall.get_by_role("link", name="Library", exact=True).click()
    wall.get_by_role("heading", name="big").wait_for()
    wall.go_back()
    wait_until(wall, f"before => String(({SEEN})()) === String(before)", before)
    wait_until(wall, ALL_SEEN_ARE_THERE)


def test_nothing_shifts_while_the_page_comes_up_and_results_change(open_page):
    page = open_page("/")
    page.evaluate(
        """() => {
            window.shift = 0;
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
            }).observe({ type: "layout-shift", buffered: true });
        }"""
    )
    wait_until(page, ALL_SEEN_ARE_THERE)
    wait_at_rest(page)
    assert page.evaluate("window.shift") < 0.02


def test_images_that_are_still_coming_are_seen_blurred(open_page):
    page = open_page("/")
    wait_until(page, ALL_SEEN_ARE_THERE)
    page.route("**/thumbnail?*", lambda route: None)  # none of them ever comes
    page.reload()
    seen = wait_until(
        page,
        """async () => {
            const links = [...document.querySelectorAll('.tile > a')].slice(0, 4);
            return Promise.all(links.map(async (link) => {
                const image = new Image();
                image.src = getComputedStyle(link).backgroundImage.slice(5, -2);
                await image.decode();
                return [image.src.slice(0, 23), Math.max(image.naturalWidth, image.naturalHeight)];
            })).then((found) => found.length === 4 && found, () => null);
        }""",
    )
    assert seen == [["data:image/webp;base64,", 10]] * 4
    assert page.locator(".tile img.shown").count() == 0

"""Searching: words, pictures, parts, filters, keys, and the address that holds them."""

import html
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from browser.waiting import ask, hand_over, ids_of, seen, wait_at_rest, wait_for_best, wait_for_first, wait_until


def search_box(page):
    return page.get_by_role("searchbox", name="Search your pictures")


def test_results_change_while_typing_and_the_address_holds_the_query(page):
    search_box(page).press_sequentially("a cat", delay=40)
    cat = wait_for_best(page, "a cat")
    assert page.url.endswith("/?q=a+cat")
    assert page.title() == "a cat – Sightline"
    search_box(page).fill("a brick wall")
    assert wait_for_best(page, "a brick wall") != cat
    page.go_back()
    page.wait_for_url("**/")
    assert search_box(page).input_value() == ""
    page.go_forward()
    page.wait_for_url("**/?q=a+brick+wall")
    assert search_box(page).input_value() == "a brick wall"
    wait_for_best(page, "a brick wall")
    page.reload()
    wait_for_best(page, "a brick wall")


def test_a_late_answer_never_replaces_a_newer_one(open_page):
    page = open_page("/")
    page.locator(".tile img.shown").first.wait_for()
    page.evaluate(
        """() => {
            const real = window.fetch;
            window.answered = [];
            window.asked = 0;
            window.fetch = async (address, options) => {
                const isFirst = String(address).includes(encodeURIComponent('"horse"'));
                window.asked += isFirst;
                const answer = await real(address, { ...options, signal: undefined });
                if (isFirst) await new Promise((resolve) => setTimeout(resolve, 900));
                window.answered.push(isFirst ? "late" : "other");
                return answer;
            };
        }"""
    )
    search_box(page).fill("horse")
    wait_until(page, "window.asked > 0")
    search_box(page).fill("a cat")
    cat = wait_for_best(page, "a cat")
    wait_until(page, "window.answered.includes('late')")
    wait_at_rest(page)
    assert page.locator(".tile a").first.get_attribute("data-id") == cat


@pytest.mark.parametrize("way", ["pick", "drop", "paste"])
def test_an_image_can_be_picked_dropped_and_pasted(page, world, way):
    photo = world.photos / "chelsea.png"
    if way == "pick":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Search by a picture").click()
        chooser.value.set_files(photo)
    else:
        hand_over(page, photo, "drop" if way == "drop" else "paste")
    page.locator(".chip img").wait_for()
    wait_for_first(page, *ids_of(page, "chelsea"))
    assert re.search(r"p=1%5E[0-9a-f]{32}$", page.url)
    assert page.locator(".chip").count() == 1


def test_what_is_no_image_is_refused_with_words(page, world):
    page.watch.expected.append("422")
    page.set_input_files("#picture-file", world.photos / "broken.jpg")
    seen(page, "can't be read").wait_for()
    assert page.locator(".chip").count() == 0


def test_parts_are_chips_with_sign_and_weight(page):
    search_box(page).press_sequentially("animal - cat + flower", delay=15)
    assert page.locator(".chip").all_inner_texts() == ["animal", "−\ncat"]
    search_box(page).press("Enter")
    page.get_by_role("button", name="less like cat. Change").click()
    page.get_by_role("radio", name="More like this").check()
    slider = page.get_by_role("slider", name="Weight")
    slider.fill("2")
    slider.dispatch_event("change")
    wait_until(page, "location.search.includes('p=2%3Acat')")
    assert slider.is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".chip").nth(1).inner_text() == "cat\n×2"
    page.get_by_role("button", name="Remove animal").click()
    page.reload()
    assert page.locator(".chip").all_inner_texts() == ["cat\n×2"]
    assert search_box(page).input_value() == "flower"
    search_box(page).fill("")
    search_box(page).press("Backspace")
    assert search_box(page).input_value() == "2:cat"
    assert page.locator(".chip").count() == 0


def count(page):
    wait_until(page, "!document.querySelector('#busy').classList.contains('busy')")
    return int(page.locator("#count strong").inner_text().replace(",", ""))


def test_filters_narrow_the_results_and_can_be_cleared(page):
    everything = count(page)
    page.locator(".pill", has_text="Shape").click()
    page.get_by_role("radio", name="Portrait").check()
    page.keyboard.press("Escape")
    page.wait_for_url("**/?shape=portrait")
    portraits = count(page)
    assert 0 < portraits < everything
    page.locator(".pill", has_text="Captions").click()
    page.get_by_role("radio", name="With captions").check()
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="Nothing here matches").wait_for()
    seen(page, "No image passes the filter.").wait_for()
    page.locator("#message").get_by_role("button", name="Clear filters").click()
    assert count(page) == everything
    page.goto("/?captions=yes")
    assert count(page) == ask(page, "/api/search?where=captioned+%3D+1")["total"] < everything
    page.goto(f"/?folder={ask(page, '/api/stats')['folders'][0]}/copies")
    assert count(page) == 2
    page.goto("/?after=2000-01-01&before=2001-01-01")
    page.get_by_role("heading", name="Nothing here matches").wait_for()
    page.goto("/?size=large")
    large = count_or_nothing(page)
    page.goto("/?size=small")
    assert large + count_or_nothing(page) <= everything


def count_or_nothing(page):
    page.locator("#count strong").wait_for()
    return count(page)


def test_a_minimum_similarity_that_nothing_reaches_says_so(page):
    page.goto("/?q=a+cat&min=0.99")
    seen(page, "the nearest has").wait_for()
    page.get_by_role("button", name="Remove the minimum").click()
    wait_for_best(page, "a cat")


def test_a_broken_filter_says_what_is_allowed(page):
    page.watch.expected.append("422")
    page.goto("/?where=" + "wid > 3")
    seen(page, "Did you mean 'width'?").wait_for()


def test_how_well_a_picture_fits_is_shown_on_demand(page):
    search_box(page).fill("a cat")
    wait_for_best(page, "a cat")
    assert page.locator(".similarity").count() == 0
    page.get_by_role("button", name="Show probability").click()
    page.locator(".similarity").first.wait_for()
    told = ask(page, "/api/search?q=a+cat")
    likely = [f"{100 * hit['probability']:.0f}%" for hit in told["hits"][: told["verdict"]["likely"]]]
    assert page.locator(".similarity").all_inner_texts() == likely


def test_of_images_the_nearest_are_shown_however_likely_with_probabilities_on_demand(page):
    image = ids_of(page, "chelsea.png")[0]
    page.goto(f"/?p=1%40{image}")
    wait_for_first(page, *ids_of(page, "chelsea again"))
    assert page.locator(".similarity").count() == 0
    page.get_by_role("button", name="Show probability").click()
    page.locator(".similarity").nth(5).wait_for()
    values = [int(text.removesuffix("%")) for text in page.locator(".similarity").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert len(values) > 5


def test_everything_works_with_the_keyboard_alone(page):
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    wait_for_best(page, "a cat")
    page.keyboard.press("Enter")
    focused = "document.activeElement.closest('.tile')?.querySelector('a').dataset.index"
    wait_until(page, f"{focused} === '0'")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Show them"
    page.keyboard.press("Enter")
    likely = ask(page, "/api/search?q=a+cat")["verdict"]["likely"]
    wait_until(page, f"{focused} === '{likely}'")
    page.keyboard.press("Home")
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("ArrowDown")
    below = int(page.evaluate(focused))
    assert below > 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Picture").wait_for()
    page.keyboard.press("ArrowRight")
    seen(page, "2 of").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Picture").wait_for(state="hidden")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "search-input"
    page.keyboard.press("Escape")
    assert search_box(page).input_value() == ""
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog", name="Keyboard").wait_for(state="hidden")


def test_an_image_of_the_results_joins_the_query(page):
    search_box(page).fill("a cat")
    wait_for_best(page, "a cat")
    page.keyboard.press("Enter")
    wait_until(page, "document.activeElement.closest('.tile')")
    page.keyboard.press("-")
    page.locator(".chip.negative img").wait_for()
    assert "p=-1%40" in page.url


def test_an_empty_library_says_what_to_do(open_page):
    page = open_page("/?library=empty")
    page.get_by_role("heading", name="Your library is empty").wait_for()
    page.get_by_role("link", name="Add a folder").click()
    page.wait_for_url("**/library")
    page.get_by_role("heading", name="empty").wait_for()


def test_a_server_that_is_gone_is_said_so_and_tried_again(page):
    page.watch.expected.append("ERR_FAILED")
    page.route("**/api/search*", lambda route: route.abort())
    search_box(page).fill("a cat")
    page.get_by_role("heading", name="No answer").wait_for()
    page.unroute("**/api/search*")
    page.get_by_role("button", name="Try again").click()
    wait_for_best(page, "a cat")


def test_a_token_of_an_earlier_start_is_renewed(page, world):
    page.watch.expected.append("403")
    page.route("**/", give_an_old_token, times=1)
    page.reload()
    page.set_input_files("#picture-file", world.photos / "chelsea.png")
    wait_for_first(page, *ids_of(page, "chelsea"))
    assert any("403" in error for error in page.watch.errors)


def give_an_old_token(route):
    answer = route.fetch()
    route.fulfill(
        response=answer, body=re.sub('sightline-token" content="[^"]+', 'sightline-token" content="old', answer.text())
    )


def test_the_query_language_works_in_the_box(page):
    with page.expect_request("**/api/search*") as request:
        search_box(page).fill("beach - people + 2:snow at 10:30")
    asked = parse_qs(urlsplit(request.value.url).query)
    assert json.loads(asked["parts"][0]) == [
        {"text": "beach", "weight": 1},
        {"text": "people", "weight": -1},
        {"text": "snow at 10:30", "weight": 2},
    ]


@contextmanager
def another_site(link):
    """The address of a page on another port that links to ours."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<link rel="icon" href="data:,"><a href="{html.escape(link)}">Look</a>'.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_a_link_from_another_site_shows_its_words_and_waits_for_enter(open_page, address):
    link = f"{address}/?q=a+cat&model=endpoint:http://127.0.0.1:9/&where=width+>+1&library=big"
    with another_site(link) as site:
        page = open_page(site)
        asked = []
        page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
        page.get_by_role("link", name="Look").click()
        page.get_by_role("heading", name="Press Enter to search").wait_for()
        wait_until(page, "document.querySelector('#nav a[href=\\'/library\\']') !== null")
        page.watch.hosts.discard(urlsplit(site).netloc)
        assert search_box(page).input_value() == "a cat"
        assert urlsplit(page.url)[2:] == ("/", "", "")
        page.wait_for_load_state("load")
        assert asked != []  # the page's own questions
        assert [url for url in asked if "search" in url or "cat" in url or "endpoint" in url or "big" in url] == []
        search_box(page).press("Enter")
        wait_for_best(page, "a cat")
        assert parse_qs(urlsplit(page.url).query) == {"q": ["a cat"]}
        searches = [parse_qs(urlsplit(url).query) for url in asked if "/api/search" in url]
        assert not any({"model", "where", "library"} & search.keys() for search in searches)
        page.locator(".tile img.shown").first.wait_for()


def test_a_link_of_our_own_and_a_typed_address_search_at_once(open_page):
    page = open_page("/?q=a+cat")
    wait_for_best(page, "a cat")
    page.evaluate("location.href = '/?q=a+brick+wall'")
    page.wait_for_url("**/?q=a+brick+wall")
    wait_for_best(page, "a brick wall")


def test_two_keys_mark_a_hit_right_or_wrong_and_the_list_is_ranked_anew(page):
    shown = "[...document.querySelectorAll('.tile a')].map((link) => link.dataset.id)"
    search_box(page).fill("an animal -cat")
    wait_for_best(page, "an animal - cat")
    page.get_by_role("button", name="Show them").click()
    wrong, _, _, right, *_ = page.evaluate(shown)
    page.locator(".tile a").nth(3).focus()
    page.keyboard.press("y")
    page.get_by_role("button", name=f"picture {right} is right").wait_for()
    wait_until(page, f"{shown}.slice(0, 3).includes('{right}')")
    page.locator(f".tile a[data-id='{wrong}']").focus()
    page.keyboard.press("n")
    page.get_by_role("button", name=f"picture {wrong} is wrong").wait_for()
    wait_until(page, f"!{shown}.includes('{wrong}')")
    page.get_by_role("button", name=f"Remove picture {wrong}").click()
    wait_until(page, f"{shown}.includes('{wrong}')")

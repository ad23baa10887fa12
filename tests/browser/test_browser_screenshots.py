"""Pictures of the pages, as they are on photos that may be shown anywhere; `make screenshots` writes those of the docs.

Each page has to stand as it is meant to before it is taken: nothing wider than the window, no picture missing.
"""

import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from browser.waiting import ids_of, seen, wait_until

MAX_BYTES = 250_000
QUALITY = 90
SEARCH = "/?q=a+cup+of+coffee"
PHONE = (390, 780)
DESK = (1200, 750)
STANDS = """() => {
    const isMissing = (image) => {
        const place = image.getBoundingClientRect();
        const seen = place.width > 0 && place.bottom > 0 && place.top < innerHeight;
        return seen && image.hasAttribute('src') && !(image.complete && image.naturalWidth > 0);
    };
    const page = document.querySelector('#page-search:not([hidden]), #page-other:not([hidden])');
    return page && !document.querySelector('.skeleton, .busy-line, #results[aria-busy=true]')
        && ![...document.images].some(isMissing)
        && !document.getAnimations().some((one) => one.effect.getTiming().iterations === 1);
}"""
"""Nothing is waited for, and nothing moves but what always does."""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def showcase(tmp_path_factory):
    pytest.importorskip("fastapi", reason="needs the extra web")
    from browser.showcase import build_showcase
    from sightline.errors import InputError

    try:
        return build_showcase(tmp_path_factory.mktemp("home"))
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def address(showcase, tmp_path_factory):
    """In place of the libraries of the other tests."""
    from browser.world import run_server

    with run_server(showcase.options, tmp_path_factory.mktemp("server-home")) as found:
        yield found


@pytest.fixture
def take(tmp_path):
    """Takes a picture of a page; those of the docs go into the folder that SIGHTLINE_SCREENSHOTS names."""
    docs = os.environ.get("SIGHTLINE_SCREENSHOTS")

    def take_(page, name, *, for_docs=False):
        page.mouse.move(0, 0)
        wait_until(page, STANDS)
        assert page.evaluate(TOO_WIDE) <= 0, name
        file = (Path(docs) if docs and for_docs else tmp_path) / f"web-{name}.webp"
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot())) as shot:
            assert shot.size == (page.viewport_size["width"], page.viewport_size["height"])
            colours = shot.convert("RGB").reduce(4).getcolors(maxcolors=1 << 24)
            assert len(colours) > 100, "an empty page"
            shot.convert("RGB").save(file, quality=QUALITY, method=6)
        assert not for_docs or file.stat().st_size < MAX_BYTES

    return take_


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_search(open_page, take, theme):
    page = open_page(SEARCH, viewport=DESK, color_scheme=theme)
    page.get_by_role("button", name="Show probability").click()
    page.locator(".similarity").first.wait_for()
    page.get_by_role("button", name="Show them").click()
    seen(page, "Less likely", exact=True).wait_for()
    assert page.locator(".tile").count() == 15
    take(page, f"search-{theme}", for_docs=theme == "light")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_image(open_page, take, theme):
    page = open_page(SEARCH, viewport=DESK, color_scheme=theme)
    page.locator(".tile img.shown").first.wait_for()
    page.locator(f".tile a[data-id='{ids_of(page, 'coffee')[0]}']").click()
    page.get_by_role("heading", name="coffee.png").wait_for()
    page.locator(".stage-image.shown").wait_for()
    assert page.locator(".caption-line").count() >= 2, "both kinds of captions"
    take(page, f"picture-{theme}")
    page.get_by_role("button", name="About the picture").click()
    page.get_by_role("button", name="Where words match").click()
    page.locator(".heat-legend", has_text="Similarity").wait_for()
    take(page, f"heatmap-{theme}", for_docs=theme == "dark")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_library_at_work(open_page, take, showcase, theme):
    page = open_page("/library?library=Family", viewport=DESK, color_scheme=theme)
    page.get_by_role("heading", name="Family", exact=True).wait_for()
    take(page, f"library-{theme}")
    if theme == "dark":
        return
    page.get_by_role("button", name="Add a folder").click()
    dialog = page.get_by_role("dialog", name="Add a folder")
    dialog.get_by_role("button", name="Details").click()
    dialog.get_by_text("No folders inside").wait_for()
    take(page, "library-add")
    dialog.get_by_role("button", name="Add this folder").click()
    page.locator(".job", has_text="Indexing Details").get_by_text("Done").wait_for()
    page.get_by_role("button", name="Caption pictures that have none").click()
    captioning = page.locator(".job", has_text="Captioning pictures").first
    captioning.get_by_text(re.compile(r"\d/(s|min)")).wait_for()
    try:
        page.evaluate("scrollTo(0, 0)")
        take(page, "library-working", for_docs=True)
    finally:
        captioning.get_by_role("button", name="Cancel").click()
        captioning.get_by_text(re.compile("Cancelled|Done")).wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_duplicates(open_page, take, theme):
    page = open_page("/library?library=Everything&view=duplicates", viewport=DESK, color_scheme=theme)
    page.get_by_role("heading", name="2 exact copies").wait_for()
    take(page, f"duplicates-{theme}")
    page.get_by_role("radio", name="Other copies").check()
    page.locator(".group", has_text="IMG_0412.jpg").first.wait_for()
    take(page, f"near-duplicates-{theme}", for_docs=theme == "light")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_caption(open_page, take, showcase, theme):
    page = open_page("/caption", viewport=DESK, color_scheme=theme)
    seen(page, "Drop or paste a picture").wait_for()
    take(page, f"caption-empty-{theme}")
    page.set_input_files(".page-caption input[type=file]", showcase.photos / "chelsea.png")
    page.locator(".best-text").wait_for()
    take(page, f"caption-{theme}")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_compare(open_page, take, theme):
    page = open_page("/compare?q=a+cat", viewport=DESK, color_scheme=theme)
    seen(page, "models share 100%").wait_for()
    take(page, f"compare-{theme}")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_train(open_page, take, theme):
    page = open_page("/train", viewport=DESK, color_scheme=theme)
    page.get_by_role("img", name="Loss over 300 steps").first.wait_for()
    take(page, f"train-{theme}")


ON_A_PHONE = {
    "library": ("/library", ".folder-list"),
    "duplicates": ("/library?library=Everything&view=duplicates", ".group img"),
    "caption": ("/caption", ".drop-zone"),
    "compare": ("/compare?q=a+cat", ".compare-hits img"),
    "train": ("/train", ".chart"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_PHONE)
def test_pages_on_a_phone(open_page, take, name):
    path, what = ON_A_PHONE[name]
    page = open_page(path, viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator(what).first.wait_for()
    take(page, f"phone-{name}")


@pytest.mark.slow
def test_search_and_an_image_on_a_phone(open_page, take):
    page = open_page(SEARCH, viewport=PHONE, has_touch=True, is_mobile=True)
    page.locator(".tile img.shown").first.wait_for()
    take(page, "phone-search", for_docs=True)
    page.locator(".tile a").first.click()
    page.locator(".stage-image.shown").wait_for()
    take(page, "phone-picture")

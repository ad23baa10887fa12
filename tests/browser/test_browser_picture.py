"""One picture, large: zoom, captions and their undoing, copies, facts, and where words match."""

import json
from urllib.request import urlopen

import pytest

from browser.waiting import ask, ids_of, seen, wait_until


@pytest.fixture
def cat(open_page, address):
    """The page of a captioned picture that is there twice."""
    with urlopen(f"{address}/api/search?where=name='chelsea.png'") as answer:
        image = json.load(answer)["hits"][0]["id"]
    page = open_page(f"/image/{image}")
    page.get_by_role("heading", name="chelsea.png").wait_for()
    page.image = image
    return page


def test_all_that_is_known_is_shown(cat):
    assert cat.locator(".best-caption").inner_text() == "a cat looking at the camera"
    lines = cat.locator(".caption-line").all_inner_texts()
    assert any(
        "Best · Written by starter-captioner" in line and "similarity 0.310" in line and "log-prob. −0.90" in line
        for line in lines
    )
    assert any("Ranked" in line and "similarity 0.340" in line for line in lines)
    facts = cat.locator(".facts").inner_text()
    assert "451 × 300" in facts
    assert "PNG" in facts
    cat.get_by_role("heading", name="1 exact copy").wait_for()
    cat.locator(".copy").click()
    cat.get_by_role("heading", name="chelsea again.png").wait_for()
    cat.go_back()
    cat.get_by_role("heading", name="chelsea.png").wait_for()


def test_the_path_can_be_copied(cat, world):
    cat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cat.get_by_role("button", name="Copy the path").click()
    cat.get_by_text("Path copied").wait_for()
    assert cat.evaluate("navigator.clipboard.readText()") == str(world.photos / "chelsea.png")


def test_a_caption_is_kept_and_undone(cat):
    cat.get_by_role("button", name="Edit").click()
    field = cat.get_by_role("textbox", name="Caption")
    assert field.input_value() == "a cat looking at the camera"
    field.fill("Chelsea, the cat of this house")
    field.press("Enter")
    cat.get_by_text("Caption kept").wait_for()
    assert cat.locator(".best-caption").inner_text() == "Chelsea, the cat of this house"
    assert ask(cat, f"/api/images/{cat.image}")["captions"][0]["source"] == "user"
    cat.get_by_role("button", name="Undo").click()
    cat.get_by_text("Your caption is removed").wait_for()
    assert cat.locator(".best-caption").inner_text() == "a cat looking at the camera"
    assert all(caption["source"] != "user" for caption in ask(cat, f"/api/images/{cat.image}")["captions"])


def test_a_removed_caption_comes_back(cat):
    for text in ("one", "two"):
        cat.get_by_role("button", name="Edit").click()
        cat.get_by_role("textbox", name="Caption").fill(text)
        cat.get_by_role("button", name="Keep").click()
        cat.locator(".best-caption", has_text=text).wait_for()
    cat.get_by_role("button", name="Undo").last.click()
    cat.locator(".best-caption", has_text="one").wait_for()
    cat.get_by_role("button", name="Remove mine").click()
    cat.locator(".best-caption", has_text="a cat looking at the camera").wait_for()
    cat.get_by_role("button", name="Undo").last.click()
    cat.locator(".best-caption", has_text="one").wait_for()
    cat.get_by_role("button", name="Remove mine").click()
    cat.locator(".best-caption", has_text="a cat looking at the camera").wait_for()


def test_editing_is_given_up_with_escape(cat):
    cat.get_by_role("button", name="Edit").click()
    cat.get_by_role("textbox", name="Caption").fill("never kept")
    cat.keyboard.press("Escape")
    assert cat.locator(".best-caption").inner_text() == "a cat looking at the camera"
    assert cat.get_by_role("dialog", name="Picture").is_visible()


def test_zooming_with_keys_wheel_and_double_click(cat):
    scale = "new DOMMatrix(getComputedStyle(document.querySelector('.stage-frame')).transform).a"
    assert cat.evaluate(scale) == 1
    cat.keyboard.press("+")
    assert cat.evaluate(scale) == 1.5
    cat.keyboard.press("0")
    stage = cat.locator(".stage-view").bounding_box()
    cat.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    cat.mouse.wheel(0, -400)
    wait_until(cat, f"{scale} > 2")
    before = cat.evaluate("document.querySelector('.stage-frame').getBoundingClientRect().x")
    cat.mouse.down()
    cat.mouse.move(stage["x"] + stage["width"] / 2 + 60, stage["y"] + stage["height"] / 2)
    cat.mouse.up()
    assert cat.evaluate("document.querySelector('.stage-frame').getBoundingClientRect().x") - before == pytest.approx(
        60, abs=2
    )
    cat.keyboard.press("Escape")
    assert cat.evaluate(scale) == 1
    assert cat.get_by_role("dialog", name="Picture").is_visible()
    cat.mouse.dblclick(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    assert cat.evaluate(scale) == 2.5


def test_where_words_match_is_shown_over_the_image(cat):
    cat.get_by_role("button", name="Where words match").click()
    cat.get_by_role("textbox", name="Words to look for in the picture").fill("the eyes of a cat")
    cat.locator(".heat-legend", has_text="dark").wait_for()
    veil = """() => {
        const canvas = document.querySelector('.heat');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const alphas = [...pixels].filter((_, at) => at % 4 === 3);
        return [canvas.width, Math.min(...alphas), Math.max(...alphas)];
    }"""
    width, least, most = cat.evaluate(veil)
    assert width > 1
    assert least == 0
    assert most > 200
    place = cat.locator(".heat").bounding_box()
    cat.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    cat.get_by_text("Similarity here").wait_for()
    cat.keyboard.press("Escape")
    assert not cat.locator(".heat-bar").is_visible()


def test_an_image_is_used_in_the_query(cat):
    cat.get_by_role("button", name="More like this").click()
    cat.get_by_role("dialog", name="Picture").wait_for(state="hidden")
    assert cat.url.endswith(f"/?p=1%40{cat.image}")
    again = ids_of(cat, "chelsea again")
    wait_until(cat, "id => document.querySelector('.tile a')?.dataset.id === id", str(again[0]))
    cat.go_back()
    cat.get_by_role("heading", name="chelsea.png").wait_for()
    cat.get_by_role("button", name="Subtract from the query").click()
    cat.locator(".chip.negative").wait_for()
    cat.go_back()
    cat.get_by_role("button", name="Add to the query").click()
    cat.locator(".chip:not(.negative)").wait_for()


def test_an_image_without_captions_is_captioned_at_once(page):
    flower = ids_of(page, "flower")[0]
    page.goto(f"/image/{flower}")
    page.get_by_role("button", name="Caption it").click()
    page.locator(".caption-line").first.wait_for()
    assert ask(page, f"/api/images/{flower}")["captions"]


def test_an_unknown_image_says_so(page):
    page.watch.expected.append("404")
    page.goto("/image/999999")
    seen(page, "no image with the id 999999").wait_for()
    page.get_by_role("button", name="Close").click()
    page.locator(".tile img.shown").first.wait_for()


def test_text_that_was_read_is_shown_found_words_marked_and_copied(open_page, cat):
    assert cat.get_by_role("button", name="Show text").is_hidden()
    page = open_page(f"/image/{ids_of(cat, 'coffee.png')[0]}?q=roasted+coffee+roast")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Show text")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    page.locator(".text-box").nth(1).wait_for(state="attached")
    assert page.locator(".text-box").count() == 2
    assert page.locator(".text-found").count() == 1
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.text-layer'))")
    assert "".join(page.evaluate("String(getSelection())").split()) == "Freshroastssince1987"
    page.get_by_role("button", name="Copy text").click()
    seen(page, "Text copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "Fresh roasts\nsince 1987"
    page.keyboard.press("Escape")
    wait_until(page, "() => document.querySelectorAll('.text-box').length === 0")
    page.keyboard.press("t")
    page.locator(".text-box").nth(1).wait_for(state="attached")


def test_names_of_files_are_text(page):
    evil = ids_of(page, "<img")[0]
    page.goto(f"/image/{evil}")
    page.get_by_role("heading", name="<img src=x onerror=window.pwned=1>.png").wait_for()
    page.goto("/library?view=duplicates")
    page.get_by_role("heading", name="2 exact copies").first.wait_for()
    assert page.evaluate("window.pwned") is None


def test_an_image_is_named_and_found_by_its_name_until_it_is_forgotten(cat):
    cat.get_by_role("button", name="Name this").click()
    cat.get_by_role("textbox", name="Name").fill("taken_at")
    cat.keyboard.press("Enter")
    cat.get_by_text("'taken_at' can't be a name").wait_for()
    cat.watch.expected.append("422")
    cat.get_by_role("textbox", name="Name").fill("Blick")
    cat.keyboard.press("Enter")
    cat.get_by_text("Blick is known from 1 picture").wait_for()
    cat.get_by_role("button", name="Search", exact=True).click()
    cat.wait_for_url("**/?q=Blick")
    wait_until(cat, f"document.querySelector('.tile a')?.dataset.id === '{cat.image}'")
    cat.locator(".tile a").first.click()
    cat.get_by_role("button", name="Name this").click()
    cat.get_by_role("button", name="Forget Blick").click()
    cat.get_by_text("Blick is forgotten").wait_for()

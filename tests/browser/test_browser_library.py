"""The library: folders, work that is watched and steered, models, duplicates, what could not be read."""

import re

from browser.waiting import ask, seen, wait_until
from browser.world import MANY_IMAGES


def job(page, text):
    return page.locator(".job", has_text=text).first


def test_a_folder_is_added_and_watched_then_work_is_paused_resumed_and_cancelled(open_page):
    page = open_page("/library?library=growing")
    page.get_by_role("button", name="Add a folder").click()
    dialog = page.get_by_role("dialog", name="Add a folder")
    dialog.get_by_role("button", name="many").click()
    dialog.get_by_text("No folders inside").wait_for()
    dialog.get_by_role("button", name="Add this folder").click()
    job(page, "Indexing many").get_by_text("Done").wait_for()
    assert f"{MANY_IMAGES} added" in job(page, "Indexing many").inner_text()
    page.locator(".page-head", has_text=f"{MANY_IMAGES} pictures").wait_for()
    page.get_by_role("button", name="Caption pictures that have none").click()
    captioning = job(page, "Captioning pictures")
    captioning.get_by_text(f" of {MANY_IMAGES}").wait_for()
    page.locator(".work-pill", has_text="Captioning").wait_for()
    captioning.get_by_role("button", name="Pause").click()
    captioning.get_by_text("Paused").wait_for()
    captioning.get_by_role("button", name="Resume").click()
    captioning.get_by_text("Running").wait_for()
    captioning.get_by_text(re.compile(r"\d/(s|min)")).wait_for()
    captioning.get_by_role("button", name="Cancel").click()
    captioning.get_by_text("Cancelled").wait_for()
    wait_until(page, "document.querySelector('.work-pill') === null")
    page.reload()
    job(page, "Captioning pictures").get_by_text("Cancelled").wait_for()


def test_what_was_left_out_and_why(open_page):
    page = open_page("/library")
    page.get_by_role("link", name="Not readable 1").click()
    page.get_by_role("heading", name="1 file could not be read").wait_for()
    assert "broken.jpg" in page.locator(".skipped-list").inner_text()
    assert "truncated" in page.locator(".skipped-list").inner_text()


def test_another_model_is_used_and_the_first_again(open_page, world):
    page = open_page("/library")
    second = page.locator(".model-list li", has_text=world.second_model)
    second.get_by_role("button", name="Use").click()
    second.get_by_text("In use").wait_for()
    assert ask(page, "/api/models")["default"] == world.second_model
    page.locator(".model-list li", has_text="starter").get_by_role("button", name="Use").click()
    seen(page, "Searches use starter now").wait_for()
    assert ask(page, "/api/stats")["models"]["starter"] == ask(page, "/api/stats")["images"]


def test_duplicates_lie_side_by_side(open_page):
    page = open_page("/library?view=duplicates")
    page.get_by_role("heading", name="2 exact copies").wait_for()
    group = page.locator(".group").first.inner_text()
    assert "chelsea.png" in group
    assert "chelsea again.png" in group
    assert "Keep: " in group
    page.get_by_role("radio", name="Other copies").check()
    copy = page.locator(".group", has_text="coffee small.png")
    copy.wait_for()
    assert "Keep: most pixels" in copy.inner_text()
    page.get_by_role("radio", name="Alike").check()
    seen(page, "Similarity at least").wait_for()
    assert seen(page, "Nothing is ever deleted from disk").is_visible()


def test_copies_are_moved_after_a_question_that_names_how_many_and_where_to_and_moved_back(open_page, world):
    page, asked = open_page("/library?view=duplicates"), []
    aside = str(world.library("demo-set-aside"))

    def answer(route):
        asked.append((route.request.url.rpartition("/")[2], route.request.post_data_json))
        route.fulfill(json={"moved": 1, "left": [], "folder": aside, "log": "set-aside-1.jsonl"})

    page.route("**/api/duplicates/*", answer)
    page.get_by_role("button", name="Move 1 file of all groups").wait_for()
    page.get_by_role("button", name="Move all but chelsea.png").click()
    page.get_by_role("heading", name="Move 1 file?").wait_for()
    field = page.get_by_label("To the folder")
    assert field.input_value() == aside
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Move 1 file of all groups").click()
    field.fill("/")
    page.unroute("**/api/duplicates/*")
    page.watch.expected.append("status of 403")
    page.get_by_role("dialog").get_by_role("button", name="Move 1 file").click()
    page.get_by_role("alert").filter(has_text="can't be moved to or from /").wait_for()
    page.route("**/api/duplicates/*", answer)
    field.fill(str(world.folder / "pictures" / "aside"))
    page.get_by_role("dialog").get_by_role("button", name="Move 1 file").click()
    page.get_by_role("status").get_by_role("button", name="Undo").wait_for()
    page.reload()
    page.get_by_role("status").get_by_role("button", name="Undo").click()
    seen(page, "1 file moved back").wait_for()
    (_, moved), (_, undone) = asked
    assert [what for what, _ in asked] == ["set-aside", "undo"], "Escape moved something"
    assert (moved["kind"], moved["files"], len(moved["keep"])) == ("exact", 1, 1)
    assert moved["folder"] == str(world.folder / "pictures" / "aside")
    assert undone == {"log": "set-aside-1.jsonl", "folder": aside}


def test_another_library_is_chosen(open_page):
    page = open_page("/library")
    page.get_by_role("heading", name="demo", exact=True).wait_for()
    page.get_by_role("combobox", name="Library").select_option(label="big (100,000)")
    page.get_by_role("heading", name="big", exact=True).wait_for()
    page.get_by_role("link", name="Search", exact=True).click()
    page.locator("#count strong", has_text="100,000").wait_for()
    page.get_by_role("link", name="Library", exact=True).click()
    page.get_by_role("combobox", name="Library").select_option(index=0)
    page.get_by_role("heading", name="demo", exact=True).wait_for()

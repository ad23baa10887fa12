"""Caption, Compare, Train."""

import pytest

from browser.waiting import hand_over, seen, wait_until
from browser.world import write_rows


def test_an_image_is_captioned_both_ways_and_with_own_candidates(open_page, world):
    page = open_page("/caption")
    seen(page, "Drop or paste a picture").wait_for()
    hand_over(page, world.photos / "chelsea.png", "drop")
    page.locator(".best-text").wait_for()
    for kind in ("Ranked", "Written"):
        assert page.locator(".card", has=page.get_by_role("heading", name=kind)).locator("li").count() > 0
    page.get_by_role("textbox").last.fill("a cat on a sofa\na bridge at night")
    page.get_by_role("button", name="Caption again").click()
    ranked = page.locator(".card", has=page.get_by_role("heading", name="Ranked"))
    ranked.get_by_text("a bridge at night").wait_for()
    own = [line.split("\n")[0] for line in ranked.locator("li").all_inner_texts()]
    assert sorted(line.removesuffix("best") for line in own) == ["a bridge at night", "a cat on a sofa"]
    assert [line.endswith("best") for line in own] == [True, False], "the nearest is chosen, and no captioner writes"
    written = page.locator(".card", has=page.get_by_role("heading", name="Written"))
    assert "no captioner is at work" in written.inner_text()


def test_a_file_that_is_no_image_is_refused_with_words(open_page, world):
    page = open_page("/caption")
    page.watch.expected.append("422")
    seen(page, "Drop or paste a picture").wait_for()
    page.set_input_files(".page-caption input[type=file]", world.photos / "broken.jpg")
    seen(page, "can't be read").wait_for()


def test_models_are_compared_side_by_side(open_page, world):
    page = open_page("/compare")
    page.get_by_role("searchbox", name="Query to compare models on").fill("a cat")
    seen(page, "models share 100%").wait_for()
    columns = page.locator(".compare-column")
    assert columns.count() == 2
    assert columns.first.locator("li").count() == columns.last.locator("li").count() == 12
    assert columns.first.locator(".shared").count() == 10
    assert "Time" in columns.first.inner_text()
    page.wait_for_url("**/compare?q=a+cat&models=*")
    page.reload()
    seen(page, "models share 100%").wait_for()
    page.get_by_role("checkbox", name="starter", exact=True).uncheck()
    seen(page, "Choose a second model").wait_for()


def test_comparing_with_one_model_says_what_to_do(open_page):
    page = open_page("/compare?library=big")
    page.get_by_role("heading", name="Comparing needs two models").wait_for()
    page.get_by_role("link", name="Add a model").wait_for()


@pytest.fixture
def run_log(world):
    yield world.run / "log.jsonl"
    rows = (world.run / "log.jsonl").read_text().splitlines()[:31]
    (world.run / "log.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_curves_follow_a_run(open_page, world, run_log):
    page = open_page("/train")
    chart = page.get_by_role("img", name="Loss over 30 steps: training from 2.95 to 1.5")
    chart.wait_for()
    assert page.get_by_role("progressbar", name="Steps done").get_attribute("aria-valuenow") == "75"
    write_rows(
        world.run,
        [
            {"step": 31, "kind": "train", "epoch": 1.55, "loss": 1.25, "learning_rate": 1e-3},
            {"step": 31, "kind": "alarm", "alarm": "plateau", "message": "The loss stays at chance."},
        ],
    )
    page.get_by_role("img", name="Loss over 31 steps: training from 2.95 to 1.25").wait_for()
    seen(page, "The loss stays at chance.").wait_for()
    seen(page, "Settings").click()
    seen(page, "optimiser.name").wait_for()
    page.get_by_role("img", name="Loss over").hover()
    wait_until(page, "document.querySelector('.chart-readout').textContent.startsWith('step ')")

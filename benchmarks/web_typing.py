"""A person who types into the page, in headless Chromium: when the results of each key are drawn."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_KEY_MS = 250
"""Between two keys: slower than most type, so that each key has results of its own."""

_WATCH = """() => {
    window.drawn = [];
    window.complete = [];
    let pressed = 0;
    const input = document.querySelector('#search-input');
    input.addEventListener('input', (event) => { pressed = event.timeStamp; }, { capture: true });
    const isSeen = (tile) => {
        const place = tile.getBoundingClientRect();
        return place.bottom > 120 && place.top < innerHeight;
    };
    const hasAll = () =>
        [...document.querySelectorAll('.tile')].filter(isSeen).every((tile) => tile.querySelector('img.shown'));
    const watch = (start) => {
        drawn.push(performance.now() - start);
        const look = () => {
            if (pressed) return;
            if (hasAll()) complete.push(performance.now() - start);
            else requestAnimationFrame(look);
        };
        look();
    };
    new MutationObserver(() => {
        if (!pressed) return;
        const start = pressed;
        pressed = 0;
        requestAnimationFrame(() => requestAnimationFrame(() => watch(start)));
    }).observe(document.querySelector('#count'), { childList: true });
}"""
"""The count of pictures changes in the same task as the wall; by the second frame after it, the first was drawn."""


def type_sentences(address: str, sentences: Sequence[str]) -> tuple[list[float], list[float]] | None:
    """Milliseconds from each key to its results, and to all their pictures in the window; None without a browser."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None or importlib.util.find_spec("playwright") is None:
        print("Typing is left out: it needs playwright and Chromium.")
        return None
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(address)
        page.locator(".tile img.shown").first.wait_for()
        page.evaluate(_WATCH)
        for sentence in sentences:
            page.fill("#search-input", "")
            page.wait_for_timeout(2 * _KEY_MS)
            page.evaluate("drawn.pop(), complete.pop()")  # emptying the box was no key
            page.locator("#search-input").press_sequentially(sentence, delay=_KEY_MS)
            page.wait_for_timeout(2 * _KEY_MS)
        drawn, complete = page.evaluate("[drawn, complete]")
        browser.close()
    return drawn, complete

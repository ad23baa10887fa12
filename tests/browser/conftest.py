"""A browser, a server and pages that are watched: no error in the console, no request to another host."""

import os
import shutil
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from browser.waiting import TIMEOUT_S
from conftest import share_banks

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # while Playwright is started, this thread can run no other event loop
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is on the path")
    with api.sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    pytest.importorskip("fastapi", reason="needs the extra web")
    pytest.importorskip("uvicorn", reason="needs the extra web")
    from browser.world import build_world
    from sightline.errors import InputError

    try:
        return build_world(tmp_path_factory.mktemp("world"))
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def address(world, tmp_path_factory, banks):
    from browser.world import serve

    home = tmp_path_factory.mktemp("server-home")
    share_banks(home / ".cache" / "sightline", banks)
    with serve(world, home) as found:
        yield found


@dataclass
class Watch:
    """What went wrong on a page, and what is meant to."""

    errors: list = field(default_factory=list)
    hosts: set = field(default_factory=set)
    expected: list = field(default_factory=list)
    """Parts of messages that a test provokes."""

    def unexpected(self):
        return [error for error in self.errors if not any(part in error for part in self.expected)]


@pytest.fixture
def open_page(browser, address):
    """Opens pages in contexts of their own, with options such as `color_scheme`; checks all of them in the end."""
    contexts, watches = [], []

    def open_(path="/", *, viewport=(1280, 860), **options):
        context = browser.new_context(
            base_url=address, viewport={"width": viewport[0], "height": viewport[1]}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * TIMEOUT_S)
        page.watch = watch = Watch()
        watches.append(watch)
        page.on("console", lambda message: watch.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        page.on("request", lambda request: watch.hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    for watch in watches:
        assert watch.unexpected() == []
        assert watch.hosts <= {urlsplit(address).netloc, ""}  # `data:` has none


@pytest.fixture
def page(open_page):
    """The search page of the demo photos, ready."""
    page = open_page("/")
    page.locator(".tile img.shown").first.wait_for()
    return page

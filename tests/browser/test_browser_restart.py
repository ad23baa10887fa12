"""A server that ends and starts again while a page is open."""

from urllib.parse import urlsplit

import pytest

from browser.waiting import ask, seen, wait_until


class Restarting:
    """A server of one library, each time at the same port."""

    def __init__(self, options, home):
        self._options, self._home, self._port = options, home, 0
        self._running = None

    def start(self):
        from browser.world import run_server

        self._running = run_server(self._options, self._home, port=self._port)
        self.address = self._running.__enter__()
        self._port = urlsplit(self.address).port

    def stop(self):
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)


@pytest.fixture
def server(world, tmp_path):
    from sightline.core.library import Library

    with Library.open(tmp_path / "own", model="starter") as library:
        library.index(world.photos)
    server = Restarting(["--library", tmp_path / "own"], tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def address(server):
    return server.address


def test_a_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(open_page, server):
    page = open_page("/")
    page.watch.expected += ["ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
    page.watch.expected.append("403")  # its token is the old one: it fetches the new one
    page.locator(".tile img.shown").first.wait_for()
    server.stop()
    page.locator(".work-pill", has_text="Not connected").wait_for()
    page.get_by_role("searchbox", name="Search your pictures").fill("a cat")
    seen(page, "Is `sightline serve` still running?").wait_for()
    server.start()
    wait_until(page, "document.querySelector('.work-pill') === null")
    page.locator(".tile img.shown").first.wait_for()
    page.get_by_role("link", name="Library", exact=True).click()
    page.get_by_role("button", name="Look for changes", exact=True).click()  # with the token of the start before
    page.locator(".job", has_text="Indexing").first.get_by_text("Done").wait_for()
    assert ask(page, "/api/jobs")["jobs"][0]["state"] == "done"

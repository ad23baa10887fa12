"""Waiting for a page. Playwright's own `wait_for_function` needs `eval` in the page, which our policy forbids."""

import time
from urllib.parse import quote

TIMEOUT_S = 240
"""Only what hangs takes so long, though captioning yields to all other work of a busy machine."""


def wait_until(page, expression, arg=None):
    """Until a JavaScript expression or function is true; what it gives."""
    end_s = time.monotonic() + TIMEOUT_S
    while not (value := page.evaluate(expression, arg)):
        assert time.monotonic() < end_s, f"never true: {expression} of {arg!r}"
        page.wait_for_timeout(20)
    return value


def wait_at_rest(page):
    """Until nothing scrolls and all is drawn, by the page's own clock: on a busy machine it is behind ours."""
    at_rest = """async () => {
        const y = scrollY;
        await new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 150));
        return scrollY === y;
    }"""
    wait_until(page, at_rest)


def seen(page, text, **options):
    """What shows this text on the page; the announcer of screen readers says some of it a second time."""
    return page.get_by_text(text, **options).and_(page.locator(":not(#announcer)"))


def wait_for_best(page, words, **params):
    """Until the first picture on the page is the one that the API gives for these words; its id."""
    asked = {"q": words, "limit": "1", **params}
    best = ask(page, "/api/search?" + "&".join(f"{name}={quote(value)}" for name, value in asked.items()))["hits"][0][
        "id"
    ]
    wait_for_first(page, best)
    return str(best)


def wait_for_first(page, *ids):
    """Until the first picture on the page is one of these."""
    first = "ids => ids.includes(document.querySelector('.tile a')?.dataset.id)"
    wait_until(page, first, [str(id_) for id_ in ids])


def ask(page, address):
    """What the API answers."""
    return page.evaluate("address => fetch(address).then(answer => answer.json())", address)


def ids_of(page, name):
    """Pictures whose names begin so."""
    return [hit["id"] for hit in ask(page, "/api/search?where=" + quote(f"name like '{name}%'"))["hits"]]


def hand_over(page, photo, event):
    """Drop a file on the page, or paste it."""
    import base64

    page.evaluate(
        """([bytes, event]) => {
            const content = Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([content], "picture.png", { type: "image/png" }));
            if (event === "paste") {
                window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
            } else {
                for (const name of ["dragenter", "dragover", "drop"]) {
                    window.dispatchEvent(new DragEvent(name, { dataTransfer: data, cancelable: true, bubbles: true }));
                }
            }
        }""",
        [base64.b64encode(photo.read_bytes()).decode(), event],
    )

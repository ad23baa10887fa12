"""What all pages of ours share: one HTML file that needs nothing beside it, loads nothing and runs nothing.

A page's sections are HTML: everything that came from outside (names, captions, queries) is escaped by who makes them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from sightline.errors import InputError
from sightline.kit.files import replacing
from sightline.kit.text import visible

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Text -> HTML, attributes included. Control characters and bytes that were no UTF-8 become U+FFFD."""
    return html.escape(visible(text), quote=True)


def format_frame(title: str, *, lead: str, sections: Iterable[str], style: Traversable) -> str:
    """A whole page. Title and lead are text, sections HTML; `style` is the CSS file that adds to the shared one."""
    shared = resources.files("sightline.kit") / "pages.css"
    css = "".join(file.read_text(encoding="utf-8") for file in (shared, style))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>
<main>{"".join(sections)}</main>
</body>
</html>
"""


def write_page(target: Path, page: str) -> Path:
    """Write a page whole or not at all, making the folders above it; its path. Raises InputError where it can't be."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"The page can't be written to {target}: {error.strerror or error}. Choose another place."
        ) from error
    return target

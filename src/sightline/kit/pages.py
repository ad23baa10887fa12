"""Pages of ours: one HTML file each, from a template, that needs nothing beside it, loads nothing and runs nothing.

Templates are Jinja's; they lie beside the module that shows them, extend `kit/page.html` (frame, policy, shared CSS),
and escape by themselves: everything that came from outside (names, captions, queries) is passed to them as text.
"""

from __future__ import annotations

import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import InputError
from sightline.kit.files import replacing
from sightline.kit.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render_page(template: str, **values: Any) -> Markup:
    """HTML of a template and values: a whole page, or a part that another template shows as it is.

    `template` is its path in the package, as `lab/generate/sheet.html`. A value is text unless it is Markup.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


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


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def escape(value: Any) -> Markup:
        """Text -> HTML, attributes included. Control characters and bytes that were no UTF-8 become U+FFFD."""
        return Markup(value if hasattr(value, "__html__") else html.escape(visible(str(value)), quote=True))

    return Environment(
        loader=PackageLoader("sightline", ""),
        autoescape=True,
        finalize=escape,  # Jinja's own escaping leaves alone what it made
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

"""A library whose word queries are expanded before they are embedded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import InputError
from sightline.faces.integrations.query_expansion import (
    Expander,
    ExpandingEncoder,
    Expansion,
    FixedExpander,
    WrittenExpander,
)
from sightline.faces.integrations.text_generation import load_writer

if TYPE_CHECKING:
    from sightline.core.library import Library

STANDARD = "standard"


def expand_queries(
    library: Library,
    *,
    writer: str | None = None,
    expansions: str | None = None,
    chat_url: str | None = None,
    tell: Callable[[str], None],
) -> None:
    """Average each query of a library with descriptions, for this session; `tell` gets what was added, or why not.

    They come from a text model (`writer`), or from lines: a file, or `standard`. Raises InputError unless exactly one
    is given, and for what `load_writer` and `FixedExpander.read` refuse.
    """
    if (writer is None) == (expansions is None):
        raise InputError("Give either a text model or expansions.")
    if writer is not None:
        expander: Expander = WrittenExpander(load_writer(writer, url=chat_url))
    else:
        expander = FixedExpander() if expansions == STANDARD else FixedExpander.read(Path(str(expansions)).expanduser())
    library.use_encoder(ExpandingEncoder(library.encoder, _telling(expander, tell)))


def _telling(expander: Expander, tell: Callable[[str], None]) -> Expander:
    """An expander that says what it added."""

    def expand(query: str) -> Expansion:
        expansion = expander(query)
        if expansion.problem is not None:
            tell(f"{query!r} is searched as it is: {_line(expansion.problem)}")
        elif expansion.descriptions:
            tell(f"{query!r} is searched together with: {_line('; '.join(expansion.descriptions))}")
        return expansion

    return expand


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

"""The query language: words and pictures, joined with `+` and `-`, each with a weight.

    two dogs                       one part, words
    ./photo.jpg + 2:snow           a picture and, twice as strong, a word
    beach - people                 beach, away from people

The syntax is rclip's. A separator stands alone: as its own argument, or between spaces (`t-shirt` is one word).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.core.images.files import is_image_name
from sightline.errors import InputError
from sightline.kit.paths import expand, is_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEPARATOR = re.compile(r"(?:^|(?<=\s))([+-])(?=\s|$)")
_WEIGHT = re.compile(r"^(\d+(?:\.\d*)?|\.\d+):\s*(?=[^\s\d])")  # 10:30 is a time
_PATH_START = re.compile(r"^(?:\.{1,2}[/\\]|/|~[^\s/\\]*[/\\]|[A-Za-z]:[/\\])")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a query: words or a picture, and its signed weight. A picture is a file, a row or a vector."""

    weight: float = 1.0
    text: str | None = None
    image: Path | None = None
    row: int | None = None
    """The id of an image of the library that is searched."""
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """What the searching model made of a picture that is no file here (D,)."""
    name: str | None = None
    """What the user calls a row or a vector."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.text, self.image, self.row, self.vector)) != 1:
            raise InputError("A part of a query is either words or a picture.")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise InputError(f"The weight of {self.label!r} is {self.weight:g}; it must be a number other than 0.")

    @property
    def label(self) -> str:
        """The words, or the picture's path or name, as the user knows them."""
        if self.text is not None:
            return self.text
        return self.name or (f"image {self.row}" if self.row is not None else str(self.image or "a picture"))


def parse_query(
    words: Sequence[str], *, add: Iterable[str] = (), subtract: Iterable[str] = (), allow_files: bool = True
) -> list[Part]:
    """Arguments of a search -> its parts, in order.

    Neighbouring arguments are one part, so quotes are optional. `add` and `subtract` hold whole parts. With
    `allow_files=False` (queries that come over a network) nothing is taken for a path. Raises InputError for an empty
    query, an empty part, a picture that doesn't exist, or an address of a web page.
    """
    signed = [*_split(words, allow_files=allow_files), *((1, text) for text in add), *((-1, text) for text in subtract)]
    parts = [_parse_part(sign, text, allow_files=allow_files) for sign, text in signed]
    if not parts:
        raise InputError("The query is empty. Give words, ./photo.jpg, or parts joined with + and -.")
    return parts


def _split(words: Sequence[str], *, allow_files: bool) -> list[tuple[int, str]]:
    """Signed parts: cut at separators that stand alone, neighbouring pieces joined; a leading `-` is a sign too."""
    pieces: list[str] = []
    for word in words:
        whole = allow_files and is_image_name(word) and is_file(_expand(word))  # "a - b.jpg" is one name
        pieces += [word] if whole else [piece.strip() for piece in _SEPARATOR.split(word)]
    groups: list[tuple[str, list[str]]] = [("", [])]
    for piece in filter(None, pieces):
        if piece in ("+", "-"):
            groups.append((piece, []))
        else:
            groups[-1][1].append(piece)
    if not groups[0][1]:
        del groups[0]
    if empty := next((separator for separator, texts in groups if not texts), None):
        raise InputError(f"Nothing follows {empty!r} in the query. Write it as: beach {empty} people")
    return [(-1 if separator == "-" else 1, " ".join(texts)) for separator, texts in groups]


def _parse_part(sign: int, text: str, *, allow_files: bool) -> Part:
    match = _WEIGHT.match(text)
    weight = sign * (float(match[1]) if match else 1.0)
    body = text[match.end() :].strip() if match else text.strip()
    if not body:
        raise InputError("A part of the query is empty. Give words or ./photo.jpg.")
    if allow_files:
        if re.match(r"^https?://", body):
            raise InputError(f"{body} is a web address, which is not fetched. Save the picture and name the file.")
        if image := _as_picture(body):
            return Part(weight=weight, image=image)
    return Part(weight=weight, text=body)


def _as_picture(body: str) -> Path | None:
    """The file that a part names: whatever begins like a path, and a bare name that ends like a picture's."""
    path = _expand(body)
    named = is_image_name(body)
    if is_file(path) and (named or _PATH_START.match(body)):
        return path
    if not _PATH_START.match(body) and not (named and not re.search(r"\s", body)):
        return None
    raise InputError(
        f"There is no picture {body}. Check the path; join a picture and words with +, as in ./a.jpg + red"
    )


def _expand(text: str) -> Path:
    """`~` filled in where it can be: `~5 dogs` are words."""
    try:
        return expand(text)
    except InputError:
        return Path(text)

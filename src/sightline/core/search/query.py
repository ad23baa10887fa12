"""The query language: words and images joined with `+` and `-`, each with a weight.

    two dogs                       one part, words
    ./photo.jpg + 2:snow           an image and, twice as strong, a word
    beach - people                 beach, away from people
    beach -people, beach -"deep snow"
                                   the same, for one word or what stands in quotes

The syntax is rclip's, and that of web searches. A sign that stands alone (its own argument, or between spaces) begins a
part that lasts to the next one; a sign before a word takes that word alone, and what follows goes on with the part
before. `t-shirt` is one word, `-5` a number, `2001: a space odyssey` no weight.
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
from sightline.kit.config import expand, is_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WEIGHT = re.compile(r"(\d{1,3}(?:\.\d*)?|\.\d+):(?=[^\s\d])")  # 10:30 is a time, "2001: a space odyssey" a title
_QUOTED = r"""["“„][^"“”„]*["“”]?"""
_TOKEN = re.compile(
    rf"""(?P<sign>[+-])(?=\s|$)
      | (?P<glued>[+-])(?P<body>(?:{_WEIGHT.pattern})?(?:{_QUOTED}|(?:[^\W\d]|[^\x00-\x7f]|[.~]{{0,2}}[/\\])\S*))
      | (?P<words>{_QUOTED}(?=\s|$)|\S+)""",
    re.VERBOSE,
)
"""A sign that stands alone; one before a word, a path or a phrase; anything else. `-5` and `->` are no such words."""
_PHRASE = re.compile(rf"[+-](?!{_QUOTED})\S*\s")
"""The beginning of an argument that a shell's quotes made: `-"deep snow"` comes as `-deep snow`."""
_PATH_START = re.compile(r"^(?:\.{1,2}[/\\]|/|~[^\s/\\]*[/\\]|[A-Za-z]:[/\\])")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a query: words or an image, and its signed weight. An image is a file, a row or a vector."""

    weight: float = 1.0
    text: str | None = None
    image: Path | None = None
    row: int | None = None
    """The id of an image of the library that is searched."""
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """The searching model's vector of an image that is no file here (D,)."""
    name: str | None = None
    """The user's name for a row or a vector."""
    is_mark: bool = False
    """True for an image that the user marked: right where the weight is above 0, else wrong."""

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.text, self.image, self.row, self.vector)) != 1:
            raise InputError("A part of a query is either words or a picture.")
        if self.is_mark and self.text is not None:
            raise InputError(f"{self.text!r} are words; only a picture is marked right or wrong.")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise InputError(f"The weight of {self.label!r} is {self.weight:g}; it must be a number other than 0.")

    @property
    def label(self) -> str:
        """The words, or the image's path or name, as the user knows them."""
        if self.text is not None:
            return self.text
        return self.name or (f"image {self.row}" if self.row is not None else str(self.image or "a picture"))


def parse_query(
    words: Sequence[str], *, add: Iterable[str] = (), subtract: Iterable[str] = (), allow_files: bool = True
) -> list[Part]:
    """Arguments of a search -> its parts, in order.

    Neighbouring arguments are one part, so quotes are optional. `add` and `subtract` hold whole parts. With
    `allow_files=False` (queries that come over a network) nothing is taken for a path. Raises InputError for an empty
    query, an empty part, a path of no image, or an address of a web page.
    """
    signed = [*_split(words, allow_files=allow_files), *((1, text) for text in add), *((-1, text) for text in subtract)]
    parts = [_parse_part(sign, text, allow_files=allow_files) for sign, text in signed]
    if not parts:
        raise InputError("The query is empty. Give words, ./photo.jpg, or parts joined with + and -.")
    return parts


def _split(words: Sequence[str], *, allow_files: bool) -> list[tuple[int, str]]:
    """Signed parts, in order; a leading sign is one too. Raises InputError for a sign that nothing follows."""
    lasting: tuple[str, list[str]] = ("", [])
    groups = [lasting]
    for word in words:
        if allow_files and is_image_name(word) and is_file(_expand(word)):  # "a - b.jpg" is one name
            lasting[1].append(word)
            continue
        for token in _tokenise(word, is_one_of_many=len(words) > 1):
            if sign := token["sign"]:
                lasting = (sign, [])
                groups.append(lasting)
            elif sign := token["glued"]:
                groups.append((sign, [token["body"]]))
            else:
                lasting[1].append(token["words"])
    if not groups[0][1]:
        del groups[0]
    if empty := next((sign for sign, texts in groups if not texts), None):
        raise InputError(f"Nothing follows {empty!r} in the query. Write it as: beach {empty} people")
    return [(-1 if sign == "-" else 1, " ".join(texts)) for sign, texts in groups]


def _tokenise(word: str, *, is_one_of_many: bool) -> list[dict[str, str]]:
    """The tokens of an argument. One of several arguments that begins with its only sign is a phrase as a whole."""
    tokens = [match.groupdict("") for match in _TOKEN.finditer(word)]
    signs = [token["sign"] or token["glued"] for token in tokens]
    if is_one_of_many and tokens and tokens[0]["glued"] and not any(signs[1:]) and _PHRASE.match(word):
        return [{**tokens[0], "body": word[1:].strip()}]
    return tokens


def _parse_part(sign: int, text: str, *, allow_files: bool) -> Part:
    match = _WEIGHT.match(text)
    weight = sign * (float(match[1]) if match else 1.0)
    body = text[match.end() :].strip() if match else text.strip()
    if re.fullmatch(_QUOTED, body):
        body = body.strip('"“”„').strip()
    if not body:
        raise InputError("A part of the query is empty. Give words or ./photo.jpg.")
    if allow_files:
        if re.match(r"^https?://", body):
            raise InputError(f"{body} is a web address, which is not fetched. Save the picture and name the file.")
        if image := _as_image(body):
            return Part(weight=weight, image=image)
    return Part(weight=weight, text=body)


def _as_image(body: str) -> Path | None:
    """The file that a part names: whatever begins like a path, and a bare name that ends like an image's.

    A bare name of no file is words: full text finds it in the library.
    """
    is_path = _PATH_START.match(body) is not None
    if not is_path and not is_image_name(body):
        return None
    if is_file(path := _expand(body)):
        return path
    if not is_path and ("/" not in body or re.search(r"\s", body)):
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

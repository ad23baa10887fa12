"""A short query -> several descriptions whose vectors are averaged: a prompt ensemble.

Averaging over sentences is how CLIP classifies (Radford et al. 2021, arXiv:2103.00020, section 3.1.4); descriptions
written by a language model are from Menon and Vondrick 2023 (arXiv:2210.07183). Shape suffixes: T texts, D joint space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.core.captioning.bank import read_candidates
from sightline.core.library import Library
from sightline.core.models.base import Encoder
from sightline.core.models.inputs import WrappedEncoder
from sightline.errors import InputError
from sightline.faces.integrations import text_generation as writing
from sightline.faces.integrations.text_generation import TextGenerator
from sightline.kit.text import printable

STANDARD_LINES = ("a photo of {}", "a picture that shows {}", "{short}")
"""A fixed set for whoever has no text model.

With the starter of 0.1 on Flickr8k val (1,000 pictures, 5,000 captions as queries) text to image R@10 is 40.7% without
and 40.8 with it: +0.1 points, 95% interval -0.3 to +0.4 over pictures. Each line alone, without the query, is worse
than the query (38.7, 37.3 and 36.3), and with half of the weight they lowered it by 0.6 points, which is why the query
keeps four fifths.
"""

STANDARD = "standard"
"""The name of these lines, where a file of others could be given."""

_HOLE = re.compile(r"\{(?:short)?\}")
_CLAUSE = re.compile(r"\s+(?:while|as|who|which|that|with|and|in front of|near|next to)\s+", re.IGNORECASE)
_SHORTEST_MAIN_PART = 4
"""Words that must be left of a sentence that is cut."""
_MOST = 16


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A query with the descriptions that join it."""

    query: str
    descriptions: tuple[str, ...]
    """Empty where there is none: then the query stands alone."""
    problem: str | None = None
    """Why there is none, where a model was asked."""


Expander = Callable[[str], Expansion]


class WrittenExpander:
    """Descriptions by a language model, remembered for each query."""

    def __init__(self, generator: TextGenerator, *, count: int = 4) -> None:
        if not 1 <= count <= _MOST:
            raise InputError(f"A query gets 1 to {_MOST} descriptions, not {count}.")
        self._generator = generator
        self._count = count
        self._known: dict[str, Expansion] = {}

    def __call__(self, query: str) -> Expansion:
        """A query's descriptions; none, with the reason, where the model fails or writes nothing of use."""
        if query not in self._known:
            self._known[query] = self._expand(query)
        return self._known[query]

    def _expand(self, query: str) -> Expansion:
        prompt = (
            f"Somebody searches photographs for the words in this JSON string: {writing.quote(query)}\n"
            f"Write {self._count} different short captions of photographs that would be found, one on each line, "
            "without numbers. Each must show what the words say, and add nothing that would exclude other such "
            "photographs."
        )
        asked = [(prompt, partial(_take_descriptions, query=query, count=self._count))]
        config = writing.WritingConfig(max_tokens=40 * self._count)
        ((found, problem),) = writing.ask(self._generator, asked, config)
        return Expansion(query=query, descriptions=found or (), problem=problem)


class FixedExpander:
    """The same lines for every query: `{}` in one is the query, `{short}` its main part, before `while`, `with`, ..."""

    def __init__(self, lines: Sequence[str] = STANDARD_LINES) -> None:
        """Raises InputError where there is no line."""
        if not lines:
            raise InputError("Expansions are sentences, one a line; there is none.")
        self._lines = tuple(lines)

    @classmethod
    def read(cls, path: Path) -> FixedExpander:
        """From a file, one line each, UTF-8; `#` begins a comment. Raises InputError for a file without lines."""
        return cls(read_candidates(path))

    def __call__(self, query: str) -> Expansion:
        """The lines, filled in; the query itself isn't among them."""
        whole = query.strip().rstrip(".").rstrip()
        parts = {"{}": whole, "{short}": _main_part(whole)}
        filled = [_HOLE.sub(lambda hole: parts[hole[0]], line) for line in self._lines]
        return Expansion(query=query, descriptions=tuple(line for line in dict.fromkeys(filled) if line != query))


class ExpandingEncoder(WrappedEncoder):
    """An encoder whose texts are averaged with their descriptions; all else is the encoder's own.

    The query keeps the weight `query_weight`; its descriptions share the rest. Searching and measuring take it like any
    encoder, and vectors of pictures stay what they are.
    """

    def __init__(self, encoder: Encoder, expander: Expander, *, query_weight: float = 0.8) -> None:
        if not 0 <= query_weight <= 1 or math.isnan(query_weight):
            raise InputError(f"query_weight must lie between 0 and 1; it is {query_weight}.")
        super().__init__(encoder)
        self._expander = expander
        self._query_weight = query_weight

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> (T, D), each the normalised mean of its own vector and those of its descriptions."""
        expansions = [self._expander(text) for text in texts]
        parts = [(text, *one.descriptions) for text, one in zip(texts, expansions, strict=True)]
        place = {text: row for row, text in enumerate(dict.fromkeys(text for part in parts for text in part))}
        vectors_ND = self._encoder.encode_texts(list(place))
        means = [self._mean(vectors_ND[[place[text] for text in part]]) for part in parts]
        means_TD: NDArray[np.float32] = np.stack(means) if means else np.zeros((0, self.dim), np.float32)
        return means_TD

    def _mean(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        own_D: NDArray[np.float32] = vectors_ND[0]
        others_ND = vectors_ND[1:]
        if not len(others_ND):
            return own_D
        mean_D = self._query_weight * own_D + (1 - self._query_weight) * others_ND.mean(axis=0)
        norm = float(np.linalg.norm(mean_D))
        unit_D: NDArray[np.float32] = (mean_D / norm).astype(np.float32) if norm > 1e-6 else own_D
        return unit_D


def _take_descriptions(answer: str, query: str, count: int) -> tuple[str, ...]:
    """Lines of an answer as captions: without numbers, bullets and repetitions. Raises Unusable where none is left."""
    kept: dict[str, str] = {}
    for text in writing.caption_lines(answer):
        if text.casefold() != query.casefold():
            kept.setdefault(text.casefold().rstrip("."), text)
    if not kept:
        raise writing.Unusable("it holds no description")
    return tuple(list(kept.values())[:count])


def _main_part(query: str) -> str:
    """A sentence up to its first clause or company; the whole of one that would get too short."""
    main = _CLAUSE.split(query, maxsplit=1)[0]
    return main if len(main.split()) >= _SHORTEST_MAIN_PART else query


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
        expander: Expander = WrittenExpander(writing.load_writer(writer, url=chat_url))
    else:
        expander = FixedExpander() if expansions == STANDARD else FixedExpander.read(Path(str(expansions)).expanduser())
    library.use_encoder(ExpandingEncoder(library.encoder, _telling(expander, tell)))


def _telling(expander: Expander, tell: Callable[[str], None]) -> Expander:
    """An expander that says what it added."""

    def expand(query: str) -> Expansion:
        expansion = expander(query)
        if expansion.problem is not None:
            tell(f"{query!r} is searched as it is: {printable(expansion.problem)}")
        elif expansion.descriptions:
            tell(f"{query!r} is searched together with: {printable('; '.join(expansion.descriptions))}")
        return expansion

    return expand

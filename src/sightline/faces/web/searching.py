"""From a search's parameters to its answer: parts, a ranking that is kept, one page of it, and why it may be empty."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sightline.core.models.base import Encoder
from sightline.core.search.engine import Match, Part, Query, SearchConfig, parse_query, prepare, rank
from sightline.errors import InputError
from sightline.faces.web.cursors import Cursor, read_cursor, write_cursor
from sightline.faces.web.libraries import OpenLibrary
from sightline.faces.web.models import PartRequest, QueryPart, SearchAnswer
from sightline.faces.web.rankings import Found, Ranking
from sightline.faces.web.records import show_hits
from sightline.kit.text import valid_text

MAX_PARTS = 32

_PARTS = TypeAdapter(list[PartRequest])


@dataclass(frozen=True, kw_only=True)
class Term:
    """A part of a query as it was asked."""

    kind: Literal["text", "id", "upload"]
    value: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A search. Two that are equal have one ranking."""

    terms: tuple[Term, ...]
    model: str
    where: str | None = None
    min_similarity: float | None = None
    match: Match = "pictures"

    @property
    def digest(self) -> str:
        """A short name for it."""
        return hashlib.blake2b(repr(self).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def config(self, top: int) -> SearchConfig:
        """How the engine ranks it, `top` rows deep."""
        return SearchConfig(top=max(top, 1), where=self.where, min_similarity=self.min_similarity, match=self.match)


def read_terms(*, q: str | None, parts: str | None, like: int | None) -> tuple[Term, ...]:
    """The parts of a query, however they are given. Raises InputError for what can't be understood."""
    terms = []
    if q is not None and q.strip():
        terms += [_text_term(part) for part in parse_query([q], allow_files=False)]
    if parts is not None:
        terms += [_request_term(part) for part in _read_parts(parts)]
    if like is not None:
        terms.append(Term(kind="id", value=str(like), weight=1.0))
    if len(terms) > MAX_PARTS:
        raise InputError(f"The query has {len(terms)} parts; at most {MAX_PARTS} are allowed.")
    return tuple(terms)


def _read_parts(text: str) -> list[PartRequest]:
    try:
        return _PARTS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, ("parts", *first["loc"])))
        raise InputError(
            f"{place}: {first['msg'].removeprefix('Value error, ')}. parts is a JSON list such as "
            '[{"text": "dogs"}, {"id": 12, "weight": -1}, {"upload": "KEY"}].'
        ) from error


def _text_term(part: Part) -> Term:
    return Term(kind="text", value=part.label, weight=part.weight)


def _request_term(part: PartRequest) -> Term:
    if part.text is not None:
        return Term(kind="text", value=part.text, weight=part.weight)
    if part.id is not None:
        return Term(kind="id", value=str(part.id), weight=part.weight)
    return Term(kind="upload", value=part.upload or "", weight=part.weight)


def answer(library: OpenLibrary, asked: Asked, *, limit: int, cursor: str | None) -> SearchAnswer:
    """One page of what was asked. Raises problems and InputError for what can't be searched."""
    start_s = time.perf_counter()
    place = read_cursor(cursor, query=asked.digest) if cursor else None
    version = library.version
    ranking = _find_ranking(library, asked, version=version, place=place)
    offset = place.offset if place else 0
    found = ranking.page(offset, limit)
    total = ranking.total
    end = offset + len(found)
    following = Cursor(query=asked.digest, version=place.version if place else version, offset=end)
    return SearchAnswer(
        hits=show_hits(library, found),
        next=write_cursor(following) if found and end < total else None,
        total=total,
        took_ms=round((time.perf_counter() - start_s) * 1000, 2),
        model=asked.model,
        parts=[_show_term(library, term) for term in asked.terms],
        note=_explain_nothing(library, asked) if total == 0 else None,
    )


def _find_ranking(library: OpenLibrary, asked: Asked, *, version: str, place: Cursor | None) -> Ranking:
    """The ranking that a page belongs to as long as it is kept, else that of the library as it is now."""
    if place and (kept := library.rankings.find(f"{asked.digest} {place.version}")):
        return kept
    key = f"{asked.digest} {place.version if place else version}"
    ranking = library.rankings.find(key)
    if ranking is None:
        ranking = _make_ranking(library, asked)
        library.rankings.keep(key, ranking)
    return ranking


def _make_ranking(library: OpenLibrary, asked: Asked) -> Ranking:
    store = library.library.store
    if not asked.terms:
        return Ranking.of_rows(store.ids(where=asked.where))
    if asked.model not in store.models():
        return Ranking.of_rows(np.empty(0, dtype=np.int64))
    encoder = library.checked_encoder(asked.model)
    query = prepare(store, encoder, [_make_part(library, term, encoder) for term in asked.terms])
    available, total = _count(library, asked, query)

    def rank_to(depth: int) -> Found:
        return [*rank(store, asked.model, query, config=asked.config(depth))]

    ranking = Ranking(rank_to, available=available, total=total, by_cosine=asked.match == "pictures")
    ranking.page(0, 1)  # a broken query fails before it is kept
    return ranking


def _count(library: OpenLibrary, asked: Asked, query: Query) -> tuple[int, int | None]:
    """How many rows the filter leaves, and how many a ranking has in the end, where that is known beforehand."""
    store = library.library.store
    if asked.where is None:
        stats = library.stats
        rows, embedded = stats.images, stats.models.get(asked.model, 0)
        own = sum(len(store.vectors(asked.model, [row])[0]) for row in query.exclude)
    else:
        rows = len(store.ids(where=asked.where))
        ids = store.ids(where=asked.where, model=asked.model)
        embedded, own = len(ids), len(query.exclude.intersection(ids.tolist()))
    known = asked.min_similarity is None and asked.match != "captions"
    return rows, embedded - own if known else None


def _make_part(library: OpenLibrary, term: Term, encoder: Encoder) -> Part:
    match term.kind:
        case "text":
            return Part(text=term.value, weight=term.weight)
        case "id":
            return Part(row=library.image(int(term.value)).id, weight=term.weight)
        case "upload":
            return Part(vector=library.uploads.get(term.value).vector(encoder), weight=term.weight)


def _show_term(library: OpenLibrary, term: Term) -> QueryPart:
    label = term.value
    if term.kind == "id":
        records = library.records([int(term.value)])
        label = valid_text(records[int(term.value)].path.name) if records else f"image {term.value}"
    elif term.kind == "upload":
        label = "your picture"
    return QueryPart(label=label, weight=term.weight, kind="text" if term.kind == "text" else "image")


def _explain_nothing(library: OpenLibrary, asked: Asked) -> str:
    """Why a search found nothing, in one sentence."""
    store = library.library.store
    if library.stats.images == 0:
        return "The library is empty: add a folder to it."
    left = len(store.ids(where=asked.where))
    if left == 0:
        return "No image passes the filter."
    if asked.terms and asked.model not in store.models():
        return f"No image has been indexed with {asked.model} yet."
    if not len(store.ids(where=asked.where, model=asked.model)):
        return f"None of the {left:,} images that pass the filter has been indexed with {asked.model} yet."
    if asked.match == "captions":
        return "No caption and no file name holds these words."
    return _explain_minimum(library, asked) or "There is no other image."


def _explain_minimum(library: OpenLibrary, asked: Asked) -> str | None:
    if asked.min_similarity is None:
        return None
    freely = Asked(terms=asked.terms, model=asked.model, where=asked.where, match=asked.match)
    nearest = _make_ranking(library, freely).page(0, 1)
    if not nearest:
        return None
    return f"No image reaches the similarity {asked.min_similarity:g}; the nearest has {nearest[0][1]:.3f}."

"""From a search's parameters to its answer: parts, a ranking that is kept, one page of it, and why it may be empty.

Beside it: models compared on one query, and vectors of texts and images.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from statistics import fmean

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sightline.core.indexing.hubs import fill_aside
from sightline.core.models.base import Encoder
from sightline.core.search.engine import (
    Query,
    SearchConfig,
    best_scores,
    embed_pixels,
    explain,
    find_newest,
    first_look,
    make_judge,
    prepare,
    rank,
    score,
    weigh,
)
from sightline.core.search.query import Part, parse_query
from sightline.core.search.relevance import UNLIKELY_BELOW, Verdict, count_likely
from sightline.core.search.rerank import require_words
from sightline.core.search.teaching import teach
from sightline.core.types import Example, Reason, TaughtWord
from sightline.errors import InputError
from sightline.faces.service import schemas
from sightline.faces.service.images import show_hits
from sightline.faces.service.library import OpenLibrary
from sightline.faces.service.models import require_name
from sightline.faces.service.rankings import DEPTHS, Cursor, Found, Ranking, read_cursor, write_cursor
from sightline.faces.service.uploads import decode_upload
from sightline.kit.text import valid_text

MAX_PARTS = 32
MAX_MODELS = 4
"""As many are compared at once."""

AGREE_AT = 10

_NEAREST = ("images", "taught", "marks", "other")
"""Kinds of queries whose hits are wanted as the nearest there are, however likely: none are folded away."""

_PARTS = TypeAdapter(list[schemas.PartRequest])


@dataclass(frozen=True, kw_only=True)
class Asked(SearchConfig):
    """A search: settings of the engine, with the parts and the model. Two that are equal have one ranking."""

    parts: tuple[schemas.PartRequest, ...]
    model: str

    @property
    def digest(self) -> str:
        """A short name for it."""
        return hashlib.blake2b(repr(self).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def join_parts(
    query: str | None, parts: Sequence[schemas.PartRequest] = (), *, like: int | None = None
) -> tuple[schemas.PartRequest, ...]:
    """The parts of a query, however they are given. Raises InputError for what can't be understood."""
    found = []
    if query is not None and query.strip():
        # Weights in words are bound by the query language alone.
        found += [
            schemas.PartRequest.model_construct(text=part.label, weight=part.weight)
            for part in parse_query([query], allow_files=False)
        ]
    found += parts
    if like is not None:
        found.append(schemas.PartRequest(id=like))
    if len(found) > MAX_PARTS:
        raise InputError(f"The query has {len(found)} parts; at most {MAX_PARTS} are allowed.")
    return tuple(found)


def read_parts(text: str) -> list[schemas.PartRequest]:
    """Parts that are given as JSON. Raises InputError for what can't be understood."""
    try:
        return _PARTS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, ("parts", *first["loc"])))
        raise InputError(
            f"{place}: {first['msg'].removeprefix('Value error, ')}. parts is a JSON list such as "
            '[{"text": "dogs"}, {"id": 12, "weight": -1}, {"upload": "KEY"}].'
        ) from error


def answer(library: OpenLibrary, asked: Asked, *, limit: int, cursor: str | None) -> schemas.SearchAnswer:
    """One page of what was asked. Raises InputError for what can't be searched, ModelError for the model."""
    start_s = time.perf_counter()
    place = read_cursor(cursor, query=asked.digest) if cursor else None
    version = library.version
    ranking = _find_ranking(library, asked, version=version, place=place)
    offset = place.offset if place else 0
    found = ranking.page(offset, limit)
    total = ranking.total
    end = offset + len(found)
    following = Cursor(query=asked.digest, version=place.version if place else version, offset=end)
    return schemas.SearchAnswer(
        hits=show_hits(
            library, found, ranking.rate(found), ranking.why(found), each_copy=asked.each_copy or not asked.parts
        ),
        next=write_cursor(following) if found and end < total else None,
        total=total,
        took_ms=round((time.perf_counter() - start_s) * 1000, 2),
        model=asked.model,
        parts=[_show_part(library, part) for part in asked.parts],
        note=_explain_nothing(library, asked) if total == 0 else None,
        verdict=None if ranking.verdict is None else _show_verdict(ranking.verdict, ranking.likely),
    )


def _show_verdict(verdict: Verdict, likely: int | None) -> schemas.VerdictAnswer:
    shown = {"present": verdict.present, "matches": verdict.matches, "notices": verdict.notices}
    return schemas.VerdictAnswer.model_validate({**shown, "likely": likely, "unlikely_below": UNLIKELY_BELOW})


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
    store = library.store
    if not asked.parts:
        return Ranking.of_rows(store.ids(where=asked.where))
    if asked.model not in store.models():
        return Ranking.of_rows(np.empty(0, dtype=np.int64))
    encoder = library.checked_encoder(asked.model)
    query = prepare(store, encoder, [_make_part(library, part, encoder) for part in asked.parts])
    fill_aside(store, encoder)
    judge = make_judge(store, encoder, query, config=asked)
    query = weigh(store, query, judge, config=asked)
    available, total = _count(library, asked, query)

    def scores(found: Found) -> list[float]:
        rows = [(row, similarity or 0.0) for row, similarity in found]
        return score(store, asked.model, query, rows)

    read_again = _make_second_look(library, asked, query, encoder) if asked.rerank else None

    def rank_to(depth: int) -> Found:
        found: Found = [*rank(store, asked.model, query, config=replace(asked, top=max(depth, 1)))]
        if (least := asked.min_probability) is not None:
            rated = zip(found, judge.rate(scores(found)), strict=True)
            found = [one for one, rating in rated if rating >= least]
        return found if read_again is None else [*read_again([(row, cosine or 0.0) for row, cosine in found])]

    def rate(found: Found) -> list[float | None]:
        return [*judge.rate(scores(found))]

    in_order = asked.min_similarity is None and asked.min_probability is None
    ranking = Ranking(rank_to, available=available, total=total, by_cosine=in_order)

    def why(found: Found) -> list[tuple[Reason, ...]]:
        rows = [(row, cosine or 0.0) for row, cosine in found]
        return [*explain(query, judge, rows, scores(found)).values()]

    ranking.rate, ranking.why = rate, why
    # A broken query fails before it is kept.
    first = [(row, cosine or 0.0) for row, cosine in ranking.page(0, DEPTHS[0])]
    best = scores([*first])
    conclude = partial(judge.conclude, *best_scores(query, first, best))
    ranking.verdict = conclude()
    if asked.sort == "date":
        likely = dict(find_newest(store, asked.model, query, judge, config=replace(asked, top=1)))
        newest = Ranking.of_rows(np.array([*likely], dtype=np.int64), [*likely.values()])
        newest.rate, newest.why, newest.likely = rate, ranking.why, len(newest)
        newest.verdict = conclude(some_follow=bool(likely))
        return newest
    if query.kind not in _NEAREST:
        ranking.likely = _count_likely(ranking, [*judge.rate(best)])
    return ranking


def _count_likely(ranking: Ranking, first: Sequence[float | None]) -> int | None:
    """Number of rows up to the last that is likely right; None where that can't be told, or they are thousands.

    `first` are the ratings to the first depth.
    """
    for depth in DEPTHS:
        ratings = first if depth == DEPTHS[0] else ranking.rate(ranking.page(0, depth))
        known = [rating for rating in ratings if rating is not None]
        if not known or len(known) < len(ratings):
            return None
        if len(ratings) < depth or known[-1] < UNLIKELY_BELOW:
            return count_likely(known)
    return None


def _make_second_look(
    library: OpenLibrary, asked: Asked, query: Query, encoder: Encoder
) -> Callable[[list[tuple[int, float]]], list[tuple[int, float]]]:
    """What reads the head of a ranking again, once: the first depth of rankings is no less than any head."""
    require_words(query.text_parts)
    heads: list[list[tuple[int, float]]] = []

    def read_again(found: list[tuple[int, float]]) -> list[tuple[int, float]]:
        if not heads:
            head = found[: asked.rerank]
            records = library.records([row for row, _ in head])
            look = library.second_look()
            heads.append(
                look.reorder(
                    head,
                    records,
                    query.text_parts,
                    nats_per_cosine=encoder.card.nats_per_cosine,
                    scores=first_look(
                        query,
                        head,
                        score(library.store, asked.model, query, head),
                        config=asked,
                        card=encoder.card,
                    ),
                )
            )
        return [*heads[0], *found[asked.rerank :]]

    return read_again


def _count(library: OpenLibrary, asked: Asked, query: Query) -> tuple[int, int | None]:
    """Number of rows the filter leaves, and number a ranking has in the end, where that is known beforehand."""
    store = library.store
    if asked.where is None:
        stats = library.stats
        rows, embedded = stats.images, stats.models.get(asked.model, 0)
        own = len(store.vectors(asked.model, sorted(query.exclude))[0])
    else:
        rows = len(store.ids(where=asked.where))
        ids = store.ids(where=asked.where, model=asked.model)
        embedded, own = len(ids), len(query.exclude.intersection(ids.tolist()))
    known = asked.min_similarity is None and asked.min_probability is None and asked.match != "captions"
    return rows, embedded - own - _count_copies(library, asked, query) if known else None


def _count_copies(library: OpenLibrary, asked: Asked, query: Query) -> int:
    """Number of rows of a ranking that another one stands for."""
    equal = {} if asked.each_copy else library.store.equal_rows()
    if not equal:
        return 0
    ranked = set(library.store.ids(where=asked.where, model=asked.model).tolist()) - query.exclude
    among = [first for row, first in equal.items() if row in ranked]
    return len(among) - len(set(among))


def _make_part(library: OpenLibrary, part: schemas.PartRequest, encoder: Encoder) -> Part:
    if part.id is not None:
        return Part(row=library.image(part.id).id, weight=part.weight, is_mark=part.mark)
    if part.upload is not None:
        vector_D = library.shared.uploads.get(part.upload).vector(encoder)
        return Part(vector=vector_D, weight=part.weight, is_mark=part.mark)
    return Part(text=part.text, weight=part.weight)


def _show_part(library: OpenLibrary, part: schemas.PartRequest) -> schemas.QueryPart:
    label = part.text or "your picture"
    if part.id is not None:
        records = library.records([part.id])
        label = valid_text(records[part.id].path.name) if records else f"image {part.id}"
    return schemas.QueryPart(label=label, weight=part.weight, kind="image" if part.text is None else "text")


def _explain_nothing(library: OpenLibrary, asked: Asked) -> str:
    """Why a search found nothing, in one sentence."""
    store = library.store
    if library.stats.images == 0:
        return "The library is empty: add a folder to it."
    left = len(store.ids(where=asked.where))
    if left == 0:
        return "No image passes the filter."
    if asked.parts and asked.model not in store.models():
        return f"No image has been indexed with {asked.model} yet."
    if not len(store.ids(where=asked.where, model=asked.model)):
        return f"None of the {left:,} images that pass the filter has been indexed with {asked.model} yet."
    if asked.match == "captions":
        return "These words are written about no image."
    if asked.sort == "date" and asked.min_probability is None:
        return "No image is likely enough to show it. Sorted by relevance, the nearest images come."
    if asked.min_probability is not None:
        return f"No image is right with a probability of {asked.min_probability:g} or more."
    return _explain_minimum(library, asked) or "There is no other image."


def _explain_minimum(library: OpenLibrary, asked: Asked) -> str | None:
    if asked.min_similarity is None:
        return None
    freely = replace(asked, min_similarity=None, rerank=0)
    nearest = _make_ranking(library, freely).page(0, 1)
    if not nearest:
        return None
    return f"No image reaches the similarity {asked.min_similarity:g}; the nearest has {nearest[0][1]:.3f}."


# --- words of the user's own ------------------------------------------------------------------------------------


def list_words(library: OpenLibrary) -> schemas.WordsAnswer:
    """Words that were taught by example, by name."""
    return schemas.WordsAnswer(words=[_show_word(library, word) for word in library.words()])


def teach_word(library: OpenLibrary, request: schemas.TeachRequest) -> schemas.WordAnswer:
    """Give a word examples, images of the library. Raises NotFoundError for one that is gone, InputError for a name."""
    records = [library.image(id_) for id_ in request.images]
    examples = [Example(path=record.path, content_hash=record.content_hash) for record in records]
    word = teach(library.store, library.checked_encoder(library.model), request.name, examples, kind=request.kind)
    library.changed()
    return _show_word(library, word)


def forget_word(library: OpenLibrary, name: str) -> schemas.WordsAnswer:
    """Forget a word; those that are left. Raises NotFoundError where there is none of that name."""
    library.forget(name)
    library.changed()
    return list_words(library)


def _show_word(library: OpenLibrary, word: TaughtWord) -> schemas.WordAnswer:
    rows = [record.id for example in word.examples for record in library.store.find_hash(example.content_hash)[:1]]
    return schemas.WordAnswer(
        name=word.name, kind=word.kind, examples=len(word.examples), images=[row for row in rows if row is not None]
    )


# --- models side by side ----------------------------------------------------------------------------------------


def read_model_names(text: str, library: OpenLibrary) -> list[str]:
    """Names of models with vectors here, separated by commas. Raises InputError and ModelError for others."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or len(names) > MAX_MODELS:
        raise InputError(f"Name one to {MAX_MODELS} models, separated by commas.")
    known = library.store.models()
    return [require_name(name, known) for name in names]


def rank_timed(library: OpenLibrary, model: str, parts: Sequence[Part], top: int) -> tuple[Found, float]:
    """The best rows by one model, and how many milliseconds it took, the model being loaded."""
    store, encoder = library.store, library.checked_encoder(model)
    encoder.encode_texts(["warm"])  # the first run opens the text tower
    start_s = time.perf_counter()
    found: Found = [*rank(store, model, prepare(store, encoder, parts), config=SearchConfig(top=top))]
    return found, round((time.perf_counter() - start_s) * 1000, 2)


def show_comparison(library: OpenLibrary, ranked: dict[str, tuple[Found, float]], limit: int) -> schemas.CompareAnswer:
    """Each model's first hits with its time, and how far the models agree."""
    compared = [
        schemas.ComparedModel(name=name, hits=show_hits(library, found[:limit]), took_ms=took_ms)
        for name, (found, took_ms) in ranked.items()
    ]
    return schemas.CompareAnswer(models=compared, agreement=measure_agreement([found for found, _ in ranked.values()]))


def measure_agreement(rankings: Sequence[Found]) -> float | None:
    """The mean share of the first ten that two models have in common; None with fewer than two, or nothing found."""
    firsts = [{row for row, _ in found[:AGREE_AT]} for found in rankings]
    pairs = [(a, b) for a, b in combinations(firsts, 2) if a and b]
    return fmean(len(a & b) / min(len(a), len(b)) for a, b in pairs) if pairs else None


# --- vectors ----------------------------------------------------------------------------------------------------


def embed_texts(library: OpenLibrary, model: str, texts: Sequence[str]) -> schemas.EmbedAnswer:
    """Vectors of texts by a model whose name was checked."""
    encoder = library.encoder_of(model)
    vectors_ND = encoder.encode_texts(texts)
    return schemas.EmbedAnswer(model=encoder.card.name, dim=vectors_ND.shape[1], vectors=vectors_ND.tolist())


def embed_uploads(library: OpenLibrary, model: str, uploads: Sequence[bytes]) -> schemas.EmbedAnswer:
    """Vectors of images that a client sent. Raises InputError for one that can't be read."""
    encoder = library.encoder_of(model)
    side_px = encoder.card.preprocessing.size_px
    vectors_ND = np.stack([embed_pixels(encoder, decode_upload(data, min_side_px=side_px).rgb) for data in uploads])
    return schemas.EmbedAnswer(model=encoder.card.name, dim=vectors_ND.shape[1], vectors=vectors_ND.tolist())

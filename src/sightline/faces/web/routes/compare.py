"""Routes: models side by side on one query."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from sightline.core.search.engine import Part, SearchConfig, parse_query, prepare, rank
from sightline.faces.web.encoders import require_name
from sightline.faces.web.libraries import OpenLibrary, PickedLibrary
from sightline.faces.web.models import MAX_TEXT, CompareAnswer, ComparedModel
from sightline.faces.web.problems import Problem
from sightline.faces.web.records import show_hits

MAX_MODELS = 4
_AGREE_AT = 10

router = APIRouter(tags=["compare"])

Found = list[tuple[int, float]]


@router.get("/api/compare")
async def compare_models(
    library: PickedLibrary,
    q: Annotated[str, Query(min_length=1, max_length=MAX_TEXT, examples=["dogs in the snow"])],
    models: Annotated[
        str, Query(min_length=1, max_length=2500, description="Names, separated by commas.", examples=["starter"])
    ],
    limit: Annotated[int, Query(ge=1, le=100)] = 12,
) -> CompareAnswer:
    """What each of several models of the library finds, how long it takes, and how much of the first ten they share.

    The time is that of embedding the words and ranking all images, with the model loaded.
    """
    names = await run_in_threadpool(_read_names, models, library)
    parts = parse_query([q], allow_files=False)
    ranked = {
        name: await library.compute(name, "words", _rank, library, name, parts, max(limit, _AGREE_AT)) for name in names
    }
    return await run_in_threadpool(_show, library, ranked, limit)


def _show(library: OpenLibrary, ranked: dict[str, tuple[Found, float]], limit: int) -> CompareAnswer:
    compared = [
        ComparedModel(name=name, hits=show_hits(library, [*found[:limit]]), took_ms=took_ms)
        for name, (found, took_ms) in ranked.items()
    ]
    return CompareAnswer(models=compared, agreement=_measure_agreement([found for found, _ in ranked.values()]))


def _read_names(text: str, library: OpenLibrary) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or len(names) > MAX_MODELS:
        raise Problem(422, f"Name one to {MAX_MODELS} models, separated by commas.", kind="input")
    known = library.library.store.models()
    return [require_name(name, known) for name in names]


def _rank(library: OpenLibrary, model: str, parts: Sequence[Part], top: int) -> tuple[Found, float]:
    """The best rows by one model, and how many milliseconds it took."""
    store, encoder = library.library.store, library.checked_encoder(model)
    encoder.encode_texts(["warm"])  # the first run opens the text tower
    start_s = time.perf_counter()
    found = rank(store, model, prepare(store, encoder, parts), config=SearchConfig(top=top))
    return found, round((time.perf_counter() - start_s) * 1000, 2)


def _measure_agreement(rankings: Sequence[Found]) -> float | None:
    """The mean share of the first ten that two models have in common; None with fewer than two, or nothing found."""
    firsts = [{row for row, _ in found[:_AGREE_AT]} for found in rankings]
    pairs = [(a, b) for a, b in combinations(firsts, 2) if a and b]
    return fmean(len(a & b) / min(len(a), len(b)) for a, b in pairs) if pairs else None

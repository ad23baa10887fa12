"""From a query's parts to hits: one vector for each part, combined, and the nearest rows under the filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from sightline.core.models.bank import hub_weight, load_bank
from sightline.core.models.inputs import read_text
from sightline.core.search.background import Background
from sightline.core.search.relevance import (
    DEFAULT,
    LEAST_IMAGES,
    SAMPLED_ROWS,
    UNLIKELY_BELOW,
    Calibration,
    Context,
    Judge,
    Kind,
    Verdict,
)
from sightline.core.search.rerank import MAX_RERANK, require_words
from sightline.core.search.teaching import aim_at_words, find_words
from sightline.core.search.written import Written, read_evidence
from sightline.core.store.base import Lift
from sightline.core.store.texts import content_words
from sightline.core.types import Hit
from sightline.errors import ImageError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.bank import Bank
    from sightline.core.models.base import Encoder
    from sightline.core.models.cards import ModelCard
    from sightline.core.models.inputs import TextReading
    from sightline.core.search.query import Part
    from sightline.core.search.rerank import SecondLook
    from sightline.core.search.when_where import ReadAs
    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord, Reason

Match = Literal["pictures", "captions", "both"]
Sort = Literal["relevance", "date"]

_MATCHED_ROWS = 10_000
"""The best full-text matches of what is typed, which a search of captions alone orders."""
_LIKELY_DEPTHS = (250, 4000)
"""Rows that are rated at first, and at second, where all that are likely are wanted; then it is every row."""
_SPARED_ROWS = 200
"""Images with all words of a query whose pictures can't count against them; where more hold them, they tell less."""
_SMALLEST_NORM = 1e-6

_AWAY = 0.5
_RIGHT = 1.5
_WRONG = 0.3
"""Weights of negative parts and of marked images, in standard deviations of the query; docs/search.md has what was
measured."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of a search."""

    top: int = 10
    where: str | None = None
    """A filter, such as `taken_at > '2024-01-01' and path like '%holiday%'`."""
    min_similarity: float | None = None
    """Hits below this cosine are left out. None keeps all: no constant fits every query."""
    match: Match = "both"
    """`both` goes by what an image shows and by what is written about it; `pictures` leaves out what is written;
    `captions` finds only images about which a word of the query is written."""
    typing: bool = False
    """True while the query is being typed: its last word may be the beginning of one."""
    each_copy: bool = False
    """True gives each exact copy a place of its own; else the best placed one stands for all."""
    rerank: int = 0
    """Hits at the top that are read again by a model that takes image and words together; 0 reads none again."""
    hub_correction: bool = True
    """Images that lie near to everything are ranked lower, where the model has a bank that knows them."""
    min_probability: float | None = None
    """Hits of less probability than this are left out; None keeps all."""
    sort: Sort = "relevance"
    """`date` gives the newest first of those alone that are likely right, or have the minimum probability."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top is {self.top}; it must be at least 1.")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise InputError(f"min_similarity is {self.min_similarity:g}; a cosine lies between -1 and 1.")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise InputError(f"min_probability is {self.min_probability:g}; a probability lies between 0 and 1.")
        if self.sort not in get_args(Sort):
            raise InputError(f"sort is {self.sort!r}; it must be relevance or date.")
        if self.sort == "date" and self.rerank:
            raise InputError("Sorted by date, hits keep no order that a second look could mend; leave rerank out.")
        if self.match not in ("pictures", "captions", "both"):
            raise InputError(f"match is {self.match!r}; it must be pictures, captions or both.")
        if not 0 <= self.rerank <= MAX_RERANK:
            raise InputError(f"rerank is {self.rerank}; it must be from 0, for no second look, to {MAX_RERANK} hits.")


class Hits(list[Hit]):
    """Hits, best first, with what is to be said of the query as a whole."""

    def __init__(self, hits: Iterable[Hit] = (), *, verdict: Verdict | None = None) -> None:
        super().__init__(hits)
        self.verdict = verdict or Verdict()
        self.read_as: tuple[ReadAs, ...] = ()
        """Words of the query that became filters."""
        self.offered: tuple[ReadAs, ...] = ()
        """Filters that words may stand for, which stayed words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """A query that can be ranked: where it points, its words, and the images it is made of."""

    vector_D: NDArray[np.float32]
    words: str
    """Those of the positive parts, for full text."""
    unwanted: tuple[str, ...] = ()
    """The texts of the negative parts, for full text."""
    text_parts: tuple[tuple[str, float], ...] = ()
    """The parts that are words, each with its weight, for a second look."""
    exclude: frozenset[int]
    """Rows of the query's own images, which are no results."""
    readings: tuple[TextReading, ...] = ()
    """The texts as the model's tokenizer reads them, where it is on this machine."""
    words_share: float = 0.0
    """How much of the parts' weight is words, where nothing else moves the direction; 0 with negative parts beside
    others, words taught by example and marks. What isn't words needs no correction for hubs."""
    kind: Kind = "words"
    """By which its hits are rated."""
    bank: Bank | None = None
    """The model's."""
    knows_hubs: bool = False
    """True where all of the library's images were measured with it."""
    text_share: float = 0.0
    """How much of the weight of what is looked for is words."""
    written: Written | None = None
    """What is written about images (`weigh`)."""
    nats_per_score: float = 1.0
    """By which it is brought to the scale of scores."""

    @property
    def hub_weight(self) -> float:
        """The part of its hubness that an image's cosine is lowered by, where hubs are corrected."""
        return hub_weight(self.tokens) * self.words_share if self.knows_hubs else 0.0

    @property
    def tokens(self) -> int:
        """Word pieces of its words, or words where the tokenizer is elsewhere."""
        return sum(reading.read for reading in self.readings) or sum(len(text.split()) for text, _ in self.text_parts)


def search(
    store: Store,
    encoder: Encoder,
    parts: Sequence[Part],
    *,
    config: SearchConfig,
    look_again: Callable[[], SecondLook] | None = None,
) -> Hits:
    """Hits, best first, with a verdict. An image of the query that is in the library is not among them.

    `look_again` gives what `config.rerank` needs. Raises InputError for a broken filter or an image that can't be read,
    and for full text or a second look without words.
    """
    query = prepare(store, encoder, parts)
    judge = make_judge(store, encoder, query, config=config)
    query = weigh(store, query, judge, config=config)
    n_again = config.rerank if look_again is not None else 0
    if n_again:
        require_words(query.text_parts)
    found = rank(store, encoder.card.name, query, config=replace(config, top=max(config.top, n_again)))
    scores = score(store, encoder.card.name, query, found)
    verdict = partial(judge.conclude, *best_scores(query, found, scores))
    if config.sort == "date":
        found = find_newest(store, encoder.card.name, query, judge, config=config)
        scores = score(store, encoder.card.name, query, found)
    score_of = dict(zip((row for row, _ in found), scores, strict=True))
    rating_of = dict(zip(score_of, judge.rate(scores), strict=True))
    if (least := config.min_probability) is not None:
        found = [(row, similarity) for row, similarity in found if rating_of[row] >= least]
    if n_again and look_again is not None:
        head, rest = found[:n_again], found[n_again:]
        ids = [row for row, _ in head]
        head = look_again().reorder(
            head,
            dict(zip(ids, store.get(ids), strict=True)),
            query.text_parts,
            nats_per_cosine=encoder.card.nats_per_cosine,
            scores=first_look(query, head, [score_of[row] for row in ids], config=config, card=encoder.card),
        )
        found = [*head, *rest]
    found = found[: config.top]
    reasons = explain(query, judge, found, [score_of[row] for row, _ in found])
    hits = make_hits(store, found, rating_of, reasons, each_copy=config.each_copy)
    return Hits(hits, verdict=verdict(some_follow=bool(hits)))


def prepare(store: Store, encoder: Encoder, parts: Sequence[Part]) -> Query:
    """Parts -> what can be ranked. Raises InputError for an image that can't be read, StoreError for no such row."""
    own_rows = [_find_row(store, part) for part in parts]
    bank = load_bank(encoder)
    known = store.words()
    taught = [find_words(part.text, known) if part.text else [] for part in parts]
    vectors = [_embed_part(store, encoder, part, row) for part, row in zip(parts, own_rows, strict=True)]
    vectors_PD = _normalise(np.stack(vectors).astype(np.float64))
    weights_P = np.array([part.weight for part in parts])
    marked_P = np.array([part.is_mark for part in parts])
    is_plain = not any(taught) and not marked_P.any() and not weights_P.min() < 0 < weights_P.max()
    if is_plain:
        vector_D = combine(vectors_PD, weights_P)
    else:
        background = Background.measure(store, encoder.card.name)
        directions_PD = np.stack(
            [
                aim_at_words(store, encoder, background, part.text, words)
                if part.text and words
                else background.scale(vector_D)
                for part, words, vector_D in zip(parts, taught, vectors_PD, strict=True)
            ]
        )
        asked_D = aim(background, directions_PD[~marked_P], weights_P[~marked_P])
        vector_D = correct(background, asked_D, vectors_PD[marked_P], weights_P[marked_P] > 0)
    texts = [part.text for part in parts if part.text is not None]
    return Query(
        vector_D=vector_D,
        words=" ".join(part.text for part in parts if part.text is not None and part.weight > 0),
        unwanted=tuple(part.text for part in parts if part.text is not None and part.weight < 0),
        text_parts=tuple((part.text, part.weight) for part in parts if part.text is not None),
        exclude=frozenset(
            row.id
            for part, row in zip(parts, own_rows, strict=True)
            if row and row.id is not None and not (part.is_mark and part.weight > 0)
        ),
        readings=tuple(reading for text in texts if (reading := read_text(encoder, text)) is not None),
        words_share=_share_of_words(parts) if is_plain else 0.0,
        text_share=_share_of_words([part for part in parts if part.weight > 0] or parts),
        kind=_kind_of(parts, is_taught=any(taught)),
        bank=bank,
        knows_hubs=bank is not None and store.knows_hubness(encoder.card.name, bank.id),
    )


def weigh(store: Store, query: Query, judge: Judge, *, config: SearchConfig) -> Query:
    """The query with what is written about images, which the judge's scale makes comparable with what they show.

    Images about which all words of a negative part are written are no results. Raises InputError where captions alone
    are searched without words.
    """
    if config.match == "pictures":
        return query
    if config.match == "captions" and not query.words:
        raise InputError("Captions are searched by words: give words, or match pictures.")
    unwanted = store.holding(query.unwanted).tolist() if query.unwanted else []
    written = read_evidence(store, query.words, typing=config.typing, share=query.text_share) if query.words else None
    slope = judge.nats_per_score
    if slope <= 0:
        written = None
    if written is not None:
        written = _spare_full(store, query, judge, written)
    return replace(query, exclude=query.exclude.union(unwanted), written=written, nats_per_score=slope)


def _spare_full(store: Store, query: Query, judge: Judge, written: Written) -> Written:
    """What holds all words loses by its picture no more than an ordinary image of the library would.

    A page of text looks like nothing that it is about, so that a lower score says nothing more against it.
    """
    rows = written.ids[written.is_full]
    if not 0 < len(rows) <= _SPARED_ROWS:
        return written
    found = store.query(query.vector_D, len(rows), model=judge.model, among=rows)
    nats_M = written.nats.copy()
    for (row, _), plain in zip(found, score(store, judge.model, query, found), strict=True):
        below = max(judge.context.library[0] - plain, 0.0)
        nats_M[np.searchsorted(written.ids, row)] += query.text_share * below * judge.nats_per_score
    return replace(written, nats=nats_M)


def best_scores(
    query: Query, found: Sequence[tuple[int, float]], scores: Sequence[float]
) -> tuple[float | None, float | None]:
    """The best score of rows by what they show alone, and with what is written; None without rows."""
    lifts = _lifts(query, [row for row, _ in found])
    return max((one - lift for one, lift in zip(scores, lifts, strict=True)), default=None), max(scores, default=None)


def first_look(
    query: Query, found: Sequence[tuple[int, float]], scores: Sequence[float], *, config: SearchConfig, card: ModelCard
) -> list[float]:
    """What a second look counts for the first one: what rows were ranked by, with what is written in its own nats."""
    rows = [row for row, _ in found]
    nats = np.zeros(len(rows)) if query.written is None else query.written.of(rows)
    if config.hub_correction:
        plain = [one - lift for one, lift in zip(scores, _lifts(query, rows), strict=True)]
    else:
        plain = [cosine for _, cosine in found]
    return [one + float(nat) / card.nats_per_cosine for one, nat in zip(plain, nats, strict=True)]


def explain(
    query: Query, judge: Judge, found: Sequence[tuple[int, float]], scores: Sequence[float]
) -> dict[int, tuple[Reason, ...]]:
    """Why rows are there: by what is written about them, and by what they show where that alone makes them likely."""
    rows = [row for row, _ in found]
    shown = judge.rate([one - lift for one, lift in zip(scores, _lifts(query, rows), strict=True)])
    reasons: dict[int, tuple[Reason, ...]] = {}
    for row, rating in zip(rows, shown, strict=True):
        told: tuple[Reason, ...] = () if query.written is None else query.written.kinds(row)
        reasons[row] = ("picture", *told) if rating >= UNLIKELY_BELOW or not told else told
    return reasons


def _lifts(query: Query, rows: Sequence[int]) -> list[float]:
    if query.written is None:
        return [0.0] * len(rows)
    return [float(nats) / query.nats_per_score for nats in query.written.of(rows)]


def _share_of_words(parts: Sequence[Part]) -> float:
    weights = [(abs(part.weight), part.text is not None) for part in parts]
    return sum(weight for weight, is_text in weights if is_text) / sum(weight for weight, _ in weights)


def _kind_of(parts: Sequence[Part], *, is_taught: bool) -> Kind:
    wanted = {part.text is not None for part in parts if part.weight > 0}
    against = {part.text is not None for part in parts if part.weight < 0}
    if any(part.is_mark for part in parts):
        return "marks"
    if is_taught:
        return "taught"
    if against:
        return "minus" if wanted == against == {True} else "other"
    return "words" if wanted == {True} else "images"


def make_judge(store: Store, encoder: Encoder, query: Query, *, config: SearchConfig) -> Judge:
    """What rates the hits of a query, from the library under the filter and from the model's bank.

    Raises InputError as `Store.query` does, ModelError for a calibration that the model's card has wrong.
    """
    card = encoder.card
    calibration = Calibration.from_card(card.relevance, model=card.name, kind=query.kind)
    images, sample_S = store.background(
        query.vector_D, SAMPLED_ROWS, model=card.name, where=config.where, hub_weight=query.hub_weight
    )
    is_measured = query.knows_hubs or not calibration.needs_bank  # else an older library that is still being measured
    if not is_measured or (query.kind != "words" and images < LEAST_IMAGES):
        calibration = DEFAULT
    context = Context.make(
        query.vector_D,
        sample_S,
        images=images,
        tokens=query.tokens,
        bank=query.bank,
        hub_weight=query.hub_weight,
    )
    by_sight = config.match != "captions"
    return Judge(model=card.name, calibration=calibration, context=context, readings=query.readings, by_sight=by_sight)


def score(store: Store, model: str, query: Query, found: Sequence[tuple[int, float]]) -> list[float]:
    """What a judge rates rows by: their cosines, less the correction for hubs, with what is written about them."""
    rows = [row for row, _ in found]
    hubness = store.hubness(model, rows) if query.hub_weight else {}
    lifted = zip(found, _lifts(query, rows), strict=True)
    return [cosine - query.hub_weight * hubness.get(row, 0.0) + lift for (row, cosine), lift in lifted]


def find_newest(
    store: Store, model: str, query: Query, judge: Judge, *, config: SearchConfig
) -> list[tuple[int, float]]:
    """All rows that are likely right, or have the minimum probability, with their cosines, newest first."""
    least = UNLIKELY_BELOW if config.min_probability is None else config.min_probability
    in_order = config.hub_correction
    likely: dict[int, float] = {}
    for depth in (*(_LIKELY_DEPTHS if in_order else ()), max(judge.context.images, 1)):
        found = rank(store, model, query, config=replace(config, top=depth))
        ratings = judge.rate(score(store, model, query, found))
        likely = {row: cosine for (row, cosine), rating in zip(found, ratings, strict=True) if rating >= least}
        if len(found) < depth or len(likely) < len(found):
            break
    newest_N = store.ids(where=config.where, model=model)
    return [(row, likely[row]) for row in newest_N[np.isin(newest_N, list(likely))].tolist()]


def rank(store: Store, model: str, query: Query, *, config: SearchConfig) -> list[tuple[int, float]]:
    """The best rows with their cosines, best first: `config.top` of them, less those below the minimum similarity.

    Exact copies take one place, unless `config.each_copy`. Raises InputError for a broken filter, and for full text
    without words.
    """
    equal = {} if config.each_copy else store.equal_rows()
    depth = config.top
    while True:
        found = _rank_rows(store, model, query, config=replace(config, top=depth))
        first = {equal.get(row, row): (row, similarity) for row, similarity in reversed(found)}
        if len(found) < depth or len(first) >= config.top:
            break
        depth = min(4 * depth, config.top + len(equal))
    kept = {row for row, _ in first.values()}
    return [(row, similarity) for row, similarity in found if row in kept][: config.top]


def _rank_rows(store: Store, model: str, query: Query, *, config: SearchConfig) -> list[tuple[int, float]]:
    """Every row, copies too."""
    lift, among = None, None
    if (written := query.written) is not None:
        values = (written.nats - written.absent) / query.nats_per_score
        lift = Lift(ids=written.ids, values=values.astype(np.float32))
    if config.match == "captions":
        among = _find_matched(store, query, config) if written is None else written.ids
    found = store.query(
        query.vector_D,
        config.top,
        model=model,
        where=config.where,
        exclude=query.exclude,
        hub_weight=query.hub_weight if config.hub_correction else 0.0,
        lift=lift,
        among=among,
    )
    if config.min_similarity is not None:
        found = [(row, similarity) for row, similarity in found if similarity >= config.min_similarity]
    return found


def _find_matched(store: Store, query: Query, config: SearchConfig) -> NDArray[np.int64]:
    """Rows of words that tell nothing, or stand in too many rows to tell much: all, or the best while typing."""
    if config.typing:
        matched = store.match(query.words, _MATCHED_ROWS, where=config.where, typing=True)
        return np.array(sorted(row for row, _ in matched), dtype=np.int64)
    words = query.words.split()
    return store.holding([word for word in words if content_words(word)] or words)


def combine(parts_PD: NDArray[np.float64], weights_P: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weighted parts (P, D) of length 1, all of one sign -> the query's direction (D,), L2-normalised.

    Negative parts alone are pointed away from. Raises InputError where parts cancel out.
    """
    return _direction(weights_P @ parts_PD)


def aim(
    background: Background, directions_PD: NDArray[np.float64], weights_P: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted parts (P, D), each scaled -> their direction (D,), scaled where there is a subject; zero for no parts.

    A negative part must not push the subject out: first it loses what the subject tells of it anyway, by the library's
    own covariance, so that only what it shows beyond is held against an image. Raises InputError where parts
    cancel out.
    """
    positive = weights_P > 0
    if not positive.any():
        return weights_P @ directions_PD
    subject_D = background.scale(_direction(weights_P[positive] @ directions_PD[positive]).astype(np.float64))
    away_D = weights_P[~positive] @ directions_PD[~positive]
    return background.scale(subject_D + _AWAY * background.remove(away_D, subject_D))


def correct(
    background: Background, asked_D: NDArray[np.float64], marked_ND: NDArray[np.float64], right_N: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A direction (D,), scaled or zero, after images (N, D) were marked right or wrong; L2-normalised.

    Rocchio's relevance feedback (1971), with the discriminant of the marked images in place of their mean, each kind
    shrunk towards what was asked: few marks move it a little.
    """
    n_right, n_wrong = int(right_N.sum()), int((~right_N).sum())
    direction_D = asked_D
    if n_right:
        direction_D = direction_D + _RIGHT * n_right / (n_right + 2) * background.discriminate(marked_ND[right_N])
    if n_wrong:
        weight = (_WRONG if n_right else _WRONG / 2) * n_wrong / (n_wrong + 1)
        direction_D = direction_D - weight * background.discriminate(marked_ND[~right_N])
    return _direction(direction_D)


def make_hits(
    store: Store,
    found: Sequence[tuple[int, float]],
    rating_of: Mapping[int, float] | None = None,
    reasons: Mapping[int, tuple[Reason, ...]] | None = None,
    *,
    each_copy: bool = False,
) -> list[Hit]:
    """Rows with similarities, and probabilities if there are some -> hits with their records and best captions."""
    ids = [row for row, _ in found]
    captions, copies = store.captions(ids), {} if each_copy else count_copies(store, ids)
    return [
        Hit(
            image=image,
            similarity=similarity,
            caption=captions[row][0].text if captions[row] else None,
            probability=rating_of.get(row) if rating_of else None,
            copies=copies.get(row, 0),
            why=reasons.get(row, ()) if reasons else (),
        )
        for image, (row, similarity) in zip(store.get(ids), found, strict=True)
    ]


def count_copies(store: Store, rows: Iterable[int]) -> dict[int, int]:
    """The number of other rows with the same content, for each row that has such."""
    equal = store.equal_rows()
    counts = Counter(equal.values())
    return {row: counts[equal[row]] - 1 for row in rows if row in equal}


def embed_image(encoder: Encoder, path: Path) -> NDArray[np.float32]:
    """An image file -> its vector (D,). Raises InputError, naming the file, where it can't be read."""
    from sightline.core.images.decode import read_image  # takes a tenth of a search by words

    try:
        image = read_image(path, min_side_px=encoder.card.preprocessing.size_px)
    except ImageError as error:
        raise InputError(f"The picture {path} can't be read: {error.reason}.") from error
    return embed_pixels(encoder, image.rgb)


def embed_pixels(encoder: Encoder, rgb_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Upright RGB (H, W, 3) uint8 -> its vector (D,)."""
    pixels_SS3 = encoder.card.preprocessing.resize(rgb_HW3)
    vector_D: NDArray[np.float32] = encoder.encode_images(pixels_SS3[None])[0]
    return vector_D


def _find_row(store: Store, part: Part) -> ImageRecord | None:
    """The library's own image that a part is, if it is one."""
    if part.row is not None:
        return store.get([part.row])[0]
    if part.image is not None:
        return store.find_path(part.image.absolute())
    return None


def _embed_part(store: Store, encoder: Encoder, part: Part, row: ImageRecord | None) -> NDArray[np.float32]:
    """A part's vector; that of an image in the library, whose `row` is given, comes from there if it still holds."""
    if part.vector is not None:
        return part.vector
    if part.text is not None:
        text_vector_D: NDArray[np.float32] = encoder.encode_texts([part.text])[0]
        return text_vector_D
    path = part.image
    if row and row.id is not None and (path is None or _is_unchanged(path, row)):
        _, stored_1D = store.vectors(encoder.card.name, [row.id])
        if len(stored_1D):
            stored_D: NDArray[np.float32] = stored_1D[0]
            return stored_D
        path = path or row.path
    assert path is not None  # a part that is neither words nor vector is a file or a row
    return embed_image(encoder, path)


def _is_unchanged(path: Path, row: ImageRecord) -> bool:
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns) == (row.size_bytes, row.mtime_ns)


def _normalise(vectors_PD: NDArray[np.float64]) -> NDArray[np.float64]:
    norms_P1 = np.linalg.norm(vectors_PD, axis=1, keepdims=True)
    if not np.isfinite(norms_P1).all() or (norms_P1 < _SMALLEST_NORM).any():
        raise InputError("A part of the query has no direction (its vector is zero or not finite).")
    normalised: NDArray[np.float64] = vectors_PD / norms_P1
    return normalised


def _direction(vector_D: NDArray[np.float64]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector_D))
    if norm < _SMALLEST_NORM:
        raise InputError("The parts of the query cancel each other out. Change a part or its weight.")
    direction: NDArray[np.float32] = (vector_D / norm).astype(np.float32)
    return direction

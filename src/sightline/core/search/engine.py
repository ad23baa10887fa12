"""From a query to hits: its parts, one vector for each, combined, and the nearest rows under the filters.

A query is words and images, joined with `+` and `-`, each with a weight:

    two dogs                       one part, words
    ./photo.jpg + 2:snow           an image and, twice as strong, a word
    beach - people                 beach, away from people

The syntax is rclip's. A separator stands alone: as its own argument, or between spaces (`t-shirt` is one word).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sightline.core.images.files import is_image_name
from sightline.core.models.bank import hub_weight, load_bank
from sightline.core.models.inputs import read_text
from sightline.core.search.relevance import DEFAULT, SAMPLED_ROWS, Calibration, Context, Judge, Verdict
from sightline.core.types import Hit
from sightline.errors import ImageError, InputError
from sightline.kit.config import expand, is_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.bank import Bank
    from sightline.core.models.base import Encoder
    from sightline.core.models.inputs import TextReading
    from sightline.core.store.base import Store
    from sightline.core.types import ImageRecord

Match = Literal["pictures", "captions", "both"]

_FUSION_DEPTH = 200
_RANK_CONSTANT = 60

_SMALLEST_NORM = 1e-6

_SEPARATOR = re.compile(r"(?:^|(?<=\s))([+-])(?=\s|$)")
_WEIGHT = re.compile(r"^(\d+(?:\.\d*)?|\.\d+):\s*(?=[^\s\d])")  # 10:30 is a time
_PATH_START = re.compile(r"^(?:\.{1,2}[/\\]|/|~[^\s/\\]*[/\\]|[A-Za-z]:[/\\])")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of a search."""

    top: int = 10
    where: str | None = None
    """A filter, such as `taken_at > '2024-01-01' and path like '%holiday%'`."""
    min_similarity: float | None = None
    """Hits below this cosine are left out. None keeps all: no constant fits every query."""
    match: Match = "pictures"
    """`pictures` ranks by cosine, `captions` by full text, `both` fuses the two rankings."""
    hub_correction: bool = True
    """Images that lie near to everything are ranked lower, where the model has a bank that knows them."""
    min_probability: float | None = None
    """Hits of less probability than this are left out; None keeps all."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top is {self.top}; it must be at least 1.")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise InputError(f"min_similarity is {self.min_similarity:g}; a cosine lies between -1 and 1.")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise InputError(f"min_probability is {self.min_probability:g}; a probability lies between 0 and 1.")
        if self.match not in ("pictures", "captions", "both"):
            raise InputError(f"match is {self.match!r}; it must be pictures, captions or both.")


class Hits(list[Hit]):
    """Hits, best first, with what is to be said of the query as a whole."""

    def __init__(self, hits: Iterable[Hit] = (), *, verdict: Verdict | None = None) -> None:
        super().__init__(hits)
        self.verdict = verdict or Verdict()


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """A query that can be ranked: where it points, its words, and the images it is made of."""

    vector_D: NDArray[np.float32]
    words: str
    """Those of the positive parts, for full text."""
    exclude: frozenset[int]
    """Rows of the query's own images, which are no results."""
    texts: tuple[str, ...] = ()
    """All parts that are words."""
    readings: tuple[TextReading, ...] = ()
    """The texts as the model's tokenizer reads them, where it is on this machine."""
    words_share: float = 0.0
    """How much of the positive parts' weight is words: an image's likeness to images needs no correction for hubs."""
    bank: Bank | None = None
    """The model's."""
    knows_hubs: bool = False
    """True where all of the library's images were measured with it."""

    @property
    def hub_weight(self) -> float:
        """The part of its hubness that an image's cosine is lowered by, where hubs are corrected."""
        return hub_weight(self.tokens) * self.words_share if self.knows_hubs else 0.0

    @property
    def tokens(self) -> int:
        """Word pieces of its words, or words where the tokenizer is elsewhere."""
        return sum(reading.read for reading in self.readings) or len(" ".join(self.texts).split())


def search(store: Store, encoder: Encoder, parts: Sequence[Part], *, config: SearchConfig) -> Hits:
    """Hits, best first, with a verdict. An image of the query that is in the library is not among them.

    Raises InputError for a broken filter or an image that can't be read, for full text without words, and for a minimum
    probability of a query with images, whose likeness is of another kind.
    """
    query = prepare(store, encoder, parts)
    found = rank(store, encoder.card.name, query, config=config)
    judge = make_judge(store, encoder, query, config=config)
    ratings = judge.rate(scores := score(store, encoder.card.name, query, found))
    if config.min_probability is not None:
        kept = [
            place for place, rating in enumerate(ratings) if rating is not None and rating >= config.min_probability
        ]
        found, ratings = [found[place] for place in kept], [ratings[place] for place in kept]
    return Hits(make_hits(store, found, ratings), verdict=judge.conclude(max(scores, default=None)))


def prepare(store: Store, encoder: Encoder, parts: Sequence[Part]) -> Query:
    """Parts -> what can be ranked. Raises InputError for an image that can't be read, StoreError for no such row."""
    own_rows = [_find_row(store, part) for part in parts]
    bank = load_bank(encoder)
    positive = [part for part in parts if part.weight > 0]
    texts = tuple(part.text for part in parts if part.text is not None)
    vectors_PD = np.stack([_embed_part(store, encoder, part, row) for part, row in zip(parts, own_rows, strict=True)])
    return Query(
        vector_D=combine(vectors_PD, [part.weight for part in parts]),
        words=" ".join(part.text for part in positive if part.text is not None),
        exclude=frozenset(row.id for row in own_rows if row and row.id is not None),
        texts=texts,
        readings=tuple(reading for text in texts if (reading := read_text(encoder, text)) is not None),
        words_share=_share_of_words(positive or parts),
        bank=bank,
        knows_hubs=bank is not None and store.knows_hubness(encoder.card.name, bank.id),
    )


def _share_of_words(parts: Sequence[Part]) -> float:
    weights = [(abs(part.weight), part.text is not None) for part in parts]
    return sum(weight for weight, is_text in weights if is_text) / sum(weight for weight, _ in weights)


def make_judge(store: Store, encoder: Encoder, query: Query, *, config: SearchConfig) -> Judge:
    """What rates the hits of a query, from the library under the filter and from the model's bank.

    Raises InputError as `Store.query` does, and for a minimum probability of a query with images; ModelError for a
    calibration that the model's card has wrong.
    """
    card = encoder.card
    if query.words_share < 1:
        if config.min_probability is not None:
            raise InputError("Only queries of words have hits with a probability; leave min_probability out.")
        return Judge(model=card.name)
    calibration = Calibration.from_card(card.relevance, model=card.name)
    if calibration.needs_bank and not query.knows_hubs:  # an older library whose images are still being measured
        calibration = DEFAULT
    images, sample_S = store.background(
        query.vector_D, SAMPLED_ROWS, model=card.name, where=config.where, hub_weight=query.hub_weight
    )
    context = Context.make(
        query.vector_D,
        sample_S,
        images=images,
        tokens=query.tokens,
        bank=query.bank,
        hub_weight=query.hub_weight,
    )
    by_sight = config.match == "pictures"
    return Judge(model=card.name, calibration=calibration, context=context, readings=query.readings, by_sight=by_sight)


def score(store: Store, model: str, query: Query, found: Sequence[tuple[int, float]]) -> list[float]:
    """What a judge rates rows by: their cosines, less the correction for hubs, however they were ranked."""
    hubness = store.hubness(model, [row for row, _ in found]) if query.hub_weight else {}
    return [cosine - query.hub_weight * hubness.get(row, 0.0) for row, cosine in found]


def rank(store: Store, model: str, query: Query, *, config: SearchConfig) -> list[tuple[int, float]]:
    """The best rows with their cosines, best first: `config.top` of them, less those below the minimum similarity.

    Raises InputError for a broken filter, and for full text without words.
    """
    nearest = partial(
        store.query,
        query.vector_D,
        model=model,
        where=config.where,
        exclude=query.exclude,
        hub_weight=query.hub_weight if config.hub_correction else 0.0,
    )
    if config.match == "pictures":
        found = nearest(config.top)
    else:
        ids = _rank_by_words(store, query, config)
        if config.match == "both":
            depth = max(config.top, _FUSION_DEPTH)
            ids = fuse_rankings([[row for row, _ in nearest(depth)], ids])
        found = _similarities(store, model, query.vector_D, ids[: config.top])
    if config.min_similarity is not None:
        found = [(row, similarity) for row, similarity in found if similarity >= config.min_similarity]
    return found


def combine(vectors_PD: NDArray[np.float32], weights: Sequence[float]) -> NDArray[np.float32]:
    """Weighted parts (P, D), rows of any norm -> the query's direction (D,), L2-normalised.

    Every part is normalised first, so that only its weight says how much it counts. Positive parts add up to the
    subject. CLIP's vectors lie in a narrow cone: subtracting a whole vector takes away mostly what it shares with the
    subject and leaves noise. So a negative part first loses its component along the subject, and only the rest is
    subtracted: the query's cosine to its subject stays 1 / sqrt(1 + n^2), n being the norm of what is subtracted.
    Without positive parts the query points away from the negative ones. Raises InputError where parts cancel out.
    """
    weights_P = np.asarray(weights, dtype=np.float64)
    parts_PD = _normalise(vectors_PD.astype(np.float64))
    positive = weights_P > 0
    away_D = weights_P[~positive] @ parts_PD[~positive]
    if not positive.any():
        return _direction(away_D)
    subject_D = _direction(weights_P[positive] @ parts_PD[positive]).astype(np.float64)
    return _direction(subject_D + away_D - (away_D @ subject_D) * subject_D)


def make_hits(
    store: Store, found: Sequence[tuple[int, float]], ratings: Sequence[float | None] | None = None
) -> list[Hit]:
    """Rows with similarities, and probabilities if there are some -> hits with their records and best captions."""
    ids = [row for row, _ in found]
    captions = store.captions(ids)
    return [
        Hit(
            image=image,
            similarity=similarity,
            caption=captions[row][0].text if captions[row] else None,
            probability=rating,
        )
        for image, (row, similarity), rating in zip(store.get(ids), found, ratings or [None] * len(found), strict=True)
    ]


def fuse_rankings(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion: each ranking gives 1 / (60 + rank) to its rows; best first, ties by id.

    Source: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion, SIGIR 2009.
    """
    gains: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            gains[row] = gains.get(row, 0.0) + 1 / (_RANK_CONSTANT + rank)
    return sorted(gains, key=lambda row: (-gains[row], row))


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
        return store.find_path(part.image.absolute()) or store.find_path(part.image.resolve())
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


def _rank_by_words(store: Store, query: Query, config: SearchConfig) -> list[int]:
    if not query.words:
        raise InputError("Captions are searched by words: give words, or match pictures.")
    depth = max(config.top, _FUSION_DEPTH) + len(query.exclude)
    return [row for row, _ in store.match(query.words, depth, where=config.where) if row not in query.exclude]


def _similarities(
    store: Store, model: str, vector_D: NDArray[np.float32], ids: Sequence[int]
) -> list[tuple[int, float]]:
    """Rows in the given order with their cosine; rows that this model hasn't embedded are left out."""
    rows, vectors_ND = store.vectors(model, ids)
    cosine = dict(zip(rows.tolist(), (vectors_ND @ vector_D).tolist(), strict=True))
    return [(row, cosine[row]) for row in ids if row in cosine]


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

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.text, self.image, self.row, self.vector)) != 1:
            raise InputError("A part of a query is either words or a picture.")
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
    query, an empty part, an image that doesn't exist, or an address of a web page.
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
        if image := _as_image(body):
            return Part(weight=weight, image=image)
    return Part(weight=weight, text=body)


def _as_image(body: str) -> Path | None:
    """The file that a part names: whatever begins like a path, and a bare name that ends like an image's."""
    is_path = _PATH_START.match(body) is not None
    if not is_path and not is_image_name(body):
        return None
    if is_file(path := _expand(body)):
        return path
    if not is_path and re.search(r"\s", body):
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

"""How sure a hit is, and whether anything matches: probabilities from a query's own background.

Cosines of different queries and models aren't comparable: what is high for "dog" is low for a whole sentence. So the
score of a hit (its cosine, less the correction for hubs) is seen beside what the same query gives elsewhere: on the
library under the filter, and on background images that ship with the model's bank. A logistic regression over these few
numbers, fitted once for a model (Platt, Probabilistic Outputs for Support Vector Machines, 1999), turns them into a
probability. Its coefficients are in the model's card; a model without them gets `DEFAULT`. `docs/search.md` has the
features' formulas, and what they are worth.

Within one query the probability grows with the score, so it never contradicts the order of hits. Shape suffixes: H
hits, S a sample of the library, I background images, D joint space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sightline.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.bank import Bank
    from sightline.core.models.inputs import TextReading

Kind = Literal["words", "images", "taught", "marks", "minus", "other"]
"""What a query is: words alone; images, with or without words; with words that were taught; with marked images; words
less words; anything else, for which nothing is fitted. Each kind has another scale of scores."""

SAMPLED_ROWS = 1024
"""Images of the library that stand for all of them."""
LEAST_IMAGES = 100
"""Below, what was fitted for other queries than words isn't asked: directions made of a few images tell little."""
NOTHING_BELOW = 0.16
"""A query that matches with less probability than this is said to match nothing."""
UNLIKELY_BELOW = 0.1
"""Hits of less probability than this are shown as less likely, below a line."""
_PRIOR_IMAGES = 20
"""Background images that count as part of a small library, whose own spread says little."""
_LEAST_SPREAD = 0.02
_MOST_IMAGES = 2000
"""The largest library of a fit: what it says of size isn't carried beyond."""
_UNKNOWN_SHARE = 0.5
_NAMED_WORDS = 5

FEATURES = (
    *("score", "library_mean", "library_spread", "background_mean", "background_spread", "words", "images"),
    "library_z",
)
"""A calibration has the first of them, which keep the order of hits, or `library_z` alone, which knows no model."""
FITTED = FEATURES[:-1]
_OF_BANK = frozenset({"background_mean", "background_spread"})
_CONSTANT = "constant"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Coefficients of two logistic regressions over features by name: of a hit, and of a query by its best hit."""

    hit: Mapping[str, float]
    query: Mapping[str, float]

    @classmethod
    def from_card(cls, values: Mapping[str, Any], *, model: str, kind: Kind = "words") -> Calibration:
        """From a card's field `relevance`, which holds that of words and, by name, those of other kinds of queries.

        Raises ModelError for what is no such calibration.
        """
        values = values if kind == "words" else values.get(kind, {})
        if not values:
            return DEFAULT
        parts = {}
        for name in ("hit", "query"):
            part: Any = values.get(name) if isinstance(values, Mapping) else None
            valid = isinstance(part, Mapping) and all(isinstance(one, int | float) for one in part.values())
            if not valid or (name == "hit" and not part) or (unknown := set(part) - {*FEATURES, _CONSTANT}):
                told = f" (not known: {', '.join(sorted(unknown))})" if valid and part else ""
                place = name if kind == "words" else f"{kind}.{name}"
                raise ModelError(
                    f"The card of {model} has a field `relevance` whose part {place!r} is no calibration{told}; it "
                    f"maps some of {', '.join((_CONSTANT, *FEATURES))} to numbers. Leave the field out for the default."
                )
            parts[name] = MappingProxyType(dict(part))
        return cls(**parts)

    @property
    def needs_bank(self) -> bool:
        """True where it was fitted beside a bank."""
        return bool(_OF_BANK & {*self.hit, *self.query})


DEFAULT = Calibration(
    hit=MappingProxyType({_CONSTANT: -2.77, "library_z": 1.07, "images": -0.33}), query=MappingProxyType({})
)
"""For models that none was fitted for. It only asks how far a hit stands out of the library, which knows no scale of
cosines (fitted with the starter), and doesn't say whether anything matches: for that it isn't worth enough."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The background of one query."""

    library: tuple[float, float]
    """Mean and standard deviation of the library's scores under the filter."""
    background: tuple[float, float] | None
    """The same of the bank's images; None without a bank."""
    tokens: int
    images: int
    """Those that the filter leaves."""

    @classmethod
    def make(
        cls,
        query_D: NDArray[np.float32],
        sample_S: NDArray[np.float32],
        *,
        images: int,
        tokens: int,
        bank: Bank | None,
        hub_weight: float = 0.0,
    ) -> Context:
        """From the scores of a sample of the library, and from the bank.

        `hub_weight` is what the sample's scores were corrected with.
        """
        if bank is None:
            return cls(library=_spread(sample_S), background=None, tokens=tokens, images=images)
        background_I = bank.images_ID @ query_D - hub_weight * bank.image_hubness_I
        few_I = background_I[:: max(1, len(background_I) // _PRIOR_IMAGES)]
        return cls(
            library=_spread(np.concatenate([sample_S, few_I])),
            background=_spread(background_I),
            tokens=tokens,
            images=images,
        )

    def features(self, score_H: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64] | float]:
        """The features of hits by name: of each (H,), or the same for all."""
        mean, spread = self.library
        found: dict[str, NDArray[np.float64] | float] = {
            "score": score_H,
            "library_mean": mean,
            "library_spread": spread,
            "library_z": (score_H - mean) / spread,
            "words": math.log1p(self.tokens),
            "images": math.log1p(min(self.images, _MOST_IMAGES)),
        }
        if self.background is not None:
            found |= {"background_mean": self.background[0], "background_spread": self.background[1]}
        return found


def _spread(score_S: NDArray[np.float32]) -> tuple[float, float]:
    if not len(score_S):
        return 0.0, 1.0
    return float(score_S.mean()), max(float(score_S.std()), _LEAST_SPREAD)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be said of a query as a whole."""

    present: float | None = None
    """Probability that the library, under the filter, shows what was asked; None where it can't be told."""
    notices: tuple[str, ...] = ()
    """Whole sentences for the user: that nothing matches, words that the model doesn't know, a query that was cut."""

    @property
    def matches(self) -> bool:
        """False where nothing here matches."""
        return self.present is None or self.present >= NOTHING_BELOW


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Rates the hits of one query."""

    model: str
    context: Context
    calibration: Calibration = DEFAULT
    readings: Sequence[TextReading] = field(default=())
    """Each text of the query as the model's tokenizer reads it."""
    by_sight: bool = True
    """False where only images were looked at about which words are written: the best of them doesn't say whether
    anything matches."""

    def rate(self, scores: Sequence[float]) -> list[float]:
        """The probability of each hit, by its score."""
        score_H = np.asarray(scores, dtype=np.float64)
        return [float(value) for value in _predict(self.calibration.hit, self.context.features(score_H), len(score_H))]

    @property
    def nats_per_score(self) -> float:
        """What one more of the score adds to a hit's log-odds."""
        hit = self.calibration.hit
        return hit.get("score", 0.0) + hit.get("library_z", 0.0) / self.context.library[1]

    def conclude(self, best: float | None, fused: float | None = None, *, some_follow: bool = True) -> Verdict:
        """The verdict by the score of the best hit; None where there is no hit. `some_follow` where any is shown.

        `fused` is the best score with what is written about images: something is there at least as surely as that hit
        is right.
        """
        is_written = best is not None and fused is not None and fused > best and self.rate([fused])[0] >= UNLIKELY_BELOW
        notices = self._read_notices(knows_all=is_written)  # what is found by its name needs no model
        present = None
        if self.by_sight and self.calibration.query:
            present = 0.0
            if best is not None:
                features = self.context.features(np.array([best]))
                present = float(_predict(self.calibration.query, features, 1)[0])
                if fused is not None and fused > best:
                    present = max(present, self.rate([fused])[0])
            if present < NOTHING_BELOW and best is not None and some_follow:
                notices.insert(0, "Nothing here matches; the nearest images follow.")
        return Verdict(present=present, notices=tuple(notices))

    def _read_notices(self, *, knows_all: bool) -> list[str]:
        unknown = [] if knows_all else [word for reading in self.readings for word in reading.unknown]
        words = sum(reading.words for reading in self.readings)
        notices = []
        if unknown and len(unknown) >= _UNKNOWN_SHARE * words:
            named = ", ".join(unknown[:_NAMED_WORDS])
            notices.append(f"The model {self.model} doesn't know these words: {named}.")
        notices += [
            f"The query is too long for the model {self.model}, which read the first {reading.read} of its "
            f"{reading.tokens} word pieces."
            for reading in self.readings
            if reading.read < reading.tokens
        ]
        return notices


def count_likely(probabilities: Sequence[float | None]) -> int:
    """Number of hits, best first, up to the last that isn't less likely right; all where nothing is known of them.

    Below that line only less likely ones follow. Above it may be some, too, where hits are ranked by more than this.
    """
    above = [place for place, one in enumerate(probabilities, start=1) if one is None or one >= UNLIKELY_BELOW]
    return max(above, default=0)


def _predict(
    coefficients: Mapping[str, float], features: Mapping[str, NDArray[np.float64] | float], count: int
) -> NDArray[np.float64]:
    logit_H = np.full(count, coefficients.get(_CONSTANT, 0.0))
    for name, coefficient in coefficients.items():
        if name != _CONSTANT:
            logit_H = logit_H + coefficient * np.asarray(features[name])
    odds_H = np.exp(-np.clip(logit_H, -30, 30))
    probability_H: NDArray[np.float64] = 1 / (1 + odds_H)
    return probability_H

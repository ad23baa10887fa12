"""What is written about images as evidence that they show what was asked: names, folders, captions, keywords, text.

A word that stands in few rows tells more than one that stands in many: by Bayes' rule it raises the log-odds that a row
is relevant by log(P(word | relevant) / P(word)), which is its rarity in nats less what it is seldom written where it
would be true (Robertson and Spärck Jones, *Relevance weighting of search terms*, JASIS 1976). So evidence is added, in
nats, to the log-odds that the picture alone gives (`relevance`), and one number orders and rates the hits. The weights
are measured; `docs/search.md` says on what.

Shape suffixes: W words of a query, M rows that hold any, N rows of one word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.core.types import TEXT_KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.store.base import Store, WordRows
    from sightline.core.types import TextKind

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"name": 1.0, "folder": 0.8, "caption": 0.8, "keyword": 1.0, "text": 1.0}
)
"""Nats by nat of a word's rarity, by where it is written, of what holds all words of a query."""
PARTLY = 0.5
"""What holds a part of the words counts this times the part that it holds."""
ABSENT = -1.0
"""Nats of what lacks words of the query where all are written about another image."""
BEGUN = 0.8
"""What the beginning of a word counts beside a whole word that is as rare."""
WHOLE_NAME = 4.0
"""Nats more where the query is a file's whole name."""
TOLD_NATS = 0.5
"""Less evidence isn't told as a reason."""
_UNSEEN_IMAGES = 100
"""Images without the word that count beside those of a library: how rare a word is, a small one can't tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """Rows about which words of a query are written."""

    ids: NDArray[np.int64]
    """(M,), ascending."""
    nats: NDArray[np.float64]
    """(M,): what the words add to the log-odds that a row is relevant."""
    absent: float
    """Nats of all other rows."""
    told: NDArray[np.uint8]
    """(M,): where words that tell something stand, a bit for each of `TEXT_KINDS`."""
    is_full: NDArray[np.bool_]
    """(M,): True where all words of the query are written, or its name is the query."""

    def of(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Nats (R,) of some rows."""
        return np.where(self._holds(rows), np.append(self.nats, 0.0)[self._places(rows)], self.absent)

    def kinds(self, row: int) -> tuple[TextKind, ...]:
        """Where words stand that tell something about a row."""
        bits = int(self.told[self._places([row])[0]]) if self._holds([row])[0] else 0
        return tuple(kind for place, kind in enumerate(TEXT_KINDS) if bits >> place & 1)

    def _places(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.searchsorted(self.ids, np.asarray(rows, dtype=np.int64))

    def _holds(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        holds_R: NDArray[np.bool_] = np.append(self.ids, -1)[self._places(rows)] == np.asarray(rows, dtype=np.int64)
        return holds_R


def read_evidence(store: Store, text: str, *, typing: bool = False, share: float = 1.0) -> Written | None:
    """What the words of a query tell by being written about images; None where no word that tells something is.

    With `typing` the last word may be a beginning. `share` is the part of the query that is words.
    """
    words, images = store.find_words(text, typing=typing)
    names = store.find_names(text)
    ids_M = np.unique(np.concatenate([names, *(rows for word in words for rows in word.rows.values())]))
    if not len(ids_M):
        return None
    position_W = np.array([word.position for word in words], dtype=np.intp)
    debris_W = np.array([word.is_debris for word in words], dtype=np.bool_)
    rarity_W = np.array([_rarity(word, images) for word in words])
    nats_WM, told_M = np.zeros((len(words), len(ids_M))), np.zeros(len(ids_M), dtype=np.uint8)
    for place, kind in enumerate(TEXT_KINDS):
        held_WM = _held(ids_M, [word.rows.get(kind) for word in words])
        if kind in ("name", "folder"):
            held_WM &= ~debris_W[:, None] | (_at_each(held_WM, position_W) > 0).all(axis=0)
        own_WM = WEIGHTS[kind] * rarity_W[:, None] * held_WM
        nats_WM = np.maximum(nats_WM, own_WM)
        told_M |= ((own_WM.max(axis=0, initial=0.0) >= TOLD_NATS) << place).astype(np.uint8)
    nats_PM = _at_each(nats_WM, position_W)
    coverage_M = (nats_PM > 0).mean(axis=0) if len(nats_PM) else np.zeros(len(ids_M))
    is_name_M = np.isin(ids_M, names)
    is_full_M = is_name_M | (coverage_M == 1)
    absent = ABSENT if is_full_M.any() else 0.0
    nats_M = nats_PM.sum(axis=0) * np.where(is_full_M, 1.0, PARTLY * coverage_M) + absent * ~is_full_M
    nats_M[is_name_M] += WHOLE_NAME
    told_M[is_name_M] |= 1 << TEXT_KINDS.index("name")
    return Written(ids=ids_M, nats=share * nats_M, absent=share * absent, told=told_M, is_full=is_full_M)


def _rarity(word: WordRows, images: int) -> float:
    """How rare a word is, in nats; none where it stands in every row."""
    surprise = math.log((images + _UNSEEN_IMAGES) / (word.count + 0.5)) * (1 - word.count / max(images, 1))
    return max(surprise, 0.0) * (BEGUN if word.is_beginning else 1.0)


def _held(ids_M: NDArray[np.int64], rows_W: Sequence[NDArray[np.int64] | None]) -> NDArray[np.bool_]:
    """True where a row holds a word (W, M)."""
    held_WM = np.zeros((len(rows_W), len(ids_M)), dtype=np.bool_)
    for held_M, rows_N in zip(held_WM, rows_W, strict=True):
        if rows_N is not None:
            held_M[np.searchsorted(ids_M, rows_N)] = True
    return held_WM


def _at_each(values_WM: NDArray[Any], position_W: NDArray[np.intp]) -> NDArray[Any]:
    """The largest value of each word of the query (P, M): one that is being typed has two entries."""
    return np.array([values_WM[position_W == place].max(axis=0) for place in np.unique(position_W)]).reshape(
        -1, values_WM.shape[1]
    )

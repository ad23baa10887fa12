"""Dates and places inside a query: words that become filters, which are shown and can be taken off.

A word becomes a filter only where the library has images of that time or place. What may as well be a word stays one,
and the filter is offered beside it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from sightline.core.search.dates import find_dates
from sightline.core.store.texts import fold

if TYPE_CHECKING:
    from sightline.core.search.query import Part
    from sightline.core.store.base import Store

_AMBIGUOUS = """antelope apex austin bar barking bath bay bear bell bend best boulder bow brick bridge brooklyn buffalo
    butterfly buy carolina chad charlotte chelsea china clay cork crystal cuba dakota dale date deal derby dome eagle
    essen faith flagstaff fleet florence forest fountain gap garland gay georgia gold golden green guinea helena
    highland hillside holiday hook hope horn hub hull independence india ireland jackson jersey jordan kent lakeside
    lens liberty lima lincoln lucas madison magenta maine male man march marina mark marks martin mary mascot mercy
    mesa metro mine mission mobile moon moss most much nan nice normal oceanside of officer olive orange paradise para
    paisley pearl peer pen phoenix plaque police pop port portland providence reading riverside roman rose roses rouge
    rugby sale salt same sandwich sandy santa savannah say sari seaside shoreline sierra sofia sparks split spring
    springs stains sulphur summit sunrise sunset surprise sweet sydney tank temple terrace time tire troy turkey union
    university van victoria vista virginia walker wedding wells woodland york young"""
"""Names of cities and countries that are words or given names as often."""
_ALIASES = {
    "usa": "united states",
    "america": "united states",
    "uk": "united kingdom",
    "england": "united kingdom",
    "britain": "united kingdom",
    "holland": "the netherlands",
    "netherlands": "the netherlands",
    "nyc": "new york city",
    "cologne": "koln",
    "seville": "sevilla",
}
_WORD = re.compile(r"[^\W_]+")
_LEADS = ("in", "at", "near", "from", "around", "to", "visiting")
_EMPTY = set("a all and image images in my of or photo photos picture pictures pics taken the".split())  # noqa: SIM905
"""What is left of `photos from Paris`."""
_LOOSE_END = re.compile(r"^[\s,]+|(?:[\s,]|\b(?:and|or|to))+$", re.IGNORECASE)
_MOST_WORDS = 4


Kind = Literal["dates", "places"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class ReadAs:
    """Words of a query as a filter."""

    kind: Kind
    words: str
    where: str
    label: str
    """What it says, for people: `taken in July 2023`, `near Paris`."""
    left_out: int = 0
    """Images that can't meet it, for want of a date or a position."""


@dataclass(frozen=True, kw_only=True)
class WhenWhere:
    """A query without the words that became filters."""

    parts: Sequence[Part]
    where: str | None
    """The filters with that of the user."""
    read_as: tuple[ReadAs, ...] = ()
    offered: tuple[ReadAs, ...] = ()
    """Filters that words may stand for, which stayed words."""


class _Found(NamedTuple):
    """Words that mean a filter."""

    start: int
    end: int
    kind: Kind
    where: str
    label: str
    certain: bool = True
    kept: str = ""


def read_when_where(
    store: Store,
    parts: Sequence[Part],
    where: str | None = None,
    *,
    plain: Collection[Kind] = (),
    today: date | None = None,
) -> WhenWhere:
    """Take dates and places, but those in `plain`, out of a query's wanted words.

    Words that were taught are left alone. Nothing may be left of the parts. Raises InputError for a broken filter.
    """
    if set(KINDS) <= set(plain) or not any(part.text for part in parts):
        return WhenWhere(parts=parts, where=where)
    finder = _Finder(store, plain, today or date.today())
    left: list[Part] = []
    read: list[tuple[str, _Found]] = []
    for part in parts:
        if part.text is None or part.weight < 0:
            left.append(part)
            continue
        text = part.text
        found = finder.find(text)
        read += [(text[one.start : one.end], one) for one in found]
        for one in reversed([one for one in found if one.certain]):
            text = f"{text[: one.start]} {one.kept} {text[one.end :]}"
        text = " ".join(_LOOSE_END.sub("", text).split())
        left += [replace(part, text=text)] if not set(_key(text).split()) <= _EMPTY else []
    taken = [(kind, [(words, one) for words, one in read if one.certain and one.kind == kind]) for kind in KINDS]
    read_as = tuple(_merge(store, kind, own) for kind, own in taken if own)
    offered = tuple(
        ReadAs(kind=one.kind, words=words, where=one.where, label=one.label) for words, one in read if not one.certain
    )
    conditions = [f"({condition})" for condition in (where, *(one.where for one in read_as)) if condition]
    return WhenWhere(
        parts=left,
        where=" and ".join(conditions) if read_as else where,
        read_as=read_as,
        offered=offered,
    )


def _key(name: str) -> str:
    """A name by its folded words."""
    return " ".join(_WORD.findall(fold(name)))


def _merge(store: Store, kind: Kind, read: Sequence[tuple[str, _Found]]) -> ReadAs:
    """Several times or places are alternatives; what has one end alone narrows the others."""
    joined = " and " if any(" >= " in one.where or " <= " in one.where for _, one in read) else " or "
    field = "taken_at" if kind == "dates" else "country"
    return ReadAs(
        kind=kind,
        words=" ".join(words for words, _ in read),
        where=joined.join(one.where for _, one in read),
        label=joined.join(one.label for _, one in read),
        left_out=store.count(where=f"{field} is null"),
    )


def tell_readings(read_as: Sequence[ReadAs], offered: Sequence[ReadAs] = ()) -> list[str]:
    """Sentences that say which words became filters, how many images that left out, and what others may mean."""
    lines = [f"Read as: {' · '.join(one.label for one in read_as)}."] if read_as else []
    for one in read_as:
        if one.left_out:
            lacking = "date" if one.kind == "dates" else "place"
            lines.append(f"Left out for want of a {lacking}: {one.left_out:,} image{'s' * (one.left_out != 1)}.")
    return lines + [f"{one.words!r} is read as a word; as a filter it is: {one.where}" for one in offered]


class _Finder:
    """Finds what a library has images of."""

    def __init__(self, store: Store, plain: Collection[Kind], today: date) -> None:
        self._store = store
        self._plain = plain
        self._today = today
        self._taught = {_key(word.name) for word in store.words()}
        self._places = {} if "places" in plain else {_key(name): name for name in store.place_names()}

    def find(self, text: str) -> list[_Found]:
        """What a text says of times and places, in order."""
        dates = list(self._find_dates(text))
        places = list(self._find_places(text, dates))
        for place in places:  # beside a place a year is more than a number amid words
            if place.certain:
                text = text[: place.start] + " " * (place.end - place.start) + text[place.end :]
        return sorted([*self._find_dates(text), *places])

    def _find_dates(self, text: str) -> Iterator[_Found]:
        for one in () if "dates" in self._plain else find_dates(text, self._today):
            if not self._is_taught(text[one.start : one.end]) and self._store.count(where=one.where):
                yield _Found(one.start, one.end, "dates", one.where, one.label, one.certain, one.kept)

    def _is_taught(self, words: str) -> bool:
        return not self._taught.isdisjoint((key := _key(words), *key.split()))

    def _find_places(self, text: str, dates: Sequence[_Found]) -> Iterator[_Found]:
        tokens = list(_WORD.finditer(text)) if self._places else []
        words = [_key(token.group()) for token in tokens]
        starts_of_dates = {found.start for found in dates}
        for first, end, names in self._spell_places(words):
            is_after_the = first > 0 and words[first - 1] == "the"
            lead = first - 1 - is_after_the
            has_lead = lead >= 0 and words[lead] in _LEADS
            is_last = end == len(tokens) or tokens[end].start() in starts_of_dates
            is_plain = " ".join(words[first:end]) not in _AMBIGUOUS.split()
            certain = is_plain or len(names) > 1 or (has_lead and is_last and not is_after_the)
            start = tokens[lead if has_lead else first].start()
            if not any(found.certain and found.start < tokens[end - 1].end() and start < found.end for found in dates):
                where = " and ".join("place = '{}'".format(name.replace("'", "''")) for name in names)
                yield _Found(start, tokens[end - 1].end(), "places", where, f"in {', '.join(names)}", certain)

    def _spell_places(self, words: Sequence[str]) -> Iterator[tuple[int, int, list[str]]]:
        """Names of places, the longest first; those that follow each other are one place (`Paris, Texas`)."""
        at, first, names = 0, 0, list[str]()
        while at <= len(words):
            lengths = range(min(_MOST_WORDS, len(words) - at), 0, -1)
            count = next((n for n in lengths if self._name(words[at : at + n])), 0)
            if count:
                first = first if names else at
                names.append(self._name(words[at : at + count]))
            elif names:
                yield first, at, names
                names = []
            at += max(count, 1)

    def _name(self, words: Sequence[str]) -> str:
        """A place of the library by its folded words; empty for none, and for a word that was taught."""
        key = " ".join(words)
        return "" if self._is_taught(key) else self._places.get(_ALIASES.get(key, key), "")

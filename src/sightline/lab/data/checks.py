"""What is wrong with a data set: pictures that can't be read, captions that say nothing, pictures in several splits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sightline.errors import ImageError
from sightline.lab.data.base import Dataset, Pair
from sightline.lab.data.likeness import Likeness, describe_likeness, find_near

_AT_ONCE = 512
_MANY_PICTURES = 10
_PLACES_NAMED = 20
"""Of a case in JSON: a caption may be shared by thousands."""

OnProgress = Callable[[int, int, str], None]
"""Takes pictures read, pictures in all, and a few words."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One picture of the checked data."""

    split: str
    id: str

    def __str__(self) -> str:
        """`val/123.jpg`."""
        return f"{self.split}/{self.id}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One instance of a problem."""

    places: tuple[Place, ...]
    detail: str = ""
    """The reason why a picture can't be read, or the caption in question."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "n_pictures": len(self.places),
            "pictures": [str(place) for place in self.places[:_PLACES_NAMED]],
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All cases of one kind of problem."""

    kind: str
    title: str
    cases: tuple[Case, ...]
    serious: bool
    """Whether training or figures suffer; otherwise it is worth knowing."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found."""

    pictures: int
    captions: int
    findings: tuple[Finding, ...]
    """Kinds without a case are left out."""

    @property
    def has_problems(self) -> bool:
        """Whether anything serious was found."""
        return any(finding.serious for finding in self.findings)


def check_datasets(datasets: Sequence[Dataset], *, on_progress: OnProgress | None = None) -> CheckReport:
    """Read all pictures and captions of some splits of one source. Never raises for what is wrong with them."""
    likenesses, unreadable = _read_all(datasets, on_progress)
    findings = [
        Finding(kind="unreadable", title="pictures that can't be read", cases=tuple(unreadable), serious=True),
        *_check_captions(datasets),
        *_check_doubles(likenesses),
    ]
    return CheckReport(
        pictures=sum(len(dataset) for dataset in datasets),
        captions=sum(dataset.n_captions for dataset in datasets),
        findings=tuple(finding for finding in findings if finding.cases),
    )


_Marked = dict[str, list[tuple[Place, Likeness]]]
"""Split -> its readable pictures."""


def _read_all(datasets: Sequence[Dataset], on_progress: OnProgress | None) -> tuple[_Marked, list[Case]]:
    total = sum(len(dataset) for dataset in datasets)
    marked: _Marked = {}
    unreadable: list[Case] = []
    done = 0
    for dataset in datasets:
        readable = marked[dataset.split] = []
        for pair, outcome in _describe_all(dataset):
            place = Place(split=dataset.split, id=pair.id)
            if isinstance(outcome, Likeness):
                readable.append((place, outcome))
            else:
                unreadable.append(Case(places=(place,), detail=outcome))
            done += 1
            if on_progress is not None:
                on_progress(done, total, f"{len(unreadable):,} unreadable")
    return marked, unreadable


def _describe_all(dataset: Dataset) -> Iterator[tuple[Pair, Likeness | str]]:
    """Each pair with its likeness, or the reason why its picture can't be read."""

    def describe(row: int) -> tuple[Pair, Likeness | str]:
        pair = dataset[row]
        try:
            return pair, describe_likeness(pair.image)
        except ImageError as error:
            return pair, error.reason

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="check") as threads:
        for start in range(0, len(dataset), _AT_ONCE):  # a window, so that a million results don't pile up
            yield from threads.map(describe, range(start, min(start + _AT_ONCE, len(dataset))))


def _check_captions(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    without: list[Case] = []
    empty: list[Case] = []
    twice: list[Case] = []
    used: dict[str, list[Place]] = defaultdict(list)
    for dataset in datasets:
        for pair in dataset:
            place = Place(split=dataset.split, id=pair.id)
            known: set[str] = set()
            if not pair.captions and pair.label is None:
                without.append(Case(places=(place,)))
            for caption in pair.captions:
                plain = " ".join(caption.lower().split()).rstrip(" .!")
                if not plain:
                    empty.append(Case(places=(place,)))
                elif plain in known:
                    twice.append(Case(places=(place,), detail=caption))
                elif pair.label is None:  # class names are shared by all pictures of the class
                    used[plain].append(place)
                known.add(plain)
    yield Finding(kind="no_caption", title="pictures without a caption", cases=tuple(without), serious=True)
    yield Finding(kind="empty_caption", title="captions that are empty", cases=tuple(empty), serious=True)
    yield Finding(kind="caption_twice", title="pictures with the same caption twice", cases=tuple(twice), serious=False)
    n_pictures = sum(len(dataset) for dataset in datasets)
    yield Finding(
        kind="caption_of_many",
        title="captions that many pictures share",
        cases=tuple(_shared(used, n_pictures)),
        serious=False,
    )


def _shared(used: Mapping[str, Sequence[Place]], n_pictures: int) -> Iterator[Case]:
    """Captions of at least ten pictures, in small sets of at least three and 1%; the most frequent first."""
    many = min(_MANY_PICTURES, max(3, n_pictures // 100))
    shared = [(caption, places) for caption, places in used.items() if len(places) >= many]
    for caption, places in sorted(shared, key=lambda entry: -len(entry[1])):
        yield Case(places=tuple(places), detail=caption)


def _check_doubles(marked: _Marked) -> Iterator[Finding]:
    by_content: dict[str, list[Place]] = defaultdict(list)
    for pictures in marked.values():
        for place, likeness in pictures:
            by_content[likeness.content].append(place)
    doubles = [Case(places=tuple(places)) for places in by_content.values() if len(places) > 1]
    across = [case for case in doubles if len({place.split for place in case.places}) > 1]
    within = [case for case in doubles if len({place.split for place in case.places}) == 1]
    near = [
        Case(places=(marked[first][row][0], marked[second][other][0]))
        for first, second in combinations(marked, 2)
        for row, other in find_near([one for _, one in marked[first]], [one for _, one in marked[second]])
    ]
    yield Finding(
        kind="same_in_two_splits", title="pictures that are in several splits", cases=tuple(across), serious=True
    )
    yield Finding(kind="near_in_two_splits", title="near duplicates in several splits", cases=tuple(near), serious=True)
    yield Finding(kind="same_in_split", title="pictures twice in one split", cases=tuple(within), serious=False)

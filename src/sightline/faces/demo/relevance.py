"""How often a search finds the photo that its words were written for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.faces.demo.photos import DemoPhoto

if TYPE_CHECKING:
    from sightline.core.library import Library

DEPTH = 3
"""A query counts as answered where its photo is among this many first results."""


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Queries that found their photo, of all that were asked."""

    answered: int
    asked: int
    photos: int
    """Photos that each query chose from."""
    missed: tuple[tuple[str, str], ...] = ()
    """(file, query) of those that didn't."""

    @property
    def share(self) -> float:
        """Answered of asked, in [0, 1]."""
        return self.answered / self.asked

    @property
    def chance(self) -> float:
        """The share that a random order of the photos would reach."""
        return min(1.0, DEPTH / self.photos)

    def summary(self) -> str:
        """One sentence with the figure and what chance would give."""
        return (
            f"{self.answered} of {self.asked} queries ({self.share:.0%}) found their photo among the first {DEPTH} "
            f"of {self.photos}; chance would give {self.chance:.0%}."
        )


def measure_relevance(library: Library, photos: Sequence[DemoPhoto]) -> Relevance:
    """Ask each photo's queries of a library that holds exactly these photos."""
    missed = []
    for photo in photos:
        for query in photo.queries:
            hits = library.search(query, top=DEPTH)
            if photo.file not in [hit.image.path.name for hit in hits]:
                missed.append((photo.file, query))
    asked = sum(len(photo.queries) for photo in photos)
    return Relevance(answered=asked - len(missed), asked=asked, photos=len(photos), missed=tuple(missed))

"""Which models are worth having: those that no other beats in quality and speed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Tradeoff:
    """One model between quality and speed; higher is better for both."""

    model: str
    quality: float
    images_per_s: float


def find_dominating(tradeoffs: Sequence[Tradeoff]) -> dict[str, tuple[str, ...]]:
    """Each model -> those that are at least as good and as fast, and one of the two strictly.

    Models with an empty tuple are the Pareto front. Raises InputError for a name that occurs twice.
    """
    if len({one.model for one in tradeoffs}) < len(tradeoffs):
        raise InputError(f"Each model may occur once: {', '.join(one.model for one in tradeoffs)}.")
    return {one.model: tuple(other.model for other in tradeoffs if _dominates(other, one)) for one in tradeoffs}


def _dominates(one: Tradeoff, other: Tradeoff) -> bool:
    no_worse = one.quality >= other.quality and one.images_per_s >= other.images_per_s
    return no_worse and (one.quality > other.quality or one.images_per_s > other.images_per_s)

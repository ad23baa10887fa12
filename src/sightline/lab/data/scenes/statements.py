"""What a sentence says, apart from its words, and whether it is so: three answers, for places have soft borders.

A sentence that is true is true with a margin (`is_true`). One that isn't even true without margins is false, and
nothing in between is used: neither as a caption, nor as a negative, nor as a caption that fits one scene alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sightline.lab.data.scenes.grammar import Kind, Scene, SceneObject

RELATIONS = ("left", "right", "above", "below")
PLACES = ("left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "middle")

RELATION_MARGIN = 0.16
"""How much further left a thing is, at least, that is called left of another (10 of 64 pixels)."""
MAX_SLANT = 1.5
"""It lies beside rather than above: its offset the other way is at most this many times as long."""
SIDE_EDGE = 0.36
"""What is on the left has its centre here at most; beyond the middle it surely isn't on the left."""
MIDDLE_REACH = 0.1
"""What is in the middle has its centre this near to it, both ways; from MIDDLE_LIMIT on it surely isn't."""
MIDDLE_LIMIT = 0.22


class Mention(NamedTuple):
    """One thing that a sentence speaks of, and where in the picture it is said to be."""

    kind: Kind
    place: str | None = None


class Statement(NamedTuple):
    """There are different things like `mentions`, so related; so many of each of `counts`; and none of `absent`."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[str, int, int], ...] = ()
    """(relation, i, j): mention i is left of mention j."""
    counts: tuple[tuple[int, Kind], ...] = ()
    absent: tuple[Kind, ...] = ()


def is_true(statement: Statement, scene: Scene) -> bool:
    """Whether it is so, beyond doubt."""
    return _holds(statement, scene, strict=True)


def may_be_true(statement: Statement, scene: Scene) -> bool:
    """Whether somebody could say so; otherwise it is false beyond doubt."""
    return _holds(statement, scene, strict=False)


def fits(kind: Kind, thing: SceneObject) -> bool:
    """Whether a thing is of this kind; an attribute that is left out fits all."""
    size, texture, colour, shape = kind
    real = thing.kind
    return (
        (shape is None or shape == real.shape)
        and (colour is None or colour == real.colour)
        and (size is None or size == real.size)
        and (texture is None or texture == real.texture)
    )


def is_related(relation: str, one: SceneObject, other: SceneObject, *, strict: bool = True) -> bool:
    """Whether `one` is `relation` (left of, above, ...) `other`."""
    across, down = other.x - one.x, other.y - one.y
    ahead = {"left": across, "right": -across, "above": down, "below": -down}[relation]
    if not strict:
        return ahead > 0
    aside = down if relation in ("left", "right") else across
    return ahead >= RELATION_MARGIN and abs(aside) <= MAX_SLANT * ahead


def is_at(place: str, thing: SceneObject, *, strict: bool = True) -> bool:
    """Whether the centre of a thing is on the left, in the top left corner, in the middle, ..."""
    if place == "middle":
        reach = MIDDLE_REACH if strict else MIDDLE_LIMIT
        return max(abs(thing.x - 0.5), abs(thing.y - 0.5)) <= reach
    edge = SIDE_EDGE if strict else 0.5
    sides = {"left": thing.x, "right": 1 - thing.x, "top": thing.y, "bottom": 1 - thing.y}
    return all(sides[side] <= edge for side in place.split())


def _holds(statement: Statement, scene: Scene, *, strict: bool) -> bool:
    things = scene.objects
    for number, kind in statement.counts:
        if sum(fits(kind, thing) for thing in things) != number:
            return False
    if any(fits(kind, thing) for kind in statement.absent for thing in things):
        return False
    return _can_assign(statement, things, [], strict=strict)


def _can_assign(
    statement: Statement, things: Sequence[SceneObject], chosen: list[SceneObject], *, strict: bool
) -> bool:
    """Whether different things can be found for the mentions that come after those already `chosen`."""
    if len(chosen) == len(statement.mentions):
        return all(is_related(name, chosen[i], chosen[j], strict=strict) for name, i, j in statement.relations)
    kind, place = statement.mentions[len(chosen)]
    return any(
        thing not in chosen
        and fits(kind, thing)
        and (place is None or is_at(place, thing, strict=strict))
        and _can_assign(statement, things, [*chosen, thing], strict=strict)
        for thing in things
    )

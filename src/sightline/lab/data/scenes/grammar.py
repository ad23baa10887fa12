"""Scenes: all that one can be, how it is drawn, and which sentences are true of it.

Drawing is deterministic by seed, split and number, on every machine. Places have soft borders, so a statement has three
answers: it is true with a margin (`is_true`), or false since it isn't even true without margins (`may_be_true`); what
lies between is neither a caption nor a negative. Lengths are fractions of the image's side; x runs to the right and y
downward. `docs/scenes.md` fixes all of this: a change raises GRAMMAR_VERSION.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeVar

from sightline.lab.data.base import Split

GRAMMAR_VERSION = 1

_T = TypeVar("_T")

RGB = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "cross", "heart", "ring")
TEXTURES = ("solid", "striped", "dotted")

# No word that can follow an article begins with a vowel, so that `a` always fits: two sentences that differ in a swap
# consist of the same words (this is why there is no orange and no oval).
COLOURS: Mapping[str, tuple[RGB, RGB]] = {
    "red": ((222, 40, 36), (112, 6, 12)),
    "yellow": ((248, 214, 40), (168, 112, 0)),
    "green": ((46, 164, 60), (6, 74, 22)),
    "blue": ((40, 84, 222), (150, 190, 255)),
    "purple": ((134, 48, 178), (58, 8, 92)),
    "pink": ((255, 150, 200), (196, 56, 124)),
    "white": ((248, 248, 248), (112, 116, 140)),
    "black": ((20, 20, 22), (136, 140, 152)),
}
"""Colour -> its paint, and the second paint of its stripes and dots."""

SIZES: Mapping[str, tuple[float, float]] = {"small": (0.115, 0.125), "medium": (0.16, 0.175), "large": (0.215, 0.235)}
"""Size -> its least and its greatest radius."""

GROUNDS: tuple[RGB, ...] = (
    (128, 128, 128), (176, 176, 172), (84, 88, 92), (212, 206, 192), (60, 66, 84), (150, 164, 178), (168, 158, 128),
    (104, 116, 92), (196, 214, 222), (92, 76, 88), (40, 72, 80), (112, 132, 158), (228, 232, 218), (128, 140, 132),
)  # fmt: skip
"""Colours of backgrounds. Those too near to an object's colour are left out."""

GAP = 0.03
"""Least distance between objects, and between an object and the image's edge."""

_MAX_JITTER = 9
_MIN_CONTRAST = 58.0
_MIN_SECOND_CONTRAST = 22.0
_PLACING_TRIES = 12
_ARRANGEMENTS = 60
_N_PARTS = 10

RELATIONS = ("left", "right", "above", "below")
PLACES = ("left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right", "middle")

RELATION_MARGIN = 0.16
"""The least distance by which a thing is further left that is called left of another (10 of 64 pixels)."""
MAX_SLANT = 1.5
"""It lies beside rather than above: its offset the other way is at most this many times as long."""
SIDE_EDGE = 0.36
"""A thing on the left has its centre here at most; beyond the middle it surely isn't on the left."""
MIDDLE_REACH = 0.1
"""A thing in the middle has its centre this near to it, both ways; from MIDDLE_LIMIT on it surely isn't."""
MIDDLE_LIMIT = 0.22


class ObjectKind(NamedTuple):
    """A description of a thing: each attribute, or None where it is left out."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None


VALUES: Mapping[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
"""Attribute -> its values, in the order in which a sentence names them."""


class SceneObject(NamedTuple):
    """One thing in a scene, with its place and what makes it look less alike."""

    kind: ObjectKind
    """All four attributes."""
    x: float
    """The centre's."""
    y: float
    radius: float
    """Nothing of the object lies further from its centre, but for a pixel of smoothing."""
    tilt: float
    """Tangent of half the angle of rotation, clockwise; small, so that a square stays upright."""
    grain: int
    """Direction of stripes: 0 vertical, 1 horizontal, 2 and 3 diagonal."""
    jitter: RGB
    """Added to the paints, -9 to 9."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Two or three objects on a background."""

    objects: tuple[SceneObject, ...]
    ground: RGB
    noise_seed: int | None
    """Seed of the background where that is photographic noise; None where it is plain."""

    @property
    def bag(self) -> tuple[str, ...]:
        """The words of its colours and shapes, sorted: the same whatever is moved or exchanged between objects."""
        return tuple(sorted(word for thing in self.objects for word in (str(thing.kind.colour), str(thing.kind.shape))))

    @property
    def split(self) -> Split:
        """The only split in which this scene may occur."""
        return split_of(self.bag)


class Chance:
    """Random choices from `random.Random.random` alone, the one method whose values Python promises to keep."""

    def __init__(self, *key: str | int) -> None:
        name = "/".join(map(str, ("scenes", GRAMMAR_VERSION, *key)))
        self.fraction = random.Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())).random
        """Uniform in [0, 1)."""

    def below(self, n: int) -> int:
        """0 to n - 1."""
        return int(self.fraction() * n)

    def pick(self, values: Sequence[_T]) -> _T:
        """One of them."""
        return values[int(self.fraction() * len(values))]

    def within(self, low: float, high: float) -> float:
        """Between low and high."""
        return low + (high - low) * self.fraction()

    def shuffle(self, values: Sequence[_T]) -> list[_T]:
        """All of them in another order (Fisher and Yates)."""
        mixed = list(values)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed


def split_of(bag: Sequence[str]) -> Split:
    """Test and val get a tenth of all bags of words each: no test scene's content can occur in training."""
    part = hashlib.blake2b(" ".join(bag).encode(), digest_size=8).digest()[0] % _N_PARTS
    return "test" if part == 0 else "val" if part == 1 else "train"


def draw_scene(seed: int, split: Split, number: int) -> Scene:
    """Scene `number` of the endless stream of a seed and split."""
    chance = Chance(seed, split, number)
    while True:
        n_objects = 2 + chance.below(2)
        colours = [chance.pick(VALUES["colour"]) for _ in range(n_objects)]
        shapes = [chance.pick(SHAPES) for _ in range(n_objects)]
        alike = len(set(zip(colours, shapes, strict=True))) < n_objects
        if alike or split_of(sorted([*colours, *shapes])) != split:
            continue
        objects = _place(chance, colours, shapes)
        if objects:
            ground = chance.pick(grounds_for([thing.kind for thing in objects]))
            noise_seed = chance.below(2**32) if chance.fraction() < 0.5 else None
            return Scene(objects=objects, ground=ground, noise_seed=noise_seed)


def _place(chance: Chance, colours: Sequence[str], shapes: Sequence[str]) -> tuple[SceneObject, ...]:
    """Objects of random sizes that don't touch; none where chance finds no room for them in many arrangements."""
    sizes = [chance.pick(VALUES["size"]) for _ in colours]
    radii = [chance.within(*SIZES[size]) for size in sizes]
    for _ in range(_ARRANGEMENTS):
        centres = _arrange(chance, radii)
        if centres:
            break
    else:
        return ()
    objects = []
    for colour, shape, size, radius, (x, y) in zip(colours, shapes, sizes, radii, centres, strict=True):
        tilt = chance.within(-0.08, 0.08)
        jitter = (chance.below(19) - _MAX_JITTER, chance.below(19) - _MAX_JITTER, chance.below(19) - _MAX_JITTER)
        kind = ObjectKind(size, chance.pick(TEXTURES), colour, shape)
        objects.append(SceneObject(kind, x, y, radius, tilt, chance.below(4), jitter))
    return tuple(objects)


def _arrange(chance: Chance, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Centres of circles that don't touch; none where one finds no room beside those before it."""
    centres: list[tuple[float, float]] = []
    for radius in radii:
        for _ in range(_PLACING_TRIES):
            x = chance.within(radius + GAP, 1 - radius - GAP)
            y = chance.within(radius + GAP, 1 - radius - GAP)
            if all(
                (x - other_x) ** 2 + (y - other_y) ** 2 >= (radius + other + GAP) ** 2
                for (other_x, other_y), other in zip(centres, radii, strict=False)
            ):
                centres.append((x, y))
                break
        else:
            return []
    return centres


def grounds_for(kinds: Sequence[ObjectKind]) -> list[RGB]:
    """The backgrounds on which such things, and the stripes and dots on them, are plain to see."""
    return [
        ground
        for ground in GROUNDS
        if all(
            _CONTRASTS[ground, str(kind.colour)][0] >= _MIN_CONTRAST
            and (kind.texture == "solid" or _CONTRASTS[ground, str(kind.colour)][1] >= _MIN_SECOND_CONTRAST)
            for kind in kinds
        )
    ]


def _contrast(one: RGB, other: RGB) -> float:
    """The difference between the looks of two colours, 0 to 255: green counts most, as in the eye."""
    red, green, blue = (float(a - b) for a, b in zip(one, other, strict=True))
    return math.sqrt((2 * red * red + 4 * green * green + 3 * blue * blue) / 9)


_CONTRASTS = {
    (ground, colour): (_contrast(ground, first), _contrast(ground, second))
    for ground in GROUNDS
    for colour, (first, second) in COLOURS.items()
}


def iterate_kinds(kind: ObjectKind) -> Iterator[ObjectKind]:
    """All that can be said of a thing: its kind with any attributes left out."""
    return map(ObjectKind._make, product(*((value, None) for value in kind)))


class Mention(NamedTuple):
    """One thing that a sentence speaks of, and where in the image it is said to be."""

    kind: ObjectKind
    place: str | None = None


class Statement(NamedTuple):
    """There are different things like `mentions`, so related; so many of each of `counts`; and none of `absent`."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[str, int, int], ...] = ()
    """(relation, i, j): mention i is left of mention j."""
    counts: tuple[tuple[int, ObjectKind], ...] = ()
    absent: tuple[ObjectKind, ...] = ()


def is_true(statement: Statement, scene: Scene) -> bool:
    """True where it is so, beyond doubt."""
    return may_be_true(statement, scene, strict=True)


def may_be_true(statement: Statement, scene: Scene, *, strict: bool = False) -> bool:
    """True where somebody could say so; otherwise it is false beyond doubt. Places count with margins if `strict`."""
    things = scene.objects
    if any(sum(fits(kind, thing) for thing in things) != number for number, kind in statement.counts):
        return False
    if any(fits(kind, thing) for kind in statement.absent for thing in things):
        return False
    return _can_assign(statement, things, [], strict=strict)


def fits(kind: ObjectKind, thing: SceneObject) -> bool:
    """True where a thing is of this kind; an attribute that is left out fits all."""
    size, texture, colour, shape = kind
    real = thing.kind
    return (
        (shape is None or shape == real.shape)
        and (colour is None or colour == real.colour)
        and (size is None or size == real.size)
        and (texture is None or texture == real.texture)
    )


def is_related(relation: str, one: SceneObject, other: SceneObject, *, strict: bool = True) -> bool:
    """True where `one` is `relation` (left of, above, ...) `other`."""
    across, down = other.x - one.x, other.y - one.y
    ahead = {"left": across, "right": -across, "above": down, "below": -down}[relation]
    if not strict:
        return ahead > 0
    aside = down if relation in ("left", "right") else across
    return ahead >= RELATION_MARGIN and abs(aside) <= MAX_SLANT * ahead


def is_at(place: str, thing: SceneObject, *, strict: bool = True) -> bool:
    """True where the centre of a thing is on the left, in the top left corner, in the middle, ..."""
    if place == "middle":
        reach = MIDDLE_REACH if strict else MIDDLE_LIMIT
        return max(abs(thing.x - 0.5), abs(thing.y - 0.5)) <= reach
    edge = SIDE_EDGE if strict else 0.5
    sides = {"left": thing.x, "right": 1 - thing.x, "top": thing.y, "bottom": 1 - thing.y}
    return all(sides[side] <= edge for side in place.split())


def _can_assign(
    statement: Statement, things: Sequence[SceneObject], chosen: list[SceneObject], *, strict: bool
) -> bool:
    """True where different things can be found for the mentions that come after those already `chosen`."""
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

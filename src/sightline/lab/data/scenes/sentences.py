"""Sentences of scenes: templates filled with what is true, and hard negatives, false by one swap of such a sentence."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from sightline.lab.data.base import HardNegative
from sightline.lab.data.scenes.grammar import (
    PLACES,
    RELATIONS,
    VALUES,
    Chance,
    Mention,
    ObjectKind,
    Scene,
    SceneObject,
    Statement,
    fits,
    is_at,
    is_related,
    may_be_true,
)

_TEMPLATES_FILE = Path(__file__).with_name("templates.toml")
_SLOT = re.compile(r"\{([^{}]+)\}")
_NUMBERS = {1: "one", 2: "two", 3: "three"}
_PLURALS = {"cross": "crosses"}
_RELATION_WORDS = {
    "": dict(zip(RELATIONS, ("left of", "right of", "above", "below"), strict=True)),
    "of": dict(zip(RELATIONS, ("to the left of", "to the right of", "above", "below"), strict=True)),
    "its": dict(zip(RELATIONS, ("to its left", "to its right", "above it", "below it"), strict=True)),
}
_PLACE_WORDS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
    **{place: f"in the {place} corner" for place in PLACES if " " in place},
}
_WANTED = (("relation",), ("things",), ("place",), ("count", "negation"), ("relation", "things", "place"))
"""Families of the paraphrases, as long as such sentences can be found."""
_TRIES_A_TEMPLATE = 4


class Slot(NamedTuple):
    """The contents of a template's brace; `first` and `second` are things."""

    asks: str
    """`mention`, `relation`, `place`, `count` or `absent`."""
    first: int = 0
    second: int = 0
    attributes: tuple[str, ...] = ()
    style: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A sentence with slots."""

    text: str
    family: str
    pieces: tuple[str | Slot, ...]
    mentioned: tuple[int, ...]
    """The things it mentions; mention k of its statements is thing `mentioned[k]`."""

    @property
    def slots(self) -> list[Slot]:
        """Its slots, in the order of the text."""
        return [piece for piece in self.pieces if isinstance(piece, Slot)]


class Caption(NamedTuple):
    """A sentence and what it states."""

    text: str
    statement: Statement
    template: Template


@cache
def load_templates() -> tuple[Template, ...]:
    """All templates of `templates.toml`."""
    families = tomllib.loads(_TEMPLATES_FILE.read_text(encoding="utf-8"))
    return tuple(_parse(text, family) for family, texts in families.items() for text in texts)


def compose_captions(
    scene: Scene, chance: Chance, *, accept: Callable[[Statement], bool] | None = None
) -> list[Caption] | None:
    """Five true sentences of five templates; None where none can be found that `accept` takes."""
    captions: list[Caption] = []
    for families in _WANTED:
        caption = _find(scene, chance, _templates_of(*families), captions, accept)
        if caption is None:
            caption = _find(scene, chance, load_templates(), captions, accept)
        if caption is None:
            return None
        captions.append(caption)
    return captions


def write(template: Template, statement: Statement) -> str:
    """The sentence that a template makes of a statement."""
    relations, counts, absent = iter(statement.relations), iter(statement.counts), iter(statement.absent)
    words: list[str] = []
    for piece in template.pieces:
        if isinstance(piece, str):
            words.append(piece)
        elif piece.asks == "relation":
            words.append(_RELATION_WORDS[piece.style][next(relations)[0]])
        elif piece.asks == "count":
            number, kind = next(counts)
            words.append(f"{_NUMBERS[number]} {_name(kind, plural=number > 1)}")
        elif piece.asks == "absent":
            words.append(_name(next(absent)))
        else:
            mention = statement.mentions[template.mentioned.index(piece.first)]
            words.append(_name(mention.kind) if piece.asks == "mention" else _PLACE_WORDS[str(mention.place)])
    return "".join(words)


def fill(template: Template, things: Sequence[SceneObject], chance: Chance) -> Statement | None:
    """A statement of these things, taken in this order, by a template; None where it can't say anything true."""
    if max(template.mentioned) >= len(things):
        return None
    kinds: dict[int, ObjectKind] = {}
    places: dict[int, str] = {}
    relations: list[tuple[str, int, int]] = []
    counts: list[tuple[int, ObjectKind]] = []
    absent: list[ObjectKind] = []
    for slot in template.slots:
        one = things[slot.first]
        if slot.asks == "mention":
            kinds[slot.first] = _keep(one.kind, slot.attributes)
        elif slot.asks == "relation":
            known = [name for name in RELATIONS if is_related(name, one, things[slot.second])]
            if not known:
                return None
            pair = (template.mentioned.index(slot.first), template.mentioned.index(slot.second))
            relations.append((chance.pick(known), *pair))
        elif slot.asks == "place":
            known = [place for place in PLACES if is_at(place, one)]
            if not known:
                return None
            telling = [place for place in known if " " in place or place == "middle"]  # a corner or the middle
            places[slot.first] = chance.pick(telling or known)
        elif slot.asks == "count":
            kind = _keep(one.kind, slot.attributes)
            number = sum(fits(kind, thing) for thing in things)
            if number < 2 or (slot.attributes and any(fits(kind, things[i]) for i in template.mentioned if i)):
                return None
            counts.append((number, kind))
        else:
            kind_or_none = _find_absent(things, slot.attributes, chance)
            if kind_or_none is None:
                return None
            absent.append(kind_or_none)
    mentions = tuple(Mention(kinds[thing], places.get(thing)) for thing in template.mentioned)
    return Statement(mentions, tuple(relations), tuple(counts), tuple(absent))


def _find(
    scene: Scene,
    chance: Chance,
    templates: Sequence[Template],
    earlier: Sequence[Caption],
    accept: Callable[[Statement], bool] | None,
) -> Caption | None:
    for _ in range(_TRIES_A_TEMPLATE * len(templates)):
        template = chance.pick(templates)
        if any(caption.template is template for caption in earlier):
            continue
        statement = fill(template, chance.shuffle(scene.objects), chance)
        if statement is not None and (accept is None or accept(statement)):
            return Caption(write(template, statement), statement, template)
    return None


@cache
def _templates_of(*families: str) -> tuple[Template, ...]:
    return tuple(template for template in load_templates() if template.family in families)


def _keep(kind: ObjectKind, attributes: Sequence[str]) -> ObjectKind:
    return ObjectKind._make(
        value if name in attributes else None for name, value in zip(ObjectKind._fields, kind, strict=True)
    )


def _find_absent(things: Sequence[SceneObject], attributes: Sequence[str], chance: Chance) -> ObjectKind | None:
    """Something that isn't there, of colours and shapes that are as far as possible: a near miss."""
    for try_ in range(8):
        kind = ObjectKind(
            **{
                name: getattr(chance.pick(things).kind, name) if try_ < 4 else chance.pick(VALUES[name])
                for name in attributes
            }
        )
        if not any(fits(kind, thing) for thing in things):
            return kind
    return None


@cache
def _name(kind: ObjectKind, *, plural: bool = False) -> str:
    noun = kind.shape or "shape"
    if plural:
        noun = _PLURALS.get(noun, noun + "s")
    return " ".join([word for word in kind[:3] if word] + [noun])


def _parse(text: str, family: str) -> Template:
    pieces = tuple(_parse_slot(part) if i % 2 else part for i, part in enumerate(_SLOT.split(text)) if part)
    mentioned = sorted({p.first for p in pieces if isinstance(p, Slot) and p.asks == "mention"})
    return Template(text=text, family=family, pieces=pieces, mentioned=tuple(mentioned))


def _parse_slot(text: str) -> Slot:
    head, _, attributes = text.partition(":")
    names = tuple(attributes.split())
    if head == "n":
        return Slot("count", attributes=names)
    if head == "no":
        return Slot("absent", attributes=names)
    if head.endswith("@"):
        return Slot("place", int(head[0]))
    if ">" in head:
        things, _, style = head.partition(" ")
        return Slot("relation", int(things[0]), int(things[2]), style=style)
    return Slot("mention", int(head), attributes=names)


def make_negatives(scene: Scene, captions: Sequence[Caption], chance: Chance) -> list[HardNegative]:
    """For each caption the hard negatives that it allows, at most one of a kind, all false beyond doubt.

    `attribute` exchanges an attribute of two things and `relation` the two things of a relation, so that the words stay
    the same; `replacement` changes an attribute; `count` changes a number; `negation` denies a thing that is there.
    """
    negatives: list[HardNegative] = []
    for caption in captions:
        for kind, wrongs in (
            ("attribute", _swap_attributes(caption.statement)),
            ("relation", _swap_things(caption.statement)),
            ("replacement", _replace_attribute(caption.statement, chance)),
            ("count", _miscount(caption.statement)),
            ("negation", _deny(caption.statement, scene)),
        ):
            for wrong in chance.shuffle(list(wrongs)):
                # An exchanged attribute must be wrong by itself, not only because of where things are.
                judged = Statement(tuple(Mention(m.kind) for m in wrong.mentions)) if kind == "attribute" else wrong
                if not _contradicts_itself(wrong) and not may_be_true(judged, scene):
                    text = write(caption.template, wrong)
                    negatives.append(HardNegative(caption=caption.text, negative=text, kind=kind))
                    break
    return negatives


def _swap_attributes(statement: Statement) -> Iterator[Statement]:
    """Two things exchange an attribute."""
    for i, j in combinations(range(len(statement.mentions)), 2):
        one, other = statement.mentions[i].kind, statement.mentions[j].kind
        for name, value, swapped in zip(ObjectKind._fields, one, other, strict=True):
            if value is not None and swapped is not None and value != swapped:
                yield _with_kinds(statement, {i: one._replace(**{name: swapped}), j: other._replace(**{name: value})})


def _replace_attribute(statement: Statement, chance: Chance) -> Iterator[Statement]:
    """A thing gets another value of an attribute."""
    for i, (kind, _) in enumerate(statement.mentions):
        for name, value in zip(ObjectKind._fields, kind, strict=True):
            if value is not None:
                other = chance.pick([known for known in VALUES[name] if known != value])
                yield _with_kinds(statement, {i: kind._replace(**{name: other})})


def _swap_things(statement: Statement) -> Iterator[Statement]:
    """The two things of a relation exchange their places in it."""
    for _, i, j in statement.relations:
        yield _with_kinds(statement, {i: statement.mentions[j].kind, j: statement.mentions[i].kind})


def _miscount(statement: Statement) -> Iterator[Statement]:
    """Two become three, three become two."""
    for i, (number, kind) in enumerate(statement.counts):
        counts = (*statement.counts[:i], (5 - number, kind), *statement.counts[i + 1 :])
        yield statement._replace(counts=counts)


def _deny(statement: Statement, scene: Scene) -> Iterator[Statement]:
    """A thing that is said to be absent becomes something that is there and that the sentence doesn't mention."""
    for i, kind in enumerate(statement.absent):
        for thing in scene.objects:
            if not any(fits(mention.kind, thing) for mention in statement.mentions):
                there = ObjectKind(*(real if said else None for said, real in zip(kind, thing.kind, strict=True)))
                yield statement._replace(absent=(*statement.absent[:i], there, *statement.absent[i + 1 :]))


def _contradicts_itself(statement: Statement) -> bool:
    """`A red square, but no red square` gives itself away."""
    return any(
        all(denied is None or denied == said for denied, said in zip(kind, mention.kind, strict=True))
        for kind in statement.absent
        for mention in statement.mentions
    )


def _with_kinds(statement: Statement, kinds: Mapping[int, ObjectKind]) -> Statement:
    mentions = [Mention(kinds.get(i, mention.kind), mention.place) for i, mention in enumerate(statement.mentions)]
    return statement._replace(mentions=tuple(mentions))

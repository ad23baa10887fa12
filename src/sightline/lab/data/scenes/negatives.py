"""Sentences that are false of a scene by one swap of a sentence that is true of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from sightline.lab.data.base import HardNegative
from sightline.lab.data.scenes.grammar import VALUES, Chance, Kind, Scene
from sightline.lab.data.scenes.sentences import Caption, write
from sightline.lab.data.scenes.statements import Mention, Statement, fits, may_be_true


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
                if not _contradicts_itself(wrong) and not may_be_true(
                    wrong if kind != "attribute" else _without_places(wrong), scene
                ):
                    text = write(caption.template, wrong)
                    negatives.append(HardNegative(caption=caption.text, negative=text, kind=kind))
                    break
    return negatives


def _swap_attributes(statement: Statement) -> Iterator[Statement]:
    """Two things exchange an attribute."""
    for i, j in combinations(range(len(statement.mentions)), 2):
        one, other = statement.mentions[i].kind, statement.mentions[j].kind
        for name, value, swapped in zip(Kind._fields, one, other, strict=True):
            if value is not None and swapped is not None and value != swapped:
                yield _with_kinds(statement, {i: one._replace(**{name: swapped}), j: other._replace(**{name: value})})


def _replace_attribute(statement: Statement, chance: Chance) -> Iterator[Statement]:
    """A thing gets another value of an attribute."""
    for i, (kind, _) in enumerate(statement.mentions):
        for name, value in zip(Kind._fields, kind, strict=True):
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
    """What is said to be absent becomes something that is there and that the sentence doesn't mention."""
    for i, kind in enumerate(statement.absent):
        for thing in scene.objects:
            if not any(fits(mention.kind, thing) for mention in statement.mentions):
                there = Kind(*(real if said else None for said, real in zip(kind, thing.kind, strict=True)))
                yield statement._replace(absent=(*statement.absent[:i], there, *statement.absent[i + 1 :]))


def _contradicts_itself(statement: Statement) -> bool:
    """`A red square, but no red square` gives itself away."""
    return any(
        all(denied is None or denied == said for denied, said in zip(kind, mention.kind, strict=True))
        for kind in statement.absent
        for mention in statement.mentions
    )


def _with_kinds(statement: Statement, kinds: Mapping[int, Kind]) -> Statement:
    mentions = [Mention(kinds.get(i, mention.kind), mention.place) for i, mention in enumerate(statement.mentions)]
    return statement._replace(mentions=tuple(mentions))


def _without_places(statement: Statement) -> Statement:
    return Statement(tuple(Mention(mention.kind) for mention in statement.mentions))

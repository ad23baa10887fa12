"""English for composed captions: articles, plurals, and sentences with slots for details."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Number = Literal["one", "many", "mass", "fixed"]
Link = Literal["with", "and"]

# Letters are a poor guide to sounds: these begin with a vowel's letter and a consonant's sound, or the other way round.
_CONSONANT_SOUNDS = ("eu", "ewe", "once", "one-", "uku", "uni", "usa", "use", "usu", "uten")
_VOWEL_SOUNDS = ("heir", "honest", "honour", "hour", "x-ray")
_SPELLED_OUT = re.compile(r"[A-Z]{2,}\b")
_SPELLED_WITH_VOWEL = frozenset("AEFHILMNORSX")

_HEAD_ENDS = re.compile(r" (?:of|in|on|with|from|seen|for|under|and) ")
_EACH = re.compile(r"\{(an? )([^{}]+)\}")
_FUNCTION_WORD = re.compile(
    "an?|the|its|and|of|in|on|at|by|to|up|into|with|from|under|over|down|for|off|through|against|behind|next"
)


def choose_article(phrase: str) -> str:
    """`a` or `an`, by the sound that the phrase begins with."""
    if _SPELLED_OUT.match(phrase):
        return "an" if phrase[0] in _SPELLED_WITH_VOWEL else "a"
    start = phrase.lower()
    if start.startswith(_VOWEL_SOUNDS):
        return "an"
    return "an" if start[0] in "aeiou" and not start.startswith(_CONSONANT_SOUNDS) else "a"


def make_plural(noun: str, *, irregular: Mapping[str, str]) -> str:
    """`cup of coffee` -> `cups of coffee`: the head noun gets its plural, from `irregular` or by rule."""
    head_end = match.start() if (match := _HEAD_ENDS.search(noun)) else len(noun)
    head, rest = noun[:head_end], noun[head_end:]
    before, _, word = head.rpartition(" ")
    return " ".join(filter(None, [before, _pluralise_word(word, irregular)])) + rest


def _pluralise_word(word: str, irregular: Mapping[str, str]) -> str:
    if word in irregular:
        return irregular[word]
    if word.endswith("man"):
        return word[:-3] + "men"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A subject of the bank: its words without an article, how it counts, and the kind it belongs to."""

    text: str
    number: Number
    kind: str
    plural: str | None = None
    """Only where `number` is `one`: the others can't be counted."""
    common: bool = False
    """Whether it is among what people photograph most."""

    def phrase(self, *, attribute: str | None = None, count: str | None = None) -> str:
        """`a brown dog`, `two brown dogs`, `fresh bread`, `the Moon`: article or count, attribute, noun."""
        noun = self.plural if count and self.plural else self.text
        words = f"{attribute} {noun}" if attribute else noun
        if count:
            return f"{count} {words}"
        return f"{choose_article(words)} {words}" if self.number == "one" else words


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a subject does or how it is: the same for one and for several."""

    one: str
    several: str


def parse_action(text: str, *, irregular: Mapping[str, str]) -> Action:
    """`wearing {a hat}` -> `wearing a hat` for one, `wearing hats` for several."""
    return Action(
        one=_EACH.sub(r"\1\2", text),
        several=_EACH.sub(lambda match: make_plural(match[2], irregular=irregular), text),
    )


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A subject with some of the details that its kind allows; empty slots are left out of the text."""

    subject: Noun
    count: str | None = None
    attribute: str | None = None
    action: Action | None = None
    companion: Noun | None = None
    link: Link = "with"
    """What joins the companion: `with` after the action, `and` right after the subject."""
    place: str | None = None
    condition: str | None = None
    medium: str | None = None

    @property
    def text(self) -> str:
        """The sentence in words, without a full stop: `a black and white photo of a man with a camera`."""
        several = self.subject.number == "many" or self.count is not None
        action = (self.action.several if several else self.action.one) if self.action else None
        companion = f"{self.link} {self.companion.phrase()}" if self.companion else None
        middle = [companion, action] if self.link == "and" else [action, companion]
        parts = [self.subject.phrase(attribute=self.attribute, count=self.count), *middle, self.place, self.condition]
        words = " ".join(part for part in parts if part)
        return f"{self.medium} of {words}" if self.medium else words

    def repeats_itself(self) -> bool:
        """Whether a content word occurs twice, as in `a wooden table on a wooden table`."""
        words = [word.removesuffix("'s").rstrip("s") for word in re.findall(r"[\w'-]+", self.text.lower())]
        content = [word for word in words if not _FUNCTION_WORD.fullmatch(word)]
        return len(set(content)) < len(content)

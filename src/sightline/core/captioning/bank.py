"""The candidate bank that ships with Sightline, the English that joins its parts, and the user's own candidates."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sightline.errors import InputError

Detail = Literal["count", "attribute", "action", "companion", "place", "condition", "medium"]
Facet = Literal["subject", "count", "attribute", "action", "place", "condition", "medium"]
DETAILS: tuple[Detail, ...] = get_args(Detail)

MAX_CANDIDATE_CHARS = 400
"""Longest line of a candidates file. CLIP reads about 300 characters and would ignore the rest unseen."""

PEOPLE = ("person", "people")
"""Kinds whose nouns are people."""
_MORE_PEOPLE = frozenset("adult guy kid lady player rider worker".split())  # noqa: SIM905
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


@dataclass(frozen=True, kw_only=True)
class NounKind:
    """Traits that nouns of one kind share: the lists (for companions, the kinds) that each detail may come from."""

    name: str
    lists: Mapping[Detail, tuple[str, ...]]
    link: Link


@dataclass(frozen=True, kw_only=True)
class Option:
    """One entry of a facet, as it is ranked against an image and as it goes into a sentence."""

    facet: Facet
    list: str
    """The list that holds it; for subjects, the kind."""
    prompt: str
    value: Noun | Action | str


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Everything that composed captions are made of, in the order of the file."""

    kinds: Mapping[str, NounKind]
    options: tuple[Option, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Texts that are embedded once for each model: row i stands for `options[i]`."""
        return tuple(option.prompt for option in self.options)

    def names_people(self, text: str) -> bool:
        """Whether a text holds a noun for people: one of the bank's, or another that captions often have."""
        return not self._people_words.isdisjoint(re.findall(r"[a-z]+", text.lower()))

    @cached_property
    def _people_words(self) -> frozenset[str]:
        nouns = [option.value for option in self.options if isinstance(option.value, Noun) and option.list in PEOPLE]
        words = {form.split()[-1] for noun in nouns for form in (noun.text, noun.plural) if form}
        plurals = {_pluralise_word(word, {"lady": "ladies"}) for word in _MORE_PEOPLE}
        return frozenset(words | _MORE_PEOPLE | plurals)


@cache
def load_bank() -> Bank:
    """The bank of the package."""
    return parse_bank((resources.files("sightline.core.captioning") / "bank.toml").read_text(encoding="utf-8"))


def parse_bank(text: str) -> Bank:
    """`bank.toml` as text -> the bank. Raises InputError where a kind names a list that isn't there."""
    table = tomllib.loads(text)
    kinds = {name: _parse_kind(name, table) for name in table["kinds"]}
    return Bank(kinds=kinds, options=(*_parse_subjects(table), *_parse_details(table)))


def _parse_kind(name: str, table: Mapping[str, Any]) -> NounKind:
    entry = table["kinds"][name]
    lists = {detail: tuple(entry[detail]) for detail in DETAILS if detail in entry}
    for detail, named in lists.items():
        known = table["kinds"] if detail == "companion" else table[detail]
        if unknown := set(named) - set(known):
            raise InputError(
                f"The bank's kind {name!r} names {sorted(unknown)} for {detail}; there are {sorted(known)}."
            )
    return NounKind(name=name, lists=lists, link=entry.get("link", "with"))


def _parse_subjects(table: Mapping[str, Any]) -> Iterator[Option]:
    common = frozenset(table["common"])
    for kind, entry in table["kinds"].items():
        for number in get_args(Number):
            for text in entry.get(number, ()):
                noun = Noun(
                    text=text,
                    number=number,
                    kind=kind,
                    common=text in common,
                    plural=make_plural(text, irregular=table["plurals"]) if number == "one" else None,
                )
                prompt = table["prompts"]["subject"].format(noun.phrase())
                yield Option(facet="subject", list=kind, prompt=prompt, value=noun)


def _parse_details(table: Mapping[str, Any]) -> Iterator[Option]:
    for facet in cast("tuple[Facet, ...]", get_args(Facet)[1:]):
        for name, texts in table[facet].items():
            template = table["prompts"][facet]
            if facet == "action":
                template = template[name]
            for text in texts:
                value = parse_action(text, irregular=table["plurals"]) if facet == "action" else text
                prompt = template.format(value.one if isinstance(value, Action) else value)
                yield Option(facet=facet, list=name, prompt=prompt, value=value)


def read_candidates(path: Path) -> tuple[str, ...]:
    """A file of candidate captions, one a line, UTF-8: blank lines and `#` comments skipped, repetitions removed.

    Raises InputError where the file can't be read, isn't UTF-8, holds no caption or a line that is too long.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The candidates file {path} can't be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The candidates file {path} isn't UTF-8 (byte {error.start}). Save it as UTF-8, one caption a line."
        ) from error
    return parse_candidates(text, origin=f"the candidates file {path}")


def parse_candidates(text: str, *, origin: str) -> tuple[str, ...]:
    """Candidate captions, one a line, as in `read_candidates`; `origin` names the text in errors."""
    candidates: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        caption = " ".join(line.split())
        if len(caption) > MAX_CANDIDATE_CHARS:
            raise InputError(
                f"Line {number} of {origin} has {len(caption)} characters; "
                f"at most {MAX_CANDIDATE_CHARS} are allowed. Write one caption a line."
            )
        if caption and not caption.startswith("#"):
            candidates[caption] = None
    if not candidates:
        raise InputError(
            f"{origin[0].upper()}{origin[1:]} holds no caption. Write one a line; lines with # are comments."
        )
    return tuple(candidates)


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
    """True where it is among what people photograph most."""

    def phrase(self, *, attribute: str | None = None, count: str | None = None) -> str:
        """`a brown dog`, `two brown dogs`, `fresh bread`, `the Moon`: article or count, attribute, noun."""
        noun = self.plural if count and self.plural else self.text
        words = f"{attribute} {noun}" if attribute else noun
        if count:
            return f"{count} {words}"
        return f"{choose_article(words)} {words}" if self.number == "one" else words


@dataclass(frozen=True, kw_only=True)
class Action:
    """An action or a state of a subject: the same for one and for several."""

    one: str
    several: str


def parse_action(text: str, *, irregular: Mapping[str, str]) -> Action:
    """`wearing {a hat}` -> `wearing a hat` for one, `wearing hats` for several."""
    return Action(
        one=_EACH.sub(r"\1\2", text), several=_EACH.sub(lambda match: make_plural(match[2], irregular=irregular), text)
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
    """The word that joins the companion: `with` after the action, `and` right after the subject."""
    place: str | None = None
    condition: str | None = None
    medium: str | None = None

    @cached_property
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
        """True where a content word occurs twice, as in `a wooden table on a wooden table`."""
        words = [word.removesuffix("'s").rstrip("s") for word in re.findall(r"[\w'-]+", self.text.lower())]
        content = [word for word in words if not _FUNCTION_WORD.fullmatch(word)]
        return len(set(content)) < len(content)


def without_repetitions(sentences: Iterable[Sentence]) -> list[Sentence]:
    """The sentences that don't repeat themselves."""
    return [sentence for sentence in sentences if not sentence.repeats_itself()]

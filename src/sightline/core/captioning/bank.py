"""The candidate bank that ships with Sightline, and the user's own list of candidates."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sightline.core.captioning.grammar import Action, Link, Noun, Number, make_plural, parse_action
from sightline.errors import InputError

Detail = Literal["count", "attribute", "action", "companion", "place", "condition", "medium"]
Facet = Literal["subject", "count", "attribute", "action", "place", "condition", "medium"]
DETAILS: tuple[Detail, ...] = get_args(Detail)

MAX_CANDIDATE_CHARS = 400
"""Longest line of a candidates file. CLIP reads about 300 characters and would ignore the rest unseen."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What nouns of one kind have in common: the lists (for companions, the kinds) that each detail may come from."""

    name: str
    lists: Mapping[Detail, tuple[str, ...]]
    link: Link


@dataclass(frozen=True, kw_only=True)
class Option:
    """One entry of a facet, as it is ranked against a picture and as it goes into a sentence."""

    facet: Facet
    list: str
    """The list that holds it; for subjects, the kind."""
    prompt: str
    value: Noun | Action | str


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Everything that composed captions are made of, in the order of the file."""

    kinds: Mapping[str, Kind]
    options: tuple[Option, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is embedded once for each model: row i stands for `options[i]`."""
        return tuple(option.prompt for option in self.options)


@cache
def load_bank() -> Bank:
    """The bank of the package."""
    return parse_bank((resources.files("sightline.core.captioning") / "bank.toml").read_text(encoding="utf-8"))


def parse_bank(text: str) -> Bank:
    """`bank.toml` as text -> the bank. Raises InputError where a kind names a list that isn't there."""
    table = tomllib.loads(text)
    kinds = {name: _parse_kind(name, table) for name in table["kinds"]}
    return Bank(kinds=kinds, options=(*_parse_subjects(table), *_parse_details(table)))


def _parse_kind(name: str, table: Mapping[str, Any]) -> Kind:
    entry = table["kinds"][name]
    lists = {detail: tuple(entry[detail]) for detail in DETAILS if detail in entry}
    for detail, named in lists.items():
        known = table["kinds"] if detail == "companion" else table[detail]
        if unknown := set(named) - set(known):
            raise InputError(
                f"The bank's kind {name!r} names {sorted(unknown)} for {detail}; there are {sorted(known)}."
            )
    return Kind(name=name, lists=lists, link=entry.get("link", "with"))


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

"""What captions name: English nouns as WordNet 3.0 (its own free licence; Debian's `wordnet-base`) knows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from classes import ancestors

from sightline.lab.evaluation.captions.tokenizing import tokenize_caption

WORDNET = Path("/usr/share/wordnet")
_MANY = frozenset(
    """group couple pair bunch lot number set variety row line crowd piece slice bit close closeup photo photograph
    picture image view shot scene background foreground front back side top bottom middle edge end left right part kind
    type way day time something someone somebody area""".split()  # noqa: SIM905 (a hundred quotes would hide the words)
)
"""Nouns that count or point, and name no thing."""
_NEVER = frozenset(
    """a an the in on at of to by up as is are be it its he his her him she they them their this that with and or while
    one two three four five six seven eight nine ten several many some several other another each can go get have had
    has was will may out off over set like look red white black blue green yellow brown orange pink purple gray grey
    light dark bright large small big young old little long short open high low who dug blow flies upside female male
    attention position distance tan plaid does makes talks asian beige blonde point hind life land
    asians females males""".split()  # noqa: SIM905
)
"""WordNet has nouns of these, but captions mean other words."""
_IRREGULAR_KEPT = frozenset("glasses sunglasses jeans pants shorts scissors goggles trousers clothes stairs".split())  # noqa: SIM905
_ING = frozenset(
    """building ceiling clothing painting drawing wedding railing string ring king wing swing spring thing lightning
    evening morning earring dressing icing sling awning""".split()  # noqa: SIM905
)
"""Nouns that look like verbs; all others that do are taken for verbs."""
_PEOPLE = frozenset("people person crowd team audience family child kid baby player".split())  # noqa: SIM905
_PERSON = 7846
"""The synset of a person."""
_TAGGED_SHARE = 0.6
_SENSES = 2


@cache
def noun(word: str) -> str | None:
    """The singular of a word that is a noun nearly always, or None."""
    if word in _NEVER or not word.isalpha() or len(word) == 1:
        return None
    if (word.endswith("ing") and word not in _ING) or (word.endswith("ed") and len(word) > 4):
        return None
    if word in _IRREGULAR_KEPT:
        return word
    form = _singular(word)
    return form if form is not None and _is_mostly_noun(form) else None


def nouns_of(sentence: str) -> list[str]:
    """The things that a sentence names, in its order; of several nouns in a row ("tennis player") all, in order."""
    found = [noun(word) for word in tokenize_caption(sentence)]
    return [one for one in found if one is not None and one not in _MANY]


def head_noun(sentence: str) -> str | None:
    """What a sentence is about: the last of the first nouns that stand together ("a baseball player" -> player)."""
    head = None
    for word in tokenize_caption(sentence):
        found = noun(word)
        if found is not None and found not in _MANY:
            head = found
        elif head is not None:
            break
    return head


@cache
def synonyms(word: str) -> frozenset[str]:
    """A noun, and the nouns that share one of its first two senses."""
    lemmas = {lemma for offset in _senses().get(word, ())[:_SENSES] for lemma in _lemmas(offset)}
    return frozenset({word, *lemmas})


@cache
def is_people(word: str) -> bool:
    """Whether a noun's first sense is a person or several: "woman", "cook", "crowd"."""
    first = _senses().get(word, ())[:1]
    return word in _PEOPLE or any(_PERSON in ancestors(offset) for offset in first)


def agreement(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """How many captions' head nouns, and what share of all their nouns, people's captions name, too."""
    heads = right = said = 0
    for caption, people in zip(captions, references, strict=True):
        named = {other for text in people for one in nouns_of(text) for other in synonyms(one)}
        own = nouns_of(caption)
        heads += bool(synonyms(head_noun(caption) or "-") & named)
        right += sum(bool(synonyms(one) & named) for one in own)
        said += len(own)
    return {"head_noun": heads / len(captions), "nouns": right / max(said, 1)}


def _singular(word: str) -> str | None:
    forms = [word]
    if word.endswith("s") and not word.endswith("ss"):
        endings = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"))
        forms = [word.removesuffix(ending) + instead for ending, instead in endings if word.endswith(ending)] + forms
    if word in _exceptions():
        forms = [_exceptions()[word], *forms]
    return next((form for form in forms if form in _senses()), None)


def _is_mostly_noun(form: str) -> bool:
    counts = _counts().get(form, {})
    own, total = counts.get("1", 0), sum(counts.values())
    if total:
        return own / total >= _TAGGED_SHARE
    return len(_senses()[form]) >= _other_senses().get(form, 0)


@cache
def _senses() -> dict[str, tuple[int, ...]]:
    """The synsets of each noun, its commonest sense first."""
    senses = {}
    for fields in _index("noun"):
        count = int(fields[2])
        senses[fields[0].replace("_", " ")] = tuple(int(offset) for offset in fields[-count:])
    return senses


@cache
def _other_senses() -> dict[str, int]:
    """How many senses each word has as another part of speech."""
    senses: dict[str, int] = {}
    for kind in ("verb", "adj", "adv"):
        for fields in _index(kind):
            senses[fields[0]] = senses.get(fields[0], 0) + int(fields[2])
    return senses


def _index(kind: str) -> list[list[str]]:
    lines = (WORDNET / f"index.{kind}").read_text(encoding="latin-1").splitlines()
    return [line.split() for line in lines if not line.startswith(" ")]


@cache
def _counts() -> dict[str, dict[str, int]]:
    """How often each word was tagged as a noun (1), a verb (2), ... in the texts that WordNet counts."""
    counts: dict[str, dict[str, int]] = {}
    for line in (WORDNET / "cntlist.rev").read_text(encoding="latin-1").splitlines():
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        own = counts.setdefault(lemma, {})
        own[rest[0]] = own.get(rest[0], 0) + int(count)
    return counts


@cache
def _exceptions() -> dict[str, str]:
    lines = (WORDNET / "noun.exc").read_text(encoding="latin-1").splitlines()
    return {fields[0]: fields[1] for fields in (line.split() for line in lines)}


@cache
def _lemmas(offset: int) -> tuple[str, ...]:
    with (WORDNET / "data.noun").open("rb") as file:
        file.seek(offset)
        fields = file.readline().decode("latin-1").split()
    return tuple(fields[4 + 2 * i].replace("_", " ").lower() for i in range(int(fields[3], 16)))

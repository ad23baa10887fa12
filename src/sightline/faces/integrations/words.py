"""Words that carry meaning in captions, for checks of what a model wrote and for names without a model."""

from __future__ import annotations

import re

_LITTLE_WORDS = """
a about above across after against all along also among an and another any are around as at away background be
behind beside between beyond both but by can close could down each for foreground from front group has have he her
here him his holding image in inside into is it its large lot lots many more near next no of off on one onto or
other out outside over photo photograph picture scene several she shot showing shows side small some someone
standing than that the their them there these they this those three through to top toward towards two under up upon
very view was wearing were what which while who with within without you
"""
_LITTLE = frozenset(_LITTLE_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ENDINGS = ("ing", "ed", "es", "s")
_SHORTEST_STEM = 3


def content_words(text: str) -> list[str]:
    """Words in lower case, without those that say little."""
    return [word for word in _WORD.findall(text.lower()) if word not in _LITTLE and len(word) > 1]


def share_supported(text: str, sources: list[str]) -> float:
    """The share of a text's content words that occur in the sources, up to their endings; 1 for a text without any."""
    known = {stem(word) for source in sources for word in content_words(source)}
    words = content_words(text)
    return sum(stem(word) in known for word in words) / len(words) if words else 1.0


def stem(word: str) -> str:
    """A word without its ending: run for runs and running, wav for wave and waves. Rough, and the same each time."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > _SHORTEST_STEM and (word[-1] == word[-2] or word[-1] == "e") else word

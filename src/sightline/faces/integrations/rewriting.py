"""Texts about images by a text model: the captions of an image as one sentence or alternative text, and candidates.

What a model writes is checked by the words that carry meaning. Without one, and where it fails, plain texts stand.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sightline.core.captioning.bank import MAX_CANDIDATE_CHARS, load_bank
from sightline.errors import InputError
from sightline.faces.integrations import text_generation as writing
from sightline.faces.integrations.text_generation import TextGenerator, Unusable, WritingConfig, Written, quote

Style = Literal["sentence", "alt"]

LEAST_SUPPORTED = 0.6
"""Share of content words that must occur in the captions. A merged sentence can't know more than they say: what is
below has been invented, or a caption has told the model to write something else."""
_LEAST_CHARS, _MOST_CHARS = 20, 1_000
_MOST_CANDIDATES = 200

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


def merge_captions(
    captions: Sequence[Sequence[str]],
    generator: TextGenerator | None,
    *,
    max_chars: int = 125,
    style: Style = "sentence",
) -> list[Written]:
    """For each picture, its captions (the best first) as one text of at most `max_chars` characters.

    Without a model, and wherever its answer fails the checks (length, one line, words that the captions support), the
    best caption stands, shortened at a word. Raises InputError for a picture without captions or a bad length.
    """
    if not _LEAST_CHARS <= max_chars <= _MOST_CHARS:
        raise InputError(f"max_chars must lie between {_LEAST_CHARS} and {_MOST_CHARS}; it is {max_chars}.")
    if any(not several for several in captions):
        raise InputError("A picture without captions has nothing to merge; caption it first.")
    asked = [
        (
            _make_prompt(several, max_chars=max_chars, style=style),
            partial(_take_line, captions=several, max_chars=max_chars),
            _shorten(several[0], max_chars),
        )
        for several in captions
    ]
    return writing.write(generator, asked, WritingConfig(max_tokens=max(16, max_chars // 2)))


def _take_line(answer: str, *, captions: Sequence[str], max_chars: int) -> str:
    return require_supported(writing.first_line(answer), captions, max_chars=max_chars, least=LEAST_SUPPORTED)


def _make_prompt(captions: Sequence[str], *, max_chars: int, style: Style) -> str:
    wanted = {
        "sentence": "one plain sentence that says what they agree on, and details of either that don't contradict",
        "alt": "an alternative text for people who can't see the picture, without words such as 'image of'",
    }[style]
    return (
        f"These captions of one picture come from two programs and may be wrong. As JSON: {quote(list(captions))}\n"
        f"Write {wanted}. Use at most {max_chars} characters, on one line. Add nothing that no caption says."
    )


def _shorten(caption: str, max_chars: int) -> str:
    whole = " ".join(caption.split())
    if len(whole) <= max_chars:
        return whole
    if " " not in whole[:max_chars]:
        return whole[: max_chars - 1] + "…"
    return textwrap.shorten(whole, max_chars, placeholder="…")


@dataclass(frozen=True, kw_only=True)
class WrittenCandidates:
    """Captions, the model's first, filled up with plain ones."""

    captions: tuple[str, ...]
    written: int
    """The number of those that a model wrote."""
    problem: str | None = None
    """Why there are none of a model that was asked."""


def write_candidates(subject: str, generator: TextGenerator | None, *, count: int = 20) -> WrittenCandidates:
    """Up to `count` captions that show the subject, each on one line and different from the others.

    A model's lines are taken where they name the subject; the rest, or all without a model, combine the subject with
    places and conditions of the bank. Raises InputError for an empty subject or a bad number.
    """
    subject = " ".join(subject.split())
    if not any(letter.isalpha() for letter in subject) or len(subject) > MAX_CANDIDATE_CHARS // 4:
        raise InputError(f"The subject must be a word or a few, at most {MAX_CANDIDATE_CHARS // 4} characters.")
    if not 1 <= count <= _MOST_CANDIDATES:
        raise InputError(f"count must lie between 1 and {_MOST_CANDIDATES}; it is {count}.")
    prompt = (
        f"Write {count} different captions of photographs that show the subject in this JSON string: {quote(subject)}\n"
        "One caption on each line, without numbers; vary place, light, action and number; name the subject in each."
    )
    wanted = {stem(word) for word in content_words(subject)}

    def take(answer: str) -> list[str]:
        lines = writing.caption_lines(answer)
        fitting = [line for line in lines if wanted & {stem(word) for word in content_words(line)}]
        if not fitting:
            raise Unusable("no line names the subject")
        return _different(fitting)

    ((found, problem),) = writing.ask(generator, [(prompt, take)], WritingConfig(max_tokens=min(25 * count, 2_000)))
    written = found or []
    captions = _different([*written, *_plain_candidates(subject, count)])[:count]
    return WrittenCandidates(captions=tuple(captions), written=min(len(written), count), problem=problem)


def _different(captions: list[str]) -> list[str]:
    return list({caption.casefold().rstrip("."): caption for caption in reversed(captions)}.values())[::-1]


def _plain_candidates(subject: str, count: int) -> list[str]:
    """The subject by itself, then at places and in conditions of the bank, spread over its lists."""
    options = [option for option in load_bank().options if option.facet in ("place", "condition")]
    step = max(1, len(options) // count)
    details = [str(option.value) for option in options[::step]]
    return [f"a photo of {subject}", *(f"{subject} {detail}" for detail in details)]


def save_candidates(path: Path, written: WrittenCandidates) -> None:
    """Write them one a line, as `caption --candidates` reads them. Raises InputError where that fails."""
    try:
        path.write_text("".join(f"{caption}\n" for caption in written.captions), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}.") from error


def content_words(text: str) -> list[str]:
    """Words in lower case, without those that say little."""
    return [word for word in _WORD.findall(text.lower()) if word not in _LITTLE and len(word) > 1]


def share_supported(text: str, sources: Sequence[str]) -> float:
    """The share of a text's content words that occur in the sources, up to their endings; 1 for a text without any."""
    known = {stem(word) for source in sources for word in content_words(source)}
    words = content_words(text)
    return sum(stem(word) in known for word in words) / len(words) if words else 1.0


def require_supported(text: str, sources: Sequence[str], *, max_chars: int, least: float) -> str:
    """The text. Raises Unusable where it is too long, or less than `least` of its words occur in the sources."""
    if len(text) > max_chars:
        raise Unusable(f"it has {len(text)} characters, more than {max_chars}")
    if not content_words(text) or share_supported(text, sources) < least:
        raise Unusable("it says what no caption says")
    return text


def stem(word: str) -> str:
    """A word without its ending: run for runs and running, wav for wave and waves. Rough, and the same each time."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > _SHORTEST_STEM and (word[-1] == word[-2] or word[-1] == "e") else word

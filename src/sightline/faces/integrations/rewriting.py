"""The two captions of a picture -> one sentence, or an alternative text of a given length."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

from sightline.errors import InputError, ModelError
from sightline.faces.integrations.text_generation import (
    TextGenerator,
    Unusable,
    WritingConfig,
    Written,
    first_line,
    generate_or_explain,
    quote,
)
from sightline.faces.integrations.words import content_words, share_supported

Style = Literal["sentence", "alt"]

LEAST_SUPPORTED = 0.6
"""Share of content words that must occur in the captions. A merged sentence can't know more than they say: what is
below has been invented, or a caption has told the model to write something else."""
_LEAST_CHARS, _MOST_CHARS = 20, 1_000


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
    plain = [_shorten(several[0], max_chars) for several in captions]
    if generator is None:
        return [Written(text=text, plain=text) for text in plain]
    prompts = [_make_prompt(several, max_chars=max_chars, style=style) for several in captions]
    answers = generate_or_explain(generator, prompts, WritingConfig(max_tokens=max(16, max_chars // 2)))
    return [
        _check(answer, several, text, max_chars=max_chars, name=generator.name)
        for answer, several, text in zip(answers, captions, plain, strict=True)
    ]


def _make_prompt(captions: Sequence[str], *, max_chars: int, style: Style) -> str:
    wanted = {
        "sentence": "one plain sentence that says what they agree on, and details of either that don't contradict",
        "alt": "an alternative text for people who can't see the picture, without words such as 'image of'",
    }[style]
    return (
        f"These captions of one picture come from two programs and may be wrong. As JSON: {quote(list(captions))}\n"
        f"Write {wanted}. Use at most {max_chars} characters, on one line. Add nothing that no caption says."
    )


def _check(answer: str | ModelError, captions: Sequence[str], plain: str, *, max_chars: int, name: str) -> Written:
    if isinstance(answer, ModelError):
        return Written(text=plain, plain=plain, problem=str(answer))
    try:
        text = first_line(answer)
        if len(text) > max_chars:
            raise Unusable(f"it has {len(text)} characters, more than {max_chars}")
        if not content_words(text) or share_supported(text, list(captions)) < LEAST_SUPPORTED:
            raise Unusable("it says what no caption says")
    except Unusable as reason:
        return Written(text=plain, plain=plain, problem=f"the answer of {name} can't be used: {reason}")
    return Written(text=text, plain=plain)


def _shorten(caption: str, max_chars: int) -> str:
    whole = " ".join(caption.split())
    if len(whole) <= max_chars:
        return whole
    return (
        textwrap.shorten(whole, max_chars, placeholder="…")
        if " " in whole[:max_chars]
        else whole[: max_chars - 1] + "…"
    )

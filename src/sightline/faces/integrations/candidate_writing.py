"""Candidate captions for a subject: a list for `caption --candidates`, which CLIP ranks against pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.core.captioning.bank import MAX_CANDIDATE_CHARS, load_bank
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.text_generation import TextGenerator, WritingConfig, generate_or_explain, quote
from sightline.faces.integrations.words import content_words, stem

_MOST = 200


@dataclass(frozen=True, kw_only=True)
class WrittenCandidates:
    """Captions, the model's first, filled up with plain ones."""

    captions: tuple[str, ...]
    written: int
    """How many of them a model wrote."""
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
    if not 1 <= count <= _MOST:
        raise InputError(f"count must lie between 1 and {_MOST}; it is {count}.")
    written, problem = ([], None) if generator is None else _ask(subject, generator, count)
    captions = _different([*written, *_plain(subject, count)])[:count]
    return WrittenCandidates(captions=tuple(captions), written=min(len(written), count), problem=problem)


def _ask(subject: str, generator: TextGenerator, count: int) -> tuple[list[str], str | None]:
    prompt = (
        f"Write {count} different captions of photographs that show the subject in this JSON string: {quote(subject)}\n"
        "One caption on each line, without numbers; vary place, light, action and number; name the subject in each."
    )
    (answer,) = generate_or_explain(generator, [prompt], WritingConfig(max_tokens=min(25 * count, 2_000)))
    if isinstance(answer, ModelError):
        return [], str(answer)
    wanted = {stem(word) for word in content_words(subject)}
    lines = [_clean(line) for line in answer.splitlines()]
    fitting = [line for line in lines if wanted & {stem(word) for word in content_words(line)}]
    kept = _different([line for line in fitting if len(line) <= MAX_CANDIDATE_CHARS])
    return kept, None if kept else f"the answer of {generator.name} can't be used: no line names the subject"


def _clean(line: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return text.lstrip("0123456789.)-*•# ").strip("\"'“”` ")


def _different(captions: list[str]) -> list[str]:
    return list({caption.casefold().rstrip("."): caption for caption in reversed(captions)}.values())[::-1]


def _plain(subject: str, count: int) -> list[str]:
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

"""Words of the user's own, taught by example: names for what no model knows, such as a dog called Rex.

A few images give a word the direction that tells images like them from the library's others
(`Background.discriminate`). What a model reads in the name itself counts too, as far as the examples bear it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sightline.core.images.files import hash_file, is_image_name
from sightline.core.search.query import parse_query
from sightline.core.store.filters import FIELDS
from sightline.core.types import MAX_EXAMPLES, MAX_NAME_CHARS, Example, TaughtWord
from sightline.errors import ImageError, InputError, NotFoundError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder
    from sightline.core.search.background import Background
    from sightline.core.store.base import Store

_KNOWN, _SURELY_KNOWN = 1.0, 3.0
"""Standard deviations by which examples lie nearer to a name than other images do: from there on it counts, and fully.
Nonsense reaches 1 in one of ten cases, names of Tiny ImageNet's classes 2 to 5 (three examples)."""
_NAME_WEIGHT = 2.0
"""Weight of a name that counts fully, beside one example; with n examples it is divided by the root of n."""
_WORD_IN_SENTENCE = 0.5
"""Weight of a taught word's direction beside the sentence around it."""


def check_name(name: str) -> str:
    """A name without blanks around it. Raises InputError for what a query or a filter would take for something else."""
    shown = " ".join(name.split())
    if not re.search(r"\w", shown):
        raise InputError("The name is empty: give a word of your own, such as Rex.")
    if len(shown) > MAX_NAME_CHARS:
        raise InputError(f"The name has {len(shown)} characters; at most {MAX_NAME_CHARS} are allowed.")
    if shown.startswith(("-", "+")):
        raise InputError(f"{shown!r} can't be a name: it begins with a sign, as an option or a part to look away from.")
    if shown.lower() in FIELDS:
        raise InputError(f"{shown!r} can't be a name: it is a field of filters. Choose another word.")
    parts = [] if is_image_name(shown) else parse_query([shown], allow_files=False)
    if [(part.text, part.weight) for part in parts] != [(shown, 1.0)] or re.search(r'[/\\"“”„]', shown):
        raise InputError(f"{shown!r} can't be a name: a query would take it for a picture, a weight or several parts.")
    return shown


def teach(
    store: Store, encoder: Encoder, name: str, examples: Iterable[Example], *, kind: str | None = None
) -> TaughtWord:
    """Give a word examples, in addition to those that it has, and keep their vectors; the word as it is now.

    `kind` says in the language's own words what it is, such as `dog`. Raises InputError for a name that can't be one,
    for no or too many examples, and, before anything is kept, for an image that can't be read.
    """
    name = check_name(name)
    known = find_word(store.words(), name) or TaughtWord(name=name)
    kind = check_name(kind) if kind is not None else known.kind
    added = {example.content_hash: example for example in examples}
    every = {example.content_hash: example for example in known.examples} | added
    if not added or len(every) > MAX_EXAMPLES:
        raise InputError(f"{name!r} was given {len(every)} examples; give 1 to {MAX_EXAMPLES}, best 3 to 10.")
    vectors = {content_hash: _embed(store, encoder, example) for content_hash, example in added.items()}
    word = replace(known, name=name, kind=kind, examples=tuple(every.values()))
    store.put_word(word)
    store.put_example_vectors(encoder.card.name, name, vectors)
    return word


def read_example(store: Store, path: Path) -> Example:
    """An image file, or a row of the library by its path, as an example. Raises InputError where it can't be read."""
    row = store.find_path(path.absolute())
    try:
        return Example(path=path.absolute(), content_hash=hash_file(path))
    except ImageError as error:
        if row is not None:  # its disk isn't mounted, say; the library has its vector
            return Example(path=row.path, content_hash=row.content_hash)
        raise InputError(f"The picture {path} can't be read: {error.reason}.") from error


def forget(store: Store, name: str) -> None:
    """Forget a word. Raises NotFoundError where there is none of that name."""
    if not store.remove_word(name):
        known = ", ".join(word.name for word in store.words()) or "none yet"
        raise NotFoundError(f"There is no word {name!r} that was taught here; there are: {known}.", kind="unknown-word")


def find_word(words: Sequence[TaughtWord], name: str) -> TaughtWord | None:
    """The word of a name, in any case."""
    wanted = " ".join(name.casefold().split())
    return next((word for word in words if word.name.casefold() == wanted), None)


def find_words(text: str, words: Sequence[TaughtWord]) -> list[TaughtWord]:
    """The taught words that a text holds, as whole words in any case; of overlapping ones the longest."""
    found = []
    for word in sorted(words, key=lambda word: -len(word.name)):
        if (rest := _replace(text, word.name, " ")) != text:
            found.append(word)
            text = rest
    return found


def aim_at_words(
    store: Store, encoder: Encoder, background: Background, text: str, words: Sequence[TaughtWord]
) -> NDArray[np.float64]:
    """The direction (D,), scaled, of a text that holds taught words.

    A word alone is its own direction. In a sentence the text tower reads its kind instead, or, where there is none, the
    name if the model knows it, else nothing; to that each word's direction is added.
    """
    aimed_D = np.zeros(encoder.dim)
    rest = text
    for word in words:
        vectors_ND = learn(store, encoder, word)
        stand_in = word.kind or word.name
        named_D = encoder.encode_texts([stand_in])[0].astype(np.float64)
        if _replace(text, word.name, "") == "":
            return aim_alone(background, vectors_ND, named_D)
        aimed_D += background.discriminate(vectors_ND)
        is_read = word.kind is not None or _share_known(background, vectors_ND, named_D) > 0
        rest = _replace(rest, word.name, stand_in if is_read else "")
    if not rest:
        return background.scale(aimed_D)
    sentence_D = background.scale(encoder.encode_texts([rest])[0].astype(np.float64))
    return background.scale(sentence_D + _WORD_IN_SENTENCE * aimed_D)


def aim_alone(
    background: Background, vectors_ND: NDArray[np.float32], named_D: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The direction (D,), scaled, of a word by its examples (N, D), shrunk towards its name's own (D,)."""
    weight = _NAME_WEIGHT * _share_known(background, vectors_ND, named_D) / len(vectors_ND) ** 0.5
    return background.scale(background.discriminate(vectors_ND) + weight * background.scale(named_D))


def learn(store: Store, encoder: Encoder, word: TaughtWord) -> NDArray[np.float32]:
    """A word's vectors (N, D) under a model, which embeds the examples that it hasn't seen yet.

    Raises InputError where none of them is left to be seen.
    """
    model = encoder.card.name
    known = store.example_vectors(model, word.name)
    missing = [example for example in word.examples if example.content_hash not in known]
    made: dict[str, NDArray[np.float32]] = {}
    for example in missing:
        try:
            made[example.content_hash] = _embed(store, encoder, example)
        except InputError:  # the file is gone; others will do
            continue
    if made:
        with suppress(StoreError):  # opened for reading only: they are made again next time
            store.put_example_vectors(model, word.name, made)
    if not (vectors := [*known.values(), *made.values()]):
        raise InputError(
            f"{word.name!r} was taught with images that {model} never saw and that are gone. Teach it again."
        )
    return np.stack(vectors)


def _share_known(background: Background, vectors_ND: NDArray[np.float32], named_D: NDArray[np.float64]) -> float:
    """How far a model knows a name (D,), 0 to 1, as the examples (N, D) bear it out."""
    typicality = background.typicality(vectors_ND, named_D)
    return min(1.0, max(0.0, (typicality - _KNOWN) / (_SURELY_KNOWN - _KNOWN)))


def _replace(text: str, name: str, by: str) -> str:
    """A text with a name replaced, as whole words in any case, and without blanks around it."""
    pattern = r"\s+".join(map(re.escape, name.split()))
    return " ".join(re.sub(rf"(?<!\w){pattern}(?!\w)", lambda _: by, text, flags=re.IGNORECASE).split())


def _embed(store: Store, encoder: Encoder, example: Example) -> NDArray[np.float32]:
    """The vector (D,) of an example: the library's own where it holds the same bytes, else of the file.

    Raises InputError where there is no such file, or one of other bytes by now.
    """
    from sightline.core.search.engine import embed_image

    model = encoder.card.name
    rows = [record.id for record in store.find_hash(example.content_hash) if record.id is not None]
    if rows and model in store.models():
        _, vectors_ND = store.vectors(model, rows)
        if len(vectors_ND):
            first_D: NDArray[np.float32] = vectors_ND[0]
            return first_D
    try:
        is_same = hash_file(example.path) == example.content_hash
    except ImageError as error:
        raise InputError(f"The picture {example.path} can't be read: {error.reason}.") from error
    if not is_same:
        raise InputError(f"The picture {example.path} is another one by now.")
    return embed_image(encoder, example.path)

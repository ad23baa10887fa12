"""Candidate captions ranked against images by CLIP: those of a fixed list, or composed from the bank.

All combinations of the bank would be billions. So its some thousand entries are compared with the image once, each
facet by itself, and sentences grow from the best subjects one detail at a time, keeping the few that fit best after
each (a beam search whose objective is the cosine of the whole sentence): some dozens of fresh text embeddings an image.

Text embeddings of fixed lists are computed once for each model and kept in the cache folder. A file is named by a hash
of everything that its numbers depend on, so another model, precision or list simply has another file, and none has to
be invalidated.

Shape suffixes: B images, N options of the bank, T texts, D dimension of the joint space.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.core.captioning.bank import (
    DETAILS,
    PEOPLE,
    Bank,
    Detail,
    Facet,
    Noun,
    NounKind,
    Sentence,
    load_bank,
    without_repetitions,
)
from sightline.core.models.base import Encoder
from sightline.core.types import Caption
from sightline.errors import ModelError
from sightline.kit.config import cache_dir
from sightline.kit.files import replacing

_CHUNK = 256
"""Texts embedded at a time; bounds the memory of the text tower."""
_VARIANTS = 2
PEOPLE_SLOPE, PEOPLE_OFFSET = 0.3, 0.6
"""From how much more probable a CLIP finds people than other subjects, in nats, to the log-odds that they are there: a
logistic regression with the starter, on 500 images of Flickr8k train that no training saw, 1,000 of Tiny ImageNet."""
_WITH_PEOPLE = ("body", "event")
"""Kinds that tell nothing of whether people are there."""
Cosines = dict[Sentence, float]
"""Sentences of one image with their cosine."""


class Ranker(Protocol):
    """Image vectors -> captions that fit, whatever the candidates are."""

    def rank(self, image_vectors_BD: NDArray[np.float32], *, top_k: int) -> list[list[Caption]]:
        """L2-normalised image vectors (B, D) -> for each image its `top_k` captions, best first."""

    def weigh_people(self, image_vectors_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-odds that people are in each image (B,), as far as the candidates tell; 0 where they don't."""
        ...


class ListRanker:
    """Ranks a list of candidate captions, embedded once; with `cached`, once for all runs."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], *, cached: bool = True) -> None:
        self._texts = tuple(texts)
        self._vectors_TD = (load_or_embed_texts if cached else embed_texts)(encoder, self._texts)
        self._model = encoder.card.name

    def rank(self, image_vectors_BD: NDArray[np.float32], *, top_k: int) -> list[list[Caption]]:
        """The `top_k` candidates by cosine, best first; equal ones in the order of the list."""
        require_finite(image_vectors_BD, what=f"Image vectors of {self._model}")
        similarities_BT = image_vectors_BD @ self._vectors_TD.T
        return [
            [make_clip_caption(self._texts[i], float(row_T[i]), model=self._model) for i in order_best(row_T)[:top_k]]
            for row_T in similarities_BT
        ]

    def weigh_people(self, image_vectors_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Zeros (B,): nobody knows which of the candidates are people."""
        return np.zeros(len(image_vectors_BD), np.float32)


def order_best(similarities_T: NDArray[np.float32]) -> NDArray[np.intp]:
    """Indices from the highest similarity down, ties by index.

    Differences below 1e-6 count as ties: they depend on how a batch was cut, and captions must not.
    """
    return np.argsort(-similarities_T.round(6), kind="stable")


def make_clip_caption(text: str, similarity: float, *, model: str) -> Caption:
    """A ranked candidate as a Caption."""
    return Caption(text=text, source="clip", similarity=similarity, model=model)


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts -> (T, D), rows L2-normalised. Raises ModelError where a vector isn't finite."""
    chunks = [encoder.encode_texts(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
    vectors_TD = np.concatenate(chunks) if chunks else np.zeros((0, encoder.dim), np.float32)
    require_finite(vectors_TD, what=f"Text vectors of {encoder.card.name}")
    return vectors_TD


def load_or_embed_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """The result of `embed_texts`, from the cache where it is there. A cache that can't be written is done without."""
    path = cache_dir() / "banks" / f"{_hash_inputs(encoder, texts)}.npy"
    cached_TD = _read(path, shape=(len(texts), encoder.dim))
    if cached_TD is not None:
        return cached_TD
    vectors_TD = embed_texts(encoder, texts)
    with suppress(OSError):  # The cache only saves time: a read-only home or a full disk must not cost the captions.
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            np.lib.format.write_array(file, vectors_TD, allow_pickle=False)
    return vectors_TD


def require_finite(values: NDArray[np.float32], *, what: str) -> None:
    """Raise ModelError where a value is NaN or infinite: rankings with NaN are silently wrong."""
    if not np.isfinite(values).all():
        raise ModelError(f"{what} hold values that aren't finite. Check the model's files with: sightline doctor")


def _hash_inputs(encoder: Encoder, texts: Sequence[str]) -> str:
    inputs = [asdict(encoder.identity), encoder.precision, list(texts)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def _read(path: Path, *, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The cached matrix; None where there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            vectors_TD = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if vectors_TD.shape != shape or vectors_TD.dtype != np.float32:
        return None
    lengths_T = np.linalg.norm(vectors_TD, axis=1)
    return vectors_TD if np.allclose(lengths_T, 1.0, atol=1e-3) else None


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """Extent of the composition's search; the defaults embed some dozens of sentences an image."""

    subjects: int = 8
    """Subjects that start."""
    beam: int = 3
    """Sentences that are extended in each round."""
    options: int = 2
    """Best options tried for each detail of a sentence."""
    rounds: int = 3
    """Details that a sentence may have at most."""
    gain_nats: float = 3.0
    """A detail stays only if it makes the sentence exp(gain_nats) times as probable to the model: less than that is
    noise, which makes horses purple. With the starter on `coco-mini`, people use
    36% of the nouns with 2 nats, 38% with 4."""
    common_nats: float = 2.0
    """Log of how much more often a common subject is photographed than another: its advantage in the ranking. With the
    starter, the best candidate's head noun is one that people use for 36% of `coco-mini` with 0 nats, 45% with 2, 43%
    with 4, and for 34%, 46% and 48% of 120 images of Flickr8k train that no training saw."""


class BankRanker:
    """Composes and ranks captions from the bank; the bank's own embeddings are made once for each model."""

    def __init__(self, encoder: Encoder, bank: Bank | None = None, *, config: ComposeConfig | None = None) -> None:
        self._encoder = encoder
        self._bank = bank or load_bank()
        self._config = config or ComposeConfig()
        self._option_vectors_ND = load_or_embed_texts(encoder, self._bank.prompts)
        self._rows = _group_rows(self._bank)
        self._temperature = encoder.card.nats_per_cosine
        self._prior_N = np.array([self._prior(option.value) for option in self._bank.options], np.float32)
        kinds = [option.list if option.facet == "subject" else "" for option in self._bank.options]
        self._are_people_N = np.array([kind in PEOPLE for kind in kinds])
        self._are_others_N = np.array([bool(kind) and kind not in (*PEOPLE, *_WITH_PEOPLE) for kind in kinds])

    def rank(self, image_vectors_BD: NDArray[np.float32], *, top_k: int) -> list[list[Caption]]:
        """The `top_k` composed sentences of each image, the most probable first.

        Probable as in Bayes' rule: cosine times the model's own temperature, and `common_nats` for a common subject.
        A weak model, which separates little, is thus kept to common things; a strong one overrules them.
        """
        model = self._encoder.card.name
        require_finite(image_vectors_BD, what=f"Image vectors of {model}")
        fit_BN = self._temperature * (image_vectors_BD @ self._option_vectors_ND.T) + self._prior_N
        return [
            [make_clip_caption(sentence.text, found[sentence], model=model) for sentence in self._choose(found, top_k)]
            for found in self._compose(image_vectors_BD, fit_BN)
        ]

    def weigh_people(self, image_vectors_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-odds that people are in each image (B,): how much more probable the subjects that are people are."""
        people_B, others_B = (
            np.logaddexp.reduce(self._temperature * (image_vectors_BD @ self._option_vectors_ND[rows_N].T), axis=1)
            for rows_N in (self._are_people_N, self._are_others_N)
        )
        weighed_B: NDArray[np.float32] = PEOPLE_SLOPE * (people_B - others_B) + PEOPLE_OFFSET
        return weighed_B

    def _prior(self, value: object) -> float:
        """Log-prior in nats, up to a constant."""
        return self._config.common_nats if isinstance(value, Noun) and value.common else 0.0

    def _compose(self, image_vectors_BD: NDArray[np.float32], fit_BN: NDArray[np.float32]) -> list[Cosines]:
        """Grow the sentences of all images together, so that each round embeds its texts in one go."""
        fresh = self._measure([self._start(fit_N) for fit_N in fit_BN], image_vectors_BD)
        kept = [dict(cosines) for cosines in fresh]
        for _ in range(self._config.rounds):
            longer = [self._extend(cosines, fit_N) for cosines, fit_N in zip(fresh, fit_BN, strict=True)]
            fresh = self._measure(longer, image_vectors_BD)
            for known, new in zip(kept, fresh, strict=True):
                known.update(new)
        return kept

    def _measure(self, sentences: Sequence[Cosines], image_vectors_BD: NDArray[np.float32]) -> list[Cosines]:
        """Sentences with the cosine that they must reach -> those that do, with the cosine that they have.

        A text that several images share is embedded once.
        """
        texts = {sentence.text: None for several in sentences for sentence in several}
        rows = {text: row for row, text in enumerate(texts)}
        vectors_TD = embed_texts(self._encoder, list(texts))
        reached: list[Cosines] = []
        for several, image_D in zip(sentences, image_vectors_BD, strict=True):
            cosines = {sentence: float(vectors_TD[rows[sentence.text]] @ image_D) for sentence in several}
            reached.append({sentence: cosine for sentence, cosine in cosines.items() if cosine >= several[sentence]})
        return reached

    def _start(self, fit_N: NDArray[np.float32]) -> Cosines:
        """The bare subjects, which need reach nothing."""
        subjects = self._best("subject", list(self._bank.kinds), fit_N, self._config.subjects)
        return {Sentence(subject=noun, link=self._bank.kinds[noun.kind].link): -1.0 for noun in subjects}

    def _extend(self, cosines: Cosines, fit_N: NDArray[np.float32]) -> Cosines:
        """The most probable sentences, each with one more detail and the cosine that this must at least give."""
        least_gain = self._config.gain_nats / self._temperature
        extended: Cosines = {}
        for sentence in self._sort(cosines)[: self._config.beam]:
            for longer in without_repetitions(list(self._add_details(sentence, fit_N))):
                extended[longer] = max(cosines[sentence] + least_gain, extended.get(longer, -1.0))
        return extended

    def _add_details(self, sentence: Sentence, fit_N: NDArray[np.float32]) -> Iterator[Sentence]:
        kind = self._bank.kinds[sentence.subject.kind]
        for detail in open_details(sentence, kind):
            facet: Facet = "subject" if detail == "companion" else detail
            for value in self._best(facet, kind.lists[detail], fit_N, self._config.options):
                changes: dict[str, Any] = {detail: value}
                yield replace(sentence, **changes)

    def _best(self, facet: Facet, lists: Sequence[str], fit_N: NDArray[np.float32], number: int) -> list[Any]:
        """The values of the `number` options of these lists that are most probable."""
        rows = np.concatenate([self._rows[facet, name] for name in lists])
        best = rows[order_best(fit_N[rows])]
        values = dict.fromkeys(self._bank.options[row].value for row in best[: 2 * number])
        return list(values)[:number]

    def _sort(self, cosines: Cosines) -> list[Sentence]:
        """The most probable first; differences of cosine below 1e-6 count as ties, which the text decides."""

        def key(sentence: Sentence) -> tuple[float, str]:
            fit = self._temperature * round(cosines[sentence], 6) + self._prior(sentence.subject)
            return (-fit, sentence.text)

        return sorted(cosines, key=key)

    def _choose(self, cosines: Cosines, top_k: int) -> list[Sentence]:
        """The most probable, at most two about one subject while there are others: variants say little more."""
        ordered = self._sort(cosines)
        seen: Counter[Noun] = Counter()
        varied: list[Sentence] = []
        for sentence in ordered:
            seen[sentence.subject] += 1
            if seen[sentence.subject] <= _VARIANTS:
                varied.append(sentence)
        rest = [sentence for sentence in ordered if sentence not in varied]
        return sorted((varied + rest)[:top_k], key=ordered.index)


def open_details(sentence: Sentence, kind: NounKind) -> list[Detail]:
    """The details that a sentence's kind allows, that it lacks, and that its subject's grammar permits."""
    noun = sentence.subject
    barred: set[Detail] = set()
    if noun.number != "one":
        barred.add("count")
    if noun.number == "fixed":
        barred.add("attribute")
    return [d for d in DETAILS if d in kind.lists and d not in barred and getattr(sentence, d) is None]


def _group_rows(bank: Bank) -> Mapping[tuple[Facet, str], NDArray[np.intp]]:
    grouped: dict[tuple[Facet, str], list[int]] = {}
    for row, option in enumerate(bank.options):
        grouped.setdefault((option.facet, option.list), []).append(row)
    return {key: np.array(rows, np.intp) for key, rows in grouped.items()}

"""Decoding: from a decoder's next-token distribution to token sequences and captions. One loop for every runtime.

Beam search of width 1 is greedy search, so there is no greedy code; sampling differs only in how an image's running
sequences choose their next tokens. A sequence that has ended is never run again.

Shape suffixes: N rows (running sequences of all images), R those of one image, M windows of n tokens, L tokens,
V vocabulary.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ModelCard
from sightline.core.models.inputs import Tokenizer, normalised_batches
from sightline.core.types import Caption
from sightline.errors import InputError, ModelError

SAMPLING_ROUNDS = 4
"""Times that an image is sampled, until its samples are all different."""


class Decoder(Protocol):
    """A causal decoder bound to the images it describes. Right padding never changes what comes before it.

    `next_logits` gets the rows of an image side by side, `all_logits` rows in any order. `scored_rows` is how many rows
    `all_logits` takes at once.
    """

    scored_rows: int

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tokens so far, and which image each row describes -> logits of the token after the last (N, V)."""

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tokens, and which image each row describes -> logits of the token after each (N, L, V)."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Surroundings of the tokens that a decoder chooses: `start_ids` are BOS and the prompt's tokens."""

    start_ids: tuple[int, ...]
    eos_id: int
    pad_id: int
    banned_ids: tuple[int, ...] = ()
    """Never chosen: ids that are no part of a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One sequence, running or ended; `ids` hold all tokens from BOS on, with EOS where it was reached."""

    ids: tuple[int, ...]
    written: int = 0
    """Tokens chosen by the decoder: neither BOS nor prompt, but EOS."""
    objective: float = 0.0
    """Sum of the log-probabilities that the search maximises, after the repetition penalty."""
    log_prob_sum: float = 0.0
    """Sum of the model's own log-probabilities of the written tokens, in nats."""

    @property
    def log_prob(self) -> float:
        """Mean log-probability of a written token in nats, EOS included, prompt excluded, no rule applied."""
        return self.log_prob_sum / max(self.written, 1)

    @property
    def mean_objective(self) -> float:
        """Objective for each written token, by which beam search compares ended sequences."""
        return self.objective / max(self.written, 1)

    def extend(self, token: int, *, gain: float, log_prob: float) -> Hypothesis:
        """This sequence with one more token."""
        objective, log_prob_sum = self.objective + gain, self.log_prob_sum + log_prob
        ids, written = (*self.ids, token), self.written + 1
        return Hypothesis(ids=ids, written=written, objective=objective, log_prob_sum=log_prob_sum)


def generate_tokens(
    decoder: Decoder, config: GenerationConfig, *, frame: Frame, image_seeds: Sequence[int]
) -> list[list[Hypothesis]]:
    """For each image the sequences that ended, all different, by the model's mean log-probability, best first.

    Beam search gives up to `config.beams`, sampling at least `config.num_candidates`; fewer where the rules or the
    model's certainty leave no more. `image_seeds` has one number >= 0 an image: together with `config.seed` it fixes
    what is sampled, whatever else is in the batch. Ties go to the sequence that was ahead, then to the lower token id.
    Raises InputError where the prompt leaves no room within `config.max_tokens`, ModelError for logits that are not
    finite.
    """
    if len(frame.start_ids) > config.max_tokens:
        raise InputError(
            f"The prompt has {len(frame.start_ids) - 1} tokens; with max_tokens={config.max_tokens} at most "
            f"{config.max_tokens - 1} fit. Shorten the prompt or raise max_tokens."
        )
    if config.sample:
        ended = _sample_distinct(decoder, config, frame=frame, image_seeds=image_seeds)
    else:
        searches = [BeamSearch(config, frame) for _ in image_seeds]
        _run(decoder, dict(enumerate(searches)), config=config, frame=frame)
        ended = [search.ended for search in searches]
    return [sorted(found, key=lambda one: -one.log_prob) for found in ended]


def score_tokens(
    decoder: Decoder, sequences: Sequence[Sequence[int]], images: Sequence[int], *, frame: Frame
) -> list[float]:
    """Mean log-probability (nats) for each token of each sequence and the EOS after it, following `frame.start_ids`.

    `sequences` hold neither BOS nor EOS; `images` says which image each describes. Raises ModelError for logits that
    are not finite.
    """
    scores = [0.0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))  # like lengths need little padding
    for first in range(0, len(order), decoder.scored_rows):
        chosen = order[first : first + decoder.scored_rows]
        targets = [(*sequences[index], frame.eos_id) for index in chosen]
        skipped = len(frame.start_ids) - 1
        ids_NL = np.full((len(chosen), skipped + max(map(len, targets))), frame.pad_id, dtype=np.int64)
        for row, target in enumerate(targets):
            ids_NL[row, : skipped + len(target)] = (*frame.start_ids, *target[:-1])
        images_N = np.array([images[index] for index in chosen], dtype=np.int64)
        log_probs_NLV = _log_softmax(decoder.all_logits(ids_NL, images_N))
        for row, (index, target) in enumerate(zip(chosen, targets, strict=True)):
            positions = np.arange(skipped, skipped + len(target))
            scores[index] = float(log_probs_NLV[row, positions, list(target)].mean(dtype=np.float64))
    return scores


def _run(decoder: Decoder, searches: Mapping[int, Search], *, config: GenerationConfig, frame: Frame) -> None:
    """Advance every image's search until none runs. All running sequences have the same length at all times."""
    while active := [(image, search) for image, search in searches.items() if search.running]:
        ids_NL = np.array([one.ids for _, search in active for one in search.running], dtype=np.int64)
        counts = [len(search.running) for _, search in active]
        images_N = np.repeat(np.array([image for image, _ in active], dtype=np.int64), counts)
        log_probs_NV = _log_softmax(decoder.next_logits(ids_NL, images_N))
        scores_NV = _apply_rules(log_probs_NV, ids_NL, config=config, frame=frame)
        first = 0
        for (_, search), count in zip(active, counts, strict=True):
            search.advance(log_probs_NV[first : first + count], scores_NV[first : first + count])
            first += count


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (..., V) -> natural log-probabilities; -inf stands for an impossible token."""
    top = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise ModelError(
            "The decoder returned logits that are not finite. Its weights are damaged, or its precision doesn't suit "
            "this machine: fetch the model again, or choose another runtime."
        )
    shifted = logits - top
    log_probs: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probs


def _apply_rules(
    log_probs_NV: NDArray[np.float32], ids_NL: NDArray[np.int64], *, config: GenerationConfig, frame: Frame
) -> NDArray[np.float32]:
    """Log-probabilities -> what the search maximises: seen tokens made less likely, forbidden ones impossible.

    The repetition penalty (Keskar et al. 2019, arXiv:1909.05858) multiplies log-probabilities: the paper divides
    logits, which depends on a constant that softmax ignores.
    """
    scores_NV = log_probs_NV.copy()
    length = ids_NL.shape[1]
    if config.repetition_penalty != 1.0:
        seen_NL = np.take_along_axis(scores_NV, ids_NL, axis=1)
        np.put_along_axis(scores_NV, ids_NL, seen_NL * config.repetition_penalty, axis=1)
    size = config.no_repeat_ngram
    if 0 < size <= length:
        ngrams_NMn = sliding_window_view(ids_NL, size, axis=1)
        latest_N1n = ids_NL[:, None, length - size + 1 :]
        rows, places = np.nonzero((ngrams_NMn[..., :-1] == latest_N1n).all(axis=-1))
        scores_NV[rows, ngrams_NMn[rows, places, -1]] = -np.inf
    scores_NV[:, list(frame.banned_ids)] = -np.inf
    if length - 1 < config.min_tokens or length == len(frame.start_ids):
        scores_NV[:, frame.eos_id] = -np.inf
    return scores_NV


def _sample_distinct(
    decoder: Decoder, config: GenerationConfig, *, frame: Frame, image_seeds: Sequence[int]
) -> list[list[Hypothesis]]:
    """Samples of each image, drawn in rounds until `num_candidates` are different or the rounds are used up."""
    searches = [Sampling(config, frame) for _ in image_seeds]
    for turn in range(SAMPLING_ROUNDS):
        lacking = {i: one for i, one in enumerate(searches) if len(one.ended) < config.num_candidates}
        for image, search in lacking.items():
            keys = [(config.seed, image_seeds[image], turn, sample) for sample in range(config.num_candidates)]
            search.start([np.random.default_rng(key) for key in keys])
        _run(decoder, lacking, config=config, frame=frame)
    return [search.ended for search in searches]


class Search:
    """The sequences of one image. Log-probabilities are the model's own, scores are what the search maximises."""

    def __init__(self, config: GenerationConfig, frame: Frame) -> None:
        self.config = config
        self.frame = frame
        self.running: list[Hypothesis] = []
        self.ended: list[Hypothesis] = []

    def advance(self, log_probs_RV: NDArray[np.float32], scores_RV: NDArray[np.float32]) -> None:
        """Continue every running sequence by one token; those that end move to `ended`."""
        raise NotImplementedError

    def has_ended(self, one: Hypothesis) -> bool:
        """True where a sequence has reached EOS or, counted without BOS, its longest length."""
        return one.ids[-1] == self.frame.eos_id or len(one.ids) - 1 >= self.config.max_tokens


class BeamSearch(Search):
    """Beam search over sequences of one image, compared by their mean objective.

    As in transformers with `length_penalty=1, early_stopping=False`: of the 2 * beams best continuations those of rank
    < beams may end; the search stops when `beams` have ended and the best running one's mean so far isn't above the
    worst of them. That rule is a heuristic: a running mean may still rise.
    """

    def __init__(self, config: GenerationConfig, frame: Frame) -> None:
        super().__init__(config, frame)
        self.running = [Hypothesis(ids=frame.start_ids)]

    def advance(self, log_probs_RV: NDArray[np.float32], scores_RV: NDArray[np.float32]) -> None:
        """Replace the running sequences by their best continuations, setting aside those that end."""
        beams = self.config.beams
        running: list[Hypothesis] = []
        best = _best_continuations([one.objective for one in self.running], scores_RV, 2 * beams)
        for rank, (row, token) in enumerate(best):
            gain, log_prob = float(scores_RV[row, token]), float(log_probs_RV[row, token])
            longer = self.running[row].extend(token, gain=gain, log_prob=log_prob)
            if not self.has_ended(longer):
                running.append(longer)
            elif rank < beams:
                self.ended.append(longer)
        if not best:  # the rules forbid every continuation: what there is, is the sentence
            self.ended.extend(self.running)
        self.ended = sorted(self.ended, key=lambda one: -one.mean_objective)[:beams]
        full = len(self.ended) == beams
        hopeless = full and bool(running) and running[0].mean_objective <= self.ended[-1].mean_objective
        self.running = [] if hopeless else running[:beams]


class Sampling(Search):
    """Independent samples for one image, each with a random generator of its own."""

    _generators: list[np.random.Generator]

    def start(self, generators: Sequence[np.random.Generator]) -> None:
        """Begin one new sample for each generator."""
        self._generators = list(generators)
        self.running = [Hypothesis(ids=self.frame.start_ids) for _ in generators]

    def advance(self, log_probs_RV: NDArray[np.float32], scores_RV: NDArray[np.float32]) -> None:
        """Draw a token for each running sample, setting aside those that end. Equal samples are kept once."""
        running, generators = [], []
        for row, (one, generator) in enumerate(zip(self.running, self._generators, strict=True)):
            token = _draw(scores_RV[row], self.config, generator)
            longer = one
            if token is not None:
                gain, log_prob = float(scores_RV[row, token]), float(log_probs_RV[row, token])
                longer = one.extend(token, gain=gain, log_prob=log_prob)
            if token is not None and not self.has_ended(longer):
                running.append(longer)
                generators.append(generator)
            elif all(longer.ids != other.ids for other in self.ended):
                self.ended.append(longer)
        self.running, self._generators = running, generators


def _best_continuations(
    objectives: Sequence[float], scores_RV: NDArray[np.float32], count: int
) -> list[tuple[int, int]]:
    """The `count` best (row, token) by objective + score, best first, those of -inf left out.

    Among equals the lower row, then the lower token comes first.
    """
    tokens_Rc, best_Rc = _best_tokens(scores_RV, min(count, scores_RV.shape[1]))
    values_Rc = np.array(objectives)[:, None] + best_Rc
    order = np.argsort(-values_Rc, axis=None, kind="stable")[:count]
    places = zip(*np.unravel_index(order, values_Rc.shape), strict=True)
    return [(int(row), int(tokens_Rc[row, rank])) for row, rank in places if np.isfinite(values_Rc[row, rank])]


def _best_tokens(scores_RV: NDArray[np.float32], count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Tokens of the `count` highest scores of each row (R, count) and these scores, the lower token first among equals.

    For the few that a search wants, looking for the highest again and again is many times faster than any sorting.
    """
    left_RV = scores_RV.copy()
    tokens_Rc = np.empty((len(scores_RV), count), np.intp)
    best_Rc = np.empty(tokens_Rc.shape, np.float32)
    rows_R = np.arange(len(scores_RV))
    for rank in range(count):
        tokens_R = tokens_Rc[:, rank] = left_RV.argmax(axis=1)
        best_Rc[:, rank] = left_RV[rows_R, tokens_R]
        left_RV[rows_R, tokens_R] = -np.inf
    return tokens_Rc, best_Rc


def _draw(scores_V: NDArray[np.float32], config: GenerationConfig, generator: np.random.Generator) -> int | None:
    """One token from the nucleus: the fewest likeliest tokens whose probabilities reach `top_p`. None if none is left.

    Holtzman et al. 2020, arXiv:1904.09751.
    """
    order = np.argsort(-scores_V, kind="stable")
    best = scores_V[order[0]]
    if not np.isfinite(best):
        return None
    weights = np.exp((scores_V[order] - best).astype(np.float64) / config.temperature)
    reached = np.cumsum(weights / weights.sum())
    size = min(int(np.searchsorted(reached, config.top_p, side="left")) + 1, len(order))
    drawn = generator.random() * reached[size - 1]
    return int(order[min(int(np.searchsorted(reached[:size], drawn, side="right")), size - 1)])


IMAGES_PER_BATCH = 16
"""Images that are decoded together: the decoder's weights are read once a token for all of them, which is what a token
costs; more gain little."""

_BOILERPLATE = re.compile(
    r"(?:(?:(?:an?|the|this is an?)\s+)?(?:image|picture|photo|photograph)\s+of\s+)+", re.IGNORECASE
)
_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+(?=[.,;:!?])")


def tidy(text: str) -> str:
    """A generated sentence without its leading "an image of", with single spaces and none before punctuation."""
    text = _SPACE_BEFORE_PUNCTUATION.sub("", " ".join(text.split()))
    boilerplate = _BOILERPLATE.match(text)
    return text[boilerplate.end() :] if boilerplate else text


_Memory = TypeVar("_Memory")


class SentenceWriter(Generic[_Memory]):
    """A captioner but for its two networks: pixels and prompt to their inputs, tokens to captions, texts to scores.

    Subclasses bring the image side and the decoder. What was seen last is kept: images for which sentences are written
    and then others are scored go through the image side once.
    """

    def __init__(self, card: ModelCard, tokenizer: Tokenizer) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._last: tuple[tuple[object, ...], _Memory] | None = None

    def _see(self, pixel_values: NDArray[np.float32]) -> _Memory:
        """Normalised pixels (B, 3, S, S) -> what the image side makes of them, of the runtime's own type."""
        raise NotImplementedError

    def _describe(self, memory: _Memory) -> Decoder:
        """The decoder, bound to that."""
        raise NotImplementedError

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """For each image up to `config.num_candidates` captions, best first, no two alike.

        The model's context shortens `config.max_tokens`. Samples depend on the seed and the image's pixels, not on its
        batch. An image for which the model writes no words has no captions. Raises InputError where the prompt leaves
        no room within `config.max_tokens`; ModelError for pixels of another shape than the model's, and where the model
        fails or returns what is not finite.
        """
        limited = replace(config, max_tokens=min(config.max_tokens, self.card.text.context_length))
        frame = self._frame(config.prompt)
        seeds = [zlib.crc32(pixels.tobytes()) for pixels in pixels_BHW3]
        captions = []
        for images, decoder in self._decoders(pixels_BHW3):
            for hypotheses in generate_tokens(decoder, limited, frame=frame, image_seeds=seeds[images]):
                captions.append(self._captions(hypotheses)[: config.num_candidates])
        return captions

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability (nats) of a token of each of its texts, EOS included.

        It equals a caption's `log_prob` where that caption ended by itself, without prompt or stripped words. A text
        that is longer than the model's context is scored by its beginning. Raises InputError unless there is a list of
        texts for each image, ModelError as `generate` does.
        """
        if len(texts) != len(pixels_BHW3):
            raise InputError(f"There are {len(pixels_BHW3)} images and texts for {len(texts)}; give each image a list.")
        scores = []
        for images, decoder in self._decoders(pixels_BHW3):
            scores += self._score(decoder, texts[images])
        return scores

    def _decoders(self, pixels_BHW3: NDArray[np.uint8]) -> Iterator[tuple[slice, Decoder]]:
        """Slices of images, and the decoder bound to them, in batches of a bounded size."""
        for first in range(0, len(pixels_BHW3), IMAGES_PER_BATCH):
            images = slice(first, first + IMAGES_PER_BATCH)
            yield images, self._describe(self._memory(pixels_BHW3[images]))

    def _memory(self, pixels_BHW3: NDArray[np.uint8]) -> _Memory:
        digest = hashlib.blake2b(np.ascontiguousarray(pixels_BHW3).data, digest_size=16).digest()
        key, last = (pixels_BHW3.shape, pixels_BHW3.dtype, digest), self._last
        if last is None or last[0] != key:
            (pixel_values,) = normalised_batches(self.card, pixels_BHW3)
            last = self._last = key, self._see(pixel_values)
        return last[1]

    def _score(self, decoder: Decoder, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        limit = self.card.text.context_length - 1
        flat = [text for several in texts for text in several]
        sequences = [ids[:limit] for ids in self._tokenizer.ids_of(flat, add_special=False)]
        images = [image for image, several in enumerate(texts) for _ in several]
        scores = iter(score_tokens(decoder, sequences, images, frame=self._frame("")))
        return [[next(scores) for _ in several] for several in texts]

    def _frame(self, prompt: str) -> Frame:
        text = self.card.text
        if text.bos_id is None or text.eos_id is None:
            raise ModelError(f"The card of {self.card.name} lacks bos_id or eos_id; a captioner's card needs both.")
        start_ids = (text.bos_id, *(self._tokenizer.ids(prompt, add_special=False) if prompt else []))
        banned_ids = (text.pad_id, text.bos_id)
        return Frame(start_ids=start_ids, eos_id=text.eos_id, pad_id=text.pad_id, banned_ids=banned_ids)

    def _captions(self, hypotheses: Sequence[Hypothesis]) -> list[Caption]:
        captions: dict[str, Caption] = {}
        for one in hypotheses:
            written = [token for token in one.ids[1:] if token != self.card.text.eos_id]
            text = tidy(self._tokenizer.decode(written))
            if text and text not in captions:
                captions[text] = Caption(text=text, source="generated", log_prob=one.log_prob, model=self.card.name)
        return list(captions.values())

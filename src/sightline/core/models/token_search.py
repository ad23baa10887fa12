"""How the sequences of one image are continued: beam search and sampling, one step at a time.

Shape suffixes: R running sequences of one image, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What surrounds the tokens that a decoder chooses: `start_ids` are BOS and the prompt's tokens."""

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
        """What beam search compares ended sequences by: the objective for each written token."""
        return self.objective / max(self.written, 1)

    def extend(self, token: int, *, gain: float, log_prob: float) -> Hypothesis:
        """This sequence with one more token."""
        return Hypothesis(
            ids=(*self.ids, token),
            written=self.written + 1,
            objective=self.objective + gain,
            log_prob_sum=self.log_prob_sum + log_prob,
        )


class Search(Protocol):
    """The sequences of one image. Log-probabilities are the model's own, scores are what the search maximises."""

    running: list[Hypothesis]
    ended: list[Hypothesis]

    def advance(self, log_probs_RV: NDArray[np.float32], scores_RV: NDArray[np.float32]) -> None:
        """Continue every running sequence by one token; those that end move to `ended`."""
        ...


def _has_ended(one: Hypothesis, config: GenerationConfig, frame: Frame) -> bool:
    """Whether a sequence has reached EOS or, counted without BOS, its longest length."""
    return one.ids[-1] == frame.eos_id or len(one.ids) - 1 >= config.max_tokens


class BeamSearch:
    """Beam search over sequences of one image, compared by their mean objective.

    As in transformers with `length_penalty=1, early_stopping=False`: of the 2 * beams best continuations those of rank
    < beams may end; the search stops when `beams` have ended and the best running one's mean so far isn't above the
    worst of them. That rule is a heuristic: a running mean may still rise.
    """

    def __init__(self, config: GenerationConfig, frame: Frame) -> None:
        self.config = config
        self.frame = frame
        self.running = [Hypothesis(ids=frame.start_ids)]
        self.ended: list[Hypothesis] = []

    def advance(self, log_probs_RV: NDArray[np.float32], scores_RV: NDArray[np.float32]) -> None:
        """Replace the running sequences by their best continuations, setting aside those that end."""
        beams = self.config.beams
        running: list[Hypothesis] = []
        best = _best_continuations([one.objective for one in self.running], scores_RV, 2 * beams)
        for rank, (row, token) in enumerate(best):
            gain, log_prob = float(scores_RV[row, token]), float(log_probs_RV[row, token])
            longer = self.running[row].extend(token, gain=gain, log_prob=log_prob)
            if not _has_ended(longer, self.config, self.frame):
                running.append(longer)
            elif rank < beams:
                self.ended.append(longer)
        if not best:  # the rules forbid every continuation: what there is, is the sentence
            self.ended.extend(self.running)
        self.ended = sorted(self.ended, key=lambda one: -one.mean_objective)[:beams]
        full = len(self.ended) == beams
        hopeless = full and bool(running) and running[0].mean_objective <= self.ended[-1].mean_objective
        self.running = [] if hopeless else running[:beams]


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


class Sampling:
    """Independent samples for one image, each with a random generator of its own."""

    def __init__(self, config: GenerationConfig, frame: Frame) -> None:
        self.config = config
        self.frame = frame
        self.running: list[Hypothesis] = []
        self.ended: list[Hypothesis] = []
        self._generators: list[np.random.Generator] = []

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
            if token is not None and not _has_ended(longer, self.config, self.frame):
                running.append(longer)
                generators.append(generator)
            elif all(longer.ids != other.ids for other in self.ended):
                self.ended.append(longer)
        self.running, self._generators = running, generators


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

"""Decoding: from a decoder's next-token distribution to whole token sequences. One loop for every runtime, numpy only.

Beam search of width 1 is greedy search, so there is no greedy code; sampling differs only in how an image's running
sequences choose their next tokens. A sequence that has ended is never run again.

Shape suffixes: N rows (running sequences of all images), M windows of n tokens, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig
from sightline.core.models.token_search import BeamSearch, Frame, Hypothesis, Sampling, Search
from sightline.errors import InputError, ModelError

SAMPLING_ROUNDS = 4
"""How often sampling is repeated for an image whose samples are not all different yet."""


class Decoder(Protocol):
    """A causal decoder bound to the images it describes. Right padding never changes what comes before it.

    `next_logits` gets the rows of an image side by side, `all_logits` rows in any order. `scored_rows` is how many rows
    `all_logits` takes at once.
    """

    scored_rows: int

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tokens so far, and which image each row describes -> logits of the token after the last (N, V)."""
        ...

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tokens, and which image each row describes -> logits of the token after each (N, L, V)."""
        ...


def generate_tokens(
    decoder: Decoder, config: GenerationConfig, *, frame: Frame, image_seeds: Sequence[int]
) -> list[list[Hypothesis]]:
    """For each image the sequences that ended, all different, by the model's mean log-probability, best first.

    Beam search gives up to `config.beams`, sampling at least `config.num_candidates`; fewer where the rules or the
    model's certainty leave no more. `image_seeds` has one number >= 0 an image: together with `config.seed` it fixes
    what is sampled, whatever else is in the batch. Ties go to the sequence that was ahead, then to the lower token id.

    Raises:
        InputError: the prompt leaves no room within `config.max_tokens`.
        ModelError: the decoder's logits are not finite.
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

    `sequences` hold neither BOS nor EOS; `images` says which image each describes.

    Raises:
        ModelError: the decoder's logits are not finite.
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


def _run(decoder: Decoder, searches: dict[int, Search], *, config: GenerationConfig, frame: Frame) -> None:
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
        _run(decoder, dict(lacking), config=config, frame=frame)
    return [search.ended for search in searches]

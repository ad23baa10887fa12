"""Beam search over any decoder that gives the next token's logits; the same rules as the runtime's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from corpus import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from numpy.typing import NDArray

NextLogits = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""(ids (R, L), image of each row (R,)) -> logits of the next token (R, V)."""


def beam_search(
    logits: NextLogits, n_images: int, *, beams: int = 3, max_tokens: int = 30, min_tokens: int = 4, no_repeat: int = 3
) -> list[list[int]]:
    """For each image, the sentence with the highest mean log-probability for each token, as ids without BOS."""
    rows = [[(0.0, [BOS_ID])] for _ in range(n_images)]
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(n_images)]
    for length in range(1, max_tokens):
        live = [(image, total, ids) for image, row in enumerate(rows) for total, ids in row]
        if not live:
            break
        scores = _log_softmax(logits(np.array([ids for _, _, ids in live]), np.array([image for image, _, _ in live])))
        scores[:, [PAD_ID, BOS_ID, UNK_ID]] = -np.inf
        if length < min_tokens:
            scores[:, EOS_ID] = -np.inf
        grown: list[list[tuple[float, list[int]]]] = [[] for _ in range(n_images)]
        for (image, total, ids), row in zip(live, scores, strict=True):
            row[_repeats(ids, no_repeat)] = -np.inf
            for token in np.argpartition(-row, 2 * beams)[: 2 * beams]:
                if np.isfinite(row[token]):
                    grown[image].append((total + float(row[token]), [*ids, int(token)]))
        for image, options in enumerate(grown):
            rows[image] = []
            for total, ids in sorted(options, reverse=True)[: 2 * beams]:
                if ids[-1] == EOS_ID:
                    finished[image].append((total / (len(ids) - 1), ids))
                elif len(rows[image]) < beams:
                    rows[image].append((total, ids))
            if len(finished[image]) >= beams:
                rows[image] = []
    for image, row in enumerate(rows):
        finished[image] += [(total / max(1, len(ids) - 1), ids) for total, ids in row if not finished[image]]
    return [max(options)[1][1:] for options in finished]


def _repeats(ids: list[int], n: int) -> list[int]:
    """The tokens that would make an n-gram occur twice."""
    if n < 1 or len(ids) < n:
        return []
    tail = ids[len(ids) - n + 1 :]
    return [ids[start + n - 1] for start in range(len(ids) - n + 1) if ids[start : start + n - 1] == tail]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))

"""Beam search with the package's own decoding loop, so that training measures what users will get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig
from sightline.core.models.generation import Frame, generate_tokens
from sightline.lab.training.towers import BOS_ID, EOS_ID, PAD_ID, UNK_ID

NextLogits = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""(ids (R, L), image of each row (R,)) -> logits of the next token (R, V)."""

_FRAME = Frame(start_ids=(BOS_ID,), eos_id=EOS_ID, pad_id=PAD_ID, banned_ids=(PAD_ID, BOS_ID, UNK_ID))


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    next_logits: NextLogits
    scored_rows: int = 0

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        raise NotImplementedError("training only generates")


def beam_search(next_logits: NextLogits, n_images: int, *, beams: int = 3, max_tokens: int = 30) -> list[list[int]]:
    """For each image, the sentence with the highest mean log-probability for each token, as ids."""
    config = GenerationConfig(beams=beams, max_tokens=max_tokens)
    decoder = _Decoder(next_logits=next_logits)
    found = generate_tokens(decoder, config, frame=_FRAME, image_seeds=range(n_images))
    return [[token for token in best.ids if token not in (BOS_ID, EOS_ID)] for best, *_ in found]

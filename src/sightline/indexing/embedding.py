"""Contents that wait for their vector, and batches of a size that keeps a run responsive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sightline.types import Embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.models.base import Encoder

_FIRST_BATCH = 2
_BATCH_S = 0.4
"""Aim of one encoder call: short enough that Ctrl-C is answered at once, long enough to be efficient."""

VectorTaker = Callable[[Embedding], None]


@dataclass(kw_only=True)
class _Content:
    """One content of this run, with those who wait for its vector."""

    pixels: NDArray[np.uint8] | None = None
    embedding: Embedding | None = None
    takers: list[VectorTaker] = field(default_factory=list)


class BatchEmbedder:
    """Gives each content to the encoder once, however many files hold it."""

    def __init__(self, encoder: Encoder, *, max_batch_size: int) -> None:
        self._encoder = encoder
        self._model = encoder.identity.name
        self._max_batch_size = max_batch_size
        self._contents: dict[str, _Content] = {}
        self._waiting: list[_Content] = []
        self._least = min(getattr(encoder, "least_batch", 1), max_batch_size)  # a request takes as long for fewer
        self.batch_size = max(self._least, min(_FIRST_BATCH, max_batch_size))
        self.embedded = 0
        self.seconds = 0.0

    def __contains__(self, content_hash: str) -> bool:
        """Whether this content needs no pixels any more."""
        return content_hash in self._contents

    @property
    def waiting(self) -> int:
        """Contents that have no vector yet."""
        return len(self._waiting)

    @property
    def due(self) -> bool:
        """Whether a batch is full."""
        return len(self._waiting) >= self.batch_size

    def add(self, content_hash: str, pixels_SS3: NDArray[np.uint8] | None, taker: VectorTaker) -> None:
        """Call `taker` with the content's vector: now if it is there, else after its batch."""
        content = self._contents.get(content_hash)
        if content is None:
            content = self._contents[content_hash] = _Content(pixels=pixels_SS3)
            self._waiting.append(content)
        if content.embedding is not None:
            taker(content.embedding)
        else:
            content.takers.append(taker)

    def encode(self) -> None:
        """Encode one batch of what waits and hand out its vectors."""
        batch, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        if not batch:
            return
        started = time.monotonic()
        pixels_BSS3 = np.stack([content.pixels for content in batch if content.pixels is not None])
        vectors_BD = self._encoder.encode_images(pixels_BSS3)
        elapsed_s = time.monotonic() - started
        self.seconds += elapsed_s
        self.embedded += len(batch)
        self._resize(elapsed_s / len(batch))
        for content, vector_D in zip(batch, vectors_BD, strict=True):
            embedding = Embedding(model=self._model, vector=vector_D, precision=self._encoder.precision)
            content.embedding, content.pixels = embedding, None
            for taker in content.takers:
                taker(embedding)
            content.takers.clear()

    def forget_encoded(self) -> None:
        """Drop contents whose vectors have been committed: from now on the store has them."""
        self._contents = {key: content for key, content in self._contents.items() if content.embedding is None}

    def _resize(self, image_s: float) -> None:
        wanted = int(_BATCH_S / max(image_s, 1e-6))
        self.batch_size = max(self._least, min(wanted, 2 * self.batch_size, self._max_batch_size))

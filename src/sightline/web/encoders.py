"""The models that a server's libraries share: each is loaded once, and threads take turns at it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.models.base import Encoder, ModelCard
    from sightline.types import ModelIdentity, Precision


class SharedEncoder:
    """An encoder that threads share: each of its two towers is run by one of them at a time.

    Words never wait for a batch of pictures: searches stay quick while a library is indexed.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.card: ModelCard = encoder.card
        self.dim: int = encoder.dim
        self.precision: Precision = encoder.precision
        self._encoder = encoder
        self._image_lock = threading.Lock()
        self._text_lock = threading.Lock()

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self._encoder.runtime

    @property
    def identity(self) -> ModelIdentity:
        """What a store compares."""
        return self._encoder.identity

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (B, S, S, 3) -> (B, D), rows L2-normalised."""
        with self._image_lock:
            return self._encoder.encode_images(pixels_BHW3)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> (T, D), rows L2-normalised."""
        with self._text_lock:
            return self._encoder.encode_texts(texts)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Feature maps (B, H, W, D); None where the model has none."""
        with self._image_lock:
            return self._encoder.encode_maps(pixels_BHW3)


class Encoders:
    """Models by name, each loaded once, whichever library asks first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, SharedEncoder] = {}

    def get(self, name: str) -> SharedEncoder:
        """The encoder of a full model name, loaded. Raises ModelError where it can't be."""
        from sightline.models.encoders import load_encoder

        with self._lock:
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            if name not in self._loaded:
                self._loaded[name] = SharedEncoder(load_encoder(name))
            return self._loaded[name]

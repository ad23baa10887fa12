"""The models that a server's libraries share: each is loaded once, and threads take turns at it.

Which of them a request may name is decided by `require_name` alone, against lists that hold no name of a request's own
making: those of a library's vectors, of the command line and, for jobs, of the registry's models that are here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from sightline.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.models.base import Encoder
    from sightline.core.models.cards import ModelCard
    from sightline.core.types import ModelIdentity, Precision


ANSWER_S = 20.0
"""How long an endpoint may take for an answer, twice: a search that takes longer is given up."""


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
    """Models by name, each loaded once, whichever library asks first. Only `open_remote` opens a socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: dict[str, SharedEncoder] = {}
        self._remote: dict[str, SharedEncoder] = {}

    def open_remote(self, endpoint: str) -> SharedEncoder:
        """The encoder behind an `endpoint:URL` of the command line, which stands for its model's name from now on.

        Raises InputError for a bad address, ModelError where it doesn't answer.
        """
        from sightline.core.models.json_client import PostLimits
        from sightline.core.models.remote import RemoteConfig, load_remote_encoder

        if endpoint not in self._remote:
            limits = PostLimits(read_timeout_s=ANSWER_S, total_timeout_s=ANSWER_S, tries=2)
            encoder = SharedEncoder(load_remote_encoder(endpoint, config=RemoteConfig(limits=limits)))
            self._remote[endpoint] = self._loaded[encoder.card.name] = encoder
        return self._remote[endpoint]

    def is_remote(self, name: str) -> bool:
        """Whether an endpoint of the command line stands for a full model name."""
        return any(encoder.card.name == name for encoder in self._remote.values())

    def get(self, name: str) -> SharedEncoder:
        """The encoder of a full model name, loaded. Raises ModelError where it can't be."""
        from sightline.core.models.loading import load_encoder

        with self._lock:
            loading = self._loading.setdefault(name, threading.Lock())
        with loading:
            if name not in self._loaded:
                require_here(name)  # or the name of a repository would be looked up on the hub
                self._loaded[name] = SharedEncoder(load_encoder(name))
            return self._loaded[name]


def require_name(name: str, among: Iterable[str]) -> str:
    """A model's name, if it is one of those that may be used here, letter for letter.

    Raises ModelError for any other, whatever it names and whether that exists or not.
    """
    allowed = list(dict.fromkeys(among))
    if name not in allowed:
        known = ", ".join(allowed) or "none, since the library has no vectors yet"
        raise ModelError(
            f"{name!r} can't be chosen from here; these can: {known}. Others are added at the command line: "
            "sightline models pull NAME for a known one, sightline index --model NAME for any."
        )
    return name


def require_here(name: str) -> ModelCard:
    """The card of a model that a library holds. Raises ModelError where it could only be fetched, or isn't there."""
    from sightline.core.models.cards import find_card

    return find_card(name, fetch=False)


def names_here(kind: Literal["encoder", "captioner"]) -> list[str]:
    """Names of the registry's models whose files are on this machine."""
    from sightline.core.models.cards import known_cards
    from sightline.core.models.files import is_available

    return [name for name, card in known_cards().items() if card.kind == kind and is_available(card)]

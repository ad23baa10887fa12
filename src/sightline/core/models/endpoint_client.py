"""An endpoint that serves Sightline's handler, as its encoder and captioner share it: card, batches, answers.

The card is the one that the endpoint tells. Pixels travel at the model's size as PNG, which loses nothing. This lies
here and not in `integrations` because remote models are opened like any other. Shape suffixes: B images, S side in
pixels.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.core.models.base import ModelCard
from sightline.core.models.cards import card_from_json
from sightline.core.models.posting import JsonPoster, PostLimits, shown
from sightline.core.types import Precision
from sightline.errors import InputError, ModelError

PREFIX = "endpoint:"
KEY_VARIABLE = "SIGHTLINE_ENDPOINT_KEY"

_MOST_SIDE_PX, _MOST_DIM = 4096, 65536
"""Larger than any model's: a card with more is nonsense that would fill the memory."""
_LONGEST_TEXT_CHARS = 1_000
"""CLIP reads some 300 characters."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How an endpoint is asked."""

    batch_size: int = 32
    """Images or texts of a request, where the endpoint takes as many."""
    connections: int = 2
    """Requests under way at once."""
    limits: PostLimits = field(default_factory=PostLimits)

    def __post_init__(self) -> None:
        """Raises InputError for a number below 1."""
        for name in ("batch_size", "connections"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; it is {getattr(self, name)}.")


class Endpoint:
    """One address with its card, asked in batches."""

    def __init__(self, url: str, *, key: str | None = None, config: RemoteConfig | None = None) -> None:
        """Ask the endpoint what it serves. Without `key` that of SIGHTLINE_ENDPOINT_KEY is sent, if there is one.

        Raises InputError for a bad address, ModelError where it can't be reached or doesn't serve our handler.
        """
        self.config = config or RemoteConfig()
        key = key if key is not None else os.environ.get(KEY_VARIABLE) or None
        self._poster = JsonPoster(url.removeprefix(PREFIX), key=key, limits=self.config.limits)
        self.name = self._poster.name
        told = self._poster.post({"inputs": None, "parameters": {"task": "card"}})
        if not isinstance(told, dict) or not isinstance(told.get("tasks"), list):
            raise self.nonsense("card", "it is no card; export one with: sightline export endpoint MODEL DIR")
        self._told: Mapping[str, Any] = told

    def close(self) -> None:
        """Close the connections."""
        self._poster.close()

    def serves(self, kind: str) -> bool:
        """Whether it has an `encoder` or a `captioner`."""
        return self._told.get(kind) is not None

    def card(self, kind: str) -> ModelCard:
        """The card of its `encoder` or `captioner`. Raises ModelError where it serves none, or tells nonsense."""
        values = self._told.get(kind)
        if values is None:
            tasks = ", ".join(shown(task) for task in self._told["tasks"])
            raise ModelError(f"The endpoint {self.name} serves no {kind}. Its tasks: {tasks}.")
        try:
            card = card_from_json(values, origin=f"the card of {self.name}")
        except (InputError, TypeError, ValueError, KeyError) as error:
            raise self.nonsense("card", shown(error)) from error
        self._check_card(card, kind)
        return card

    def _check_card(self, card: ModelCard, kind: str) -> None:
        name, digest, temperature = card.name, card.weights_hash, card.temperature
        sane = {
            "kind": card.kind == kind,
            "name": isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and not is_remote(name),
            "weights_hash": isinstance(digest, str) and 16 <= len(digest) <= 128 and digest.isalnum(),
            "size_px": card.preprocessing.size_px <= _MOST_SIDE_PX,
            "dim": card.dim is None or card.dim <= _MOST_DIM,
            "temperature": temperature is None
            or (isinstance(temperature, int | float) and math.isfinite(temperature) and temperature > 0),
        }
        if wrong := [key for key, fine in sane.items() if not fine]:
            raise self.nonsense("card", f"{', '.join(wrong)} can't be used")

    @property
    def precision(self) -> Precision:
        """Of its encoder."""
        return "int8" if self._told.get("precision") == "int8" else "fp32"

    def describe(self) -> dict[str, Any]:
        """What it serves, as plain values."""
        cards = {kind: self.card(kind) for kind in ("encoder", "captioner") if self.serves(kind)}
        return {
            "host": self.name,
            **{kind: card.name for kind, card in cards.items()},
            **({"dim": cards["encoder"].dim, "precision": self.precision} if "encoder" in cards else {}),
            "tasks": [shown(task) for task in self._told["tasks"]],
            "batch": self.batch_limit("max_images"),
        }

    def batch_limit(self, name: str) -> int:
        """The fewer of what one request takes there and what we send at once."""
        limits = self._told.get("limits")
        limit = limits.get(name) if isinstance(limits, dict) else None
        return min(self.config.batch_size, limit) if isinstance(limit, int) and limit > 0 else self.config.batch_size

    def ask(self, task: str, inputs: Any, **parameters: Any) -> Any:
        """The answer of one request. Raises ModelError."""
        return self._poster.post({"inputs": inputs, "parameters": {"task": task, **parameters}})

    def ask_in_batches(
        self, items: Sequence[Item], ask: Callable[[Sequence[Item]], list[Any]], *, batch_size: int
    ) -> list[Any]:
        """Answers for all items, in order. The first batch that fails ends it; what isn't sent by then never is."""
        batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        if len(batches) <= 1 or self.config.connections == 1:
            return [answer for batch in batches for answer in ask(batch)]
        pool = ThreadPoolExecutor(min(self.config.connections, len(batches)), thread_name_prefix="sightline-endpoint")
        try:
            return [answer for several in pool.map(ask, batches) for answer in several]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def nonsense(self, what: str, why: str) -> ModelError:
        """The error for an answer that can't be used."""
        return ModelError(f"The endpoint {self.name} gives a {what} that can't be used: {why}.")


def is_remote(name: str) -> bool:
    """Whether a model name is an endpoint's address."""
    return name.startswith(PREFIX)


def to_png(pixels_SS3: NDArray[np.uint8]) -> str:
    """Pixels (S, S, 3) -> PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels_SS3).save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def cut_text(text: str) -> str:
    """A text as it is sent: not much longer than models read, and valid UTF-8."""
    return text[:_LONGEST_TEXT_CHARS].encode("utf-8", "replace").decode()


def check_pixels(card: ModelCard, pixels_BHW3: NDArray[np.uint8]) -> None:
    """Raise ModelError unless the pixels are (B, S, S, 3) uint8, as the card's `preprocessing.resize` makes them."""
    side = card.preprocessing.size_px
    if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[1:] != (side, side, 3) or pixels_BHW3.dtype != np.uint8:
        raise ModelError(
            f"{card.name} takes uint8 pixels of shape (B, {side}, {side}, 3); got {pixels_BHW3.dtype} "
            f"{pixels_BHW3.shape}. Use card.preprocessing.resize on each image."
        )

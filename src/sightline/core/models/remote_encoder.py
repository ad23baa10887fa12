"""An encoder that computes behind an endpoint. Its card is what the endpoint tells: vectors fit those made here.

Shape suffixes: B images, T texts, H W height and width, or the cells of a map, D joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.endpoint_client import Endpoint, RemoteConfig, check_pixels, cut_text, to_png
from sightline.core.models.onnx_encoder import normalise_rows
from sightline.core.types import ModelIdentity, Precision

_NORM_TOLERANCE = 1e-3


class RemoteEncoder:
    """An encoder behind an endpoint; see `models.base.Encoder` for the contract."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ModelError where the endpoint serves no encoder."""
        self.endpoint = endpoint
        self.card = endpoint.card("encoder")
        assert self.card.dim is not None  # card_from_json refuses encoders without
        self.dim: int = self.card.dim
        self.precision: Precision = endpoint.precision

    @property
    def runtime(self) -> str:
        """The host that computes."""
        return f"endpoint:{self.endpoint.name}"

    @property
    def least_batch(self) -> int:
        """Images that are worth a request: fewer take as long."""
        return self.endpoint.batch_limit("max_images") * self.endpoint.config.connections

    @property
    def identity(self) -> ModelIdentity:
        """That of the card, so vectors fit those which the same weights make here."""
        return self.card.make_identity(str(self.card.weights_hash))

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels (B, S, S, 3) uint8 -> (B, D) float32, rows L2-normalised."""
        check_pixels(self.card, pixels_BHW3)
        size = self.endpoint.batch_limit("max_images")
        return self._stack(self.endpoint.ask_in_batches(list(pixels_BHW3), self._embed_images, batch_size=size))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, truncated to the context length -> (T, D) float32, rows L2-normalised."""
        size = self.endpoint.batch_limit("max_texts")
        return self._stack(self.endpoint.ask_in_batches(list(map(cut_text, texts)), self._embed_texts, batch_size=size))

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space (B, H, W, D), not normalised; None where the model has none."""
        check_pixels(self.card, pixels_BHW3)
        size = self.endpoint.batch_limit("max_maps")
        maps = self.endpoint.ask_in_batches(list(pixels_BHW3), self._ask_maps, batch_size=size)
        if not maps or any(one is None for one in maps):
            return None
        try:
            return np.stack(maps)
        except ValueError as error:
            raise self.endpoint.nonsense("feature map", "maps of different shapes") from error

    def _embed_images(self, pixels_BHW3: Sequence[NDArray[np.uint8]]) -> list[Any]:
        images = [to_png(pixels) for pixels in pixels_BHW3]
        answer = self.endpoint.ask("image-feature-extraction", images, expects=self.card.weights_hash)
        return list(self._vectors(answer, len(images)))

    def _embed_texts(self, texts: Sequence[str]) -> list[Any]:
        answer = self.endpoint.ask("feature-extraction", list(texts), expects=self.card.weights_hash)
        return list(self._vectors(answer, len(texts)))

    def _ask_maps(self, pixels_BHW3: Sequence[NDArray[np.uint8]]) -> list[Any]:
        images = [to_png(pixels) for pixels in pixels_BHW3]
        answer = self.endpoint.ask("image-feature-maps", images, expects=self.card.weights_hash)
        if answer is None:
            return [None] * len(images)
        maps_BHWD = self._numbers(answer, "feature map")
        if maps_BHWD.ndim != 4 or maps_BHWD.shape[0] != len(images) or maps_BHWD.shape[3] != self.dim:
            raise self.endpoint.nonsense("feature map", f"its shape is {maps_BHWD.shape}")
        return list(maps_BHWD)

    def _vectors(self, answer: Any, count: int) -> NDArray[np.float32]:
        vectors_BD = self._numbers(answer, "vector")
        if vectors_BD.shape != (count, self.dim):
            raise self.endpoint.nonsense("vector", f"{vectors_BD.shape} instead of {(count, self.dim)}")
        if not np.allclose(np.linalg.norm(vectors_BD, axis=1), 1.0, atol=_NORM_TOLERANCE):
            raise self.endpoint.nonsense("vector", "its length isn't 1")
        return normalise_rows(vectors_BD)

    def _numbers(self, answer: Any, what: str) -> NDArray[np.float32]:
        try:
            values = np.asarray(answer, np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.endpoint.nonsense(what, "it doesn't consist of numbers") from error
        if not np.isfinite(values).all():
            raise self.endpoint.nonsense(what, "not all of its numbers are finite")
        return values

    def _stack(self, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


def load_remote_encoder(name: str, *, config: RemoteConfig | None = None) -> RemoteEncoder:
    """The encoder of `endpoint:URL`. Raises InputError for a bad address, ModelError where it can't be used."""
    return RemoteEncoder(Endpoint(name, config=config))

"""Models behind an endpoint that serves Sightline's handler: its card, an encoder, a captioner, and what a run costs.

The card is the one that the endpoint tells, so vectors fit those made here. Pixels travel at the model's size as PNG,
which loses nothing. This lies here and not in `integrations` because remote models are opened like any other.

Shape suffixes: B images, T texts, S side in pixels, H W height and width, or the cells of a map, D joint space.
"""

from __future__ import annotations

import base64
import io
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.core.models.base import GenerationConfig
from sightline.core.models.cards import ENDPOINT_PREFIX, ModelCard, card_from_json
from sightline.core.models.inputs import check_pixels, normalise_rows
from sightline.core.models.json_client import JsonClient, PostLimits, shown
from sightline.core.types import Caption, ModelIdentity, Precision
from sightline.errors import InputError, ModelError
from sightline.kit.work import map_ahead

KEY_VARIABLE = "SIGHTLINE_ENDPOINT_KEY"
_MOST_SIDE_PX, _MOST_DIM = 4096, 65536
"""Larger than any model's: a card with more is nonsense that would fill the memory."""
_LONGEST_TEXT_CHARS = 1_000
"""CLIP reads some 300 characters."""
_NORM_TOLERANCE = 1e-3
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """The way an endpoint is asked."""

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
        self._client = JsonClient(url.removeprefix(ENDPOINT_PREFIX), key=key, limits=self.config.limits)
        self.name = self._client.name
        told = self._client.post({"inputs": None, "parameters": {"task": "card"}})
        if not isinstance(told, dict) or not isinstance(told.get("tasks"), list):
            raise self.nonsense("card", "it is no card; export one with: sightline export endpoint MODEL DIR")
        self._told: Mapping[str, Any] = told

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def serves(self, kind: str) -> bool:
        """True where it has an `encoder` or a `captioner`."""
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
            "name": isinstance(name, str)
            and (0 < len(name) <= 200 and name.isprintable() and not name.startswith(ENDPOINT_PREFIX)),
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
        """The precision of its encoder."""
        return "int8" if self._told.get("precision") == "int8" else "fp32"

    def describe(self) -> dict[str, Any]:
        """Its models and limits, as plain values."""
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
        return self._client.post({"inputs": inputs, "parameters": {"task": task, **parameters}})

    def ask_in_batches(
        self, items: Sequence[Item], ask: Callable[[Sequence[Item]], list[Any]], *, batch_size: int
    ) -> list[Any]:
        """Answers for all items, in order. The first batch that fails ends it; what isn't sent by then never is."""
        batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        connections = self.config.connections
        answers = map_ahead(ask, batches, threads=connections, ahead=2 * connections)
        return [answer for several in answers for answer in several]

    def nonsense(self, what: str, why: str) -> ModelError:
        """The error for an answer that can't be used."""
        return ModelError(f"The endpoint {self.name} gives a {what} that can't be used: {why}.")


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
        check_pixels(self.card, pixels_BHW3)
        return self._embed(list(pixels_BHW3), "image-feature-extraction", send=to_png, limit="max_images")

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._embed(texts, "feature-extraction", send=cut_text, limit="max_texts")

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        check_pixels(self.card, pixels_BHW3)
        size = self.endpoint.batch_limit("max_maps")
        maps = self.endpoint.ask_in_batches(list(pixels_BHW3), self._ask_maps, batch_size=size)
        if not maps or any(one is None for one in maps):
            return None
        try:
            return np.stack(maps)
        except ValueError as error:
            raise self.endpoint.nonsense("feature map", "maps of different shapes") from error

    def _embed(
        self, items: Sequence[Item], task: str, *, send: Callable[[Item], str], limit: str
    ) -> NDArray[np.float32]:
        def ask(batch: Sequence[Item]) -> list[Any]:
            answer = self.endpoint.ask(task, [send(one) for one in batch], expects=self.card.weights_hash)
            return list(self._vectors(answer, len(batch)))

        rows = self.endpoint.ask_in_batches(items, ask, batch_size=self.endpoint.batch_limit(limit))
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

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


def load_remote_encoder(name: str, *, config: RemoteConfig | None = None) -> RemoteEncoder:
    """The encoder of `endpoint:URL`. Raises InputError for a bad address, ModelError where it can't be used."""
    return RemoteEncoder(Endpoint(name, config=config))


class RemoteCaptioner:
    """A captioner behind an endpoint; see `models.base.Captioner` for the contract."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ModelError where the endpoint serves no captioner."""
        self.endpoint = endpoint
        self.card = endpoint.card("captioner")
        self.runtime = f"endpoint:{endpoint.name}"

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        check_pixels(self.card, pixels_BHW3)
        options = asdict(config)

        def ask(pixels: Sequence[NDArray[np.uint8]]) -> list[Any]:
            images = [to_png(one) for one in pixels]
            answer = self.endpoint.ask("image-to-text", images, expects=self.card.weights_hash, **options)
            return [self._captions(several, config) for several in self._lists(answer, len(images), "caption")]

        return self.endpoint.ask_in_batches(list(pixels_BHW3), ask, batch_size=self.endpoint.batch_limit("max_images"))

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        check_pixels(self.card, pixels_BHW3)
        if len(texts) != len(pixels_BHW3):
            raise InputError(f"There are {len(pixels_BHW3)} images and texts for {len(texts)}; give each image a list.")

        def ask(rows: Sequence[int]) -> list[Any]:
            images = [to_png(pixels_BHW3[row]) for row in rows]
            asked = [[cut_text(text) for text in texts[row]] for row in rows]
            answer = self.endpoint.ask("caption-scores", images, expects=self.card.weights_hash, texts=asked)
            scores = self._lists(answer, len(images), "log-probability")
            for several, theirs in zip(scores, asked, strict=True):
                if len(several) != len(theirs) or not all(_is_log_prob(value) for value in several):
                    raise self.endpoint.nonsense("log-probability", "it is no number of 0 or less for each text")
            return [[float(value) for value in several] for several in scores]

        images, asked = self.endpoint.batch_limit("max_images"), self.endpoint.batch_limit("max_texts")
        size = max(1, min(images, asked // max([1, *map(len, texts)])))
        return self.endpoint.ask_in_batches(range(len(pixels_BHW3)), ask, batch_size=size)

    def _lists(self, answer: Any, count: int, what: str) -> list[list[Any]]:
        if isinstance(answer, list) and len(answer) == count and all(isinstance(several, list) for several in answer):
            return answer
        raise self.endpoint.nonsense(what, "it isn't a list for each image")

    def _captions(self, several: list[Any], config: GenerationConfig) -> list[Caption]:
        """Captions that the endpoint wrote, on one line each: it is data of another machine."""
        captions = []
        for one in several[: config.num_candidates]:
            if not isinstance(one, dict) or not isinstance(one.get("generated_text"), str):
                raise self.endpoint.nonsense("caption", "it has no generated_text")
            if not _is_log_prob(one.get("log_prob")):
                raise self.endpoint.nonsense("caption", "its log_prob is no number of 0 or less")
            text, log_prob = shown(one["generated_text"]), float(one["log_prob"])
            captions.append(Caption(text=text, source="generated", log_prob=log_prob, model=self.card.name))
        return captions


def load_remote_captioner(name: str, *, config: RemoteConfig | None = None) -> RemoteCaptioner:
    """The captioner of `endpoint:URL`. Raises InputError for a bad address, ModelError where it can't be used."""
    return RemoteCaptioner(Endpoint(name, config=config))


def _is_log_prob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-6


def to_png(pixels_SS3: NDArray[np.uint8]) -> str:
    """Pixels (S, S, 3) -> PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels_SS3).save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def cut_text(text: str) -> str:
    """A text as it is sent: not much longer than models read, and valid UTF-8."""
    return text[:_LONGEST_TEXT_CHARS].encode("utf-8", "replace").decode()


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """A run of `images`, and what an hour of the endpoint is paid with."""

    images: int
    image_s: float
    """Time of an image within a full batch."""
    price_per_hour: float | None = None

    @property
    def seconds(self) -> float:
        """Time of the whole run."""
        return self.images * self.image_s

    @property
    def price(self) -> float | None:
        """Cost of the run's time, in the currency of `price_per_hour`.

        Endpoints are billed while they are up: the time to start and to fall asleep comes on top.
        """
        return None if self.price_per_hour is None else self.seconds / 3600 * self.price_per_hour

    def describe(self) -> str:
        """One line for a person."""
        hours, minutes = divmod(math.ceil(self.seconds / 60), 60)
        took = f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
        price = "" if self.price is None else f", about {self.price:,.2f} at {self.price_per_hour:,.2f} an hour"
        return f"{self.images:,} images, {1 / self.image_s:,.1f} images/s: about {took}{price}"


def estimate_cost(
    encoder: RemoteEncoder, images: int, *, price_per_hour: float | None = None, rounds: int = 3
) -> CostEstimate:
    """Time some full batches of random pixels, after one that warms up; the median counts.

    Raises InputError for a negative number or price, ModelError where the endpoint fails.
    """
    if images < 0 or rounds < 1 or (price_per_hour is not None and not 0 <= price_per_hour < math.inf):
        raise InputError("images and price_per_hour must not be negative, and rounds at least 1.")
    side = encoder.card.preprocessing.size_px
    # Noise is the worst case of PNG: photographs travel faster
    pixels_BSS3 = np.random.default_rng(0).integers(0, 256, (encoder.least_batch, side, side, 3), np.uint8)
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        encoder.encode_images(pixels_BSS3)
        times.append(time.perf_counter() - started)
    batch_s = max(float(np.median(times[1:])), 1e-9)
    return CostEstimate(images=images, image_s=batch_s / len(pixels_BSS3), price_per_hour=price_per_hour)

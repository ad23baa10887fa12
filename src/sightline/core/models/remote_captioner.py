"""A captioner that writes and scores behind an endpoint. Shape suffixes: B images, S H W side, height, width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.core.models.base import GenerationConfig
from sightline.core.models.endpoint_client import Endpoint, RemoteConfig, check_pixels, cut_text, to_png
from sightline.core.models.posting import shown
from sightline.core.types import Caption
from sightline.errors import InputError


class RemoteCaptioner:
    """A captioner behind an endpoint; see `models.base.Captioner` for the contract."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ModelError where the endpoint serves no captioner."""
        self.endpoint = endpoint
        self.card = endpoint.card("captioner")
        self.runtime = f"endpoint:{endpoint.name}"

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """Resized RGB pixels (B, S, S, 3) -> for each image its captions, best first, with mean log-probability."""
        check_pixels(self.card, pixels_BHW3)
        options = asdict(config)

        def ask(pixels: Sequence[NDArray[np.uint8]]) -> list[Any]:
            images = [to_png(one) for one in pixels]
            answer = self.endpoint.ask("image-to-text", images, expects=self.card.weights_hash, **options)
            return [self._captions(several, config) for several in self._lists(answer, len(images), "caption")]

        return self.endpoint.ask_in_batches(list(pixels_BHW3), ask, batch_size=self.endpoint.batch_limit("max_images"))

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability for each token (nats) of each of its texts."""
        check_pixels(self.card, pixels_BHW3)
        if len(texts) != len(pixels_BHW3):
            raise InputError(f"There are {len(pixels_BHW3)} images and texts for {len(texts)}; give each image a list.")

        def ask(rows: Sequence[int]) -> list[Any]:
            images, asked = (
                [to_png(pixels_BHW3[row]) for row in rows],
                [list(map(cut_text, texts[row])) for row in rows],
            )
            answer = self.endpoint.ask("caption-scores", images, expects=self.card.weights_hash, texts=asked)
            scores = self._lists(answer, len(images), "log-probability")
            for several, theirs in zip(scores, asked, strict=True):
                if len(several) != len(theirs) or not all(_is_log_prob(value) for value in several):
                    raise self.endpoint.nonsense("log-probability", "it is no number of 0 or less for each text")
            return [[float(value) for value in several] for several in scores]

        size = self.endpoint.batch_limit("max_images")
        longest = max(map(len, texts), default=0)
        size = max(1, min(size, self.endpoint.batch_limit("max_texts") // max(longest, 1)))
        return self.endpoint.ask_in_batches(range(len(pixels_BHW3)), ask, batch_size=size)

    def _lists(self, answer: Any, count: int, what: str) -> list[list[Any]]:
        if (
            not isinstance(answer, list)
            or len(answer) != count
            or not all(isinstance(several, list) for several in answer)
        ):
            raise self.endpoint.nonsense(what, "it isn't a list for each image")
        return answer

    def _captions(self, several: list[Any], config: GenerationConfig) -> list[Caption]:
        """What the endpoint wrote, on one line each: it is data of another machine."""
        captions = []
        for one in several[: config.num_candidates]:
            if not isinstance(one, dict) or not isinstance(one.get("generated_text"), str):
                raise self.endpoint.nonsense("caption", "it has no generated_text")
            if not _is_log_prob(one.get("log_prob")):
                raise self.endpoint.nonsense("caption", "its log_prob is no number of 0 or less")
            text = " ".join(shown(one["generated_text"]).split())
            log_prob = float(one["log_prob"])
            captions.append(Caption(text=text, source="generated", log_prob=log_prob, model=self.card.name))
        return captions


def load_remote_captioner(name: str, *, config: RemoteConfig | None = None) -> RemoteCaptioner:
    """The captioner of `endpoint:URL`. Raises InputError for a bad address, ModelError where it can't be used."""
    return RemoteCaptioner(Endpoint(name, config=config))


def _is_log_prob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-6

"""What a run on an endpoint will take and cost, from some requests that are timed first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from sightline.core.models.remote_encoder import RemoteEncoder
from sightline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """A run of `images`, and what an hour of the endpoint is paid with."""

    images: int
    image_s: float
    """Time of an image within a full batch."""
    price_per_hour: float | None = None

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.images * self.image_s

    @property
    def price(self) -> float | None:
        """What the run's time costs, in the currency of `price_per_hour`.

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

"""The contracts that models meet, whatever runs them, and how a captioner is asked.

Shape suffixes: B images, T texts, H W height and width, D dimension of the joint space, M cells of an image's memory,
C their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.models.cards import ModelCard
    from sightline.core.types import Caption, ModelIdentity, Precision


@runtime_checkable
class Encoder(Protocol):
    """Images and texts -> one joint space. Every runtime of one card agrees to cosine >= 0.9999 in fp32."""

    card: ModelCard
    dim: int
    precision: Precision

    @property
    def runtime(self) -> str:
        """The runtime, for the user: `onnx:CPUExecutionProvider`, `torch:cpu`, ..."""

    @property
    def identity(self) -> ModelIdentity:
        """Identity that a store compares before it takes this encoder's vectors."""

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels (B, S, S, 3) as `card.preprocessing.resize` makes them -> (B, D), rows L2-normalised."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, truncated to the context length -> (T, D), rows L2-normalised."""

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space, (B, H, W, D), not normalised; None where a model has none."""


@runtime_checkable
class Captioner(Protocol):
    """Images -> sentences, and sentences -> how probable the generator finds them."""

    card: ModelCard
    runtime: str

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """Resized RGB pixels -> for each image its captions, best first, with mean log-probability; no duplicates."""

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability for each token (nats) of each of its texts."""


@runtime_checkable
class Matcher(Protocol):
    """An image and words, read together -> how well they belong together. Slower than two vectors, and finer."""

    card: ModelCard
    runtime: str
    image_side: str
    """Names all that decides what `see` gives: equal for equal weights and preprocessing."""

    def see(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels -> the model's memory of each image (B, M, C): M cells of width C, whatever the words."""

    def match(self, memory_BMC: NDArray[np.float32], text: str) -> NDArray[np.float32]:
        """Memories of images, and words -> (B,), in nats: differences say how much better one image fits the words."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """A captioner's way of writing. `beams=1` without sampling is greedy."""

    num_candidates: int = 1
    """Sentences returned for each image; at most `beams` unless sampling."""
    beams: int = 3
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 30
    """Longest caption, prompt included, in tokens."""
    min_tokens: int = 4
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 3
    """No n-gram of this size occurs twice; 0 turns it off."""
    prompt: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that can't be met. Raises InputError."""
        at_least = {"num_candidates": 1, "beams": 1, "min_tokens": 1, "no_repeat_ngram": 0, "seed": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.max_tokens < self.min_tokens:
            raise InputError(f"max_tokens ({self.max_tokens}) must be at least min_tokens ({self.min_tokens}).")
        if self.num_candidates > self.beams and not self.sample:
            raise InputError(
                f"{self.beams} beams give at most {self.beams} captions, not {self.num_candidates}; "
                "raise beams, or turn sampling on."
            )
        for name in ("temperature", "repetition_penalty"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], got {self.top_p}.")

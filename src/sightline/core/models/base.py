"""What a model is to the rest of Sightline: a card, and one of two contracts.

Shape suffixes: B images, T texts, H W height and width, D dimension of the joint space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from sightline.core.images.preprocess import PREPROCESSING_VERSION, Preprocessing
from sightline.core.types import ModelIdentity
from sightline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sightline.core.types import Caption, Precision


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How a model takes text. Ids are the tokenizer's."""

    context_length: int
    pad_id: int
    bos_id: int | None = None
    eos_id: int | None = None
    padding: Literal["longest", "fixed"] = "longest"
    """`longest` pads to the longest text of a batch (exact for causal towers); `fixed` to the context length."""
    lowercase: bool = False
    """Whether texts are lowercased before the tokenizer sees them (SigLIP 2 was trained so)."""


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """A published ONNX export of a card's weights, usable without torch."""

    repo: str
    revision: str = "main"
    image: str = "onnx/vision_model.onnx"
    text: str = "onnx/text_model.onnx"
    tokenizer: str = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a model before its weights are loaded. `sightline.json` of a model folder is this, as JSON."""

    name: str
    kind: Literal["encoder", "captioner"]
    family: Literal["clip", "siglip", "blip", "sightline-clip", "sightline-captioner"]
    source: str
    """Hub repository (`openai/clip-vit-base-patch32`), folder, or `package` for what ships with Sightline."""
    preprocessing: Preprocessing
    text: TextSpec
    dim: int | None = None
    """Dimension of the joint space; None for captioners."""
    revision: str = "main"
    licence: str = "unknown"
    paper: str | None = None
    activation: str | None = None
    """`quick_gelu` for OpenAI's weights: with plain GELU they are silently wrong."""
    temperature: float | None = None
    """exp(logit scale), where known: softmax(temperature * cosine) gives the model's own probabilities."""
    size_bytes: int | None = None
    """Download size where known."""
    onnx: OnnxExport | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Published or measured quality, with what it was measured on."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256, where known; checked on loading."""
    weights_hash: str | None = None
    """Identity of the weights where it is known beforehand, so that all runtimes and exports of them share one."""

    @property
    def nats_per_cosine(self) -> float:
        """What a difference of cosines is worth as log-odds: the temperature, or CLIP's 100 where it isn't known."""
        return self.temperature or 100.0

    def make_identity(self, weights_hash: str) -> ModelIdentity:
        """What decides this model's vectors: its weights, and what is done to pixels before and inside it.

        A corrected mean, resize mode or activation gives other vectors from the same weights. Needs `dim`.
        """
        image = self.preprocessing
        pixels = (image.size_px, image.resize_mode, image.interpolation, image.mean, image.std, self.activation)
        digest = hashlib.blake2b(repr((PREPROCESSING_VERSION, pixels)).encode(), digest_size=6).digest()
        assert self.dim is not None  # encoders check this when they are made
        return ModelIdentity(
            name=self.name,
            weights_hash=weights_hash,
            preprocessing_version=int.from_bytes(digest, "big"),
            dim=self.dim,
        )


@runtime_checkable
class Encoder(Protocol):
    """Images and texts -> one joint space. Every runtime of one card agrees to cosine >= 0.9999 in fp32."""

    card: ModelCard
    dim: int
    precision: Precision

    @property
    def runtime(self) -> str:
        """What runs it, for the user: `onnx:CPUExecutionProvider`, `torch:cpu`, ..."""
        ...

    @property
    def identity(self) -> ModelIdentity:
        """What a store compares before it takes this encoder's vectors."""
        ...

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels (B, S, S, 3) as `card.preprocessing.resize` makes them -> (B, D), rows L2-normalised."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, truncated to the context length -> (T, D), rows L2-normalised."""
        ...

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space, (B, H, W, D), not normalised; None where a model has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a captioner writes. `beams=1` without sampling is greedy."""

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
        for name, least in (
            ("num_candidates", 1),
            ("beams", 1),
            ("min_tokens", 1),
            ("no_repeat_ngram", 0),
            ("seed", 0),
        ):
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


@runtime_checkable
class Captioner(Protocol):
    """Images -> sentences, and sentences -> how probable the generator finds them."""

    card: ModelCard
    runtime: str

    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """Resized RGB pixels -> for each image its captions, best first, with mean log-probability; no duplicates."""
        ...

    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability for each token (nats) of each of its texts."""
        ...

"""An encoder run by PyTorch: transformers' CLIP and SigLIP, and our own convolutional CLIP. Needs the extra `torch`.

Shape suffixes: B images, T texts, L length in tokens, S side in pixels, H W height and width, D joint space.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from sightline.core.models.base import ModelCard
from sightline.core.models.layout import find_weights
from sightline.core.models.lite import comes_as_graphs, load_own_clip
from sightline.core.models.onnx_encoder import encode_sorted, normalise_rows, normalised_batches
from sightline.core.models.tokenizing import Tokenizer
from sightline.core.types import ModelIdentity, Precision
from sightline.errors import ModelError


class TorchEncoder:
    """A CLIP-like encoder in PyTorch, fp32; see `models.base.Encoder` for the contract."""

    precision: Precision = "fp32"

    def __init__(self, card: ModelCard, towers: Towers, tokenizer: Tokenizer, *, weights_hash: str) -> None:
        """Run towers where they are; while they are trained, each call runs the weights of that moment."""
        self.card = card
        self.towers = towers
        self.dim = towers.dim
        self.device = next(towers.parameters()).device
        self.runtime = f"torch:{self.device.type}"
        self._tokenizer = tokenizer
        self._weights_hash = weights_hash

    @classmethod
    def load(cls, card: ModelCard, folder: Path, *, weights_hash: str, device: str = "auto") -> TorchEncoder:
        """From a model folder's safetensors. Raises ModelError where they are missing or don't fit the card."""
        towers = load_towers(card, folder).to(choose_device(device))
        return cls(card, towers, Tokenizer.load(folder, card.text), weights_hash=weights_hash)

    @property
    def identity(self) -> ModelIdentity:
        """Name, weights, preprocessing and dimension: what a store compares."""
        return self.card.make_identity(self._weights_hash)

    @property
    def temperature(self) -> float:
        """exp(logit scale) of the weights."""
        return self.towers.temperature

    def encode_images(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels (B, S, S, 3) uint8 -> (B, D) float32, rows L2-normalised."""
        return normalise_rows(self._run_images(pixels_BHW3, output=0))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, truncated to the context length -> (T, D) float32, rows L2-normalised."""
        return encode_sorted(self._tokenizer, texts, encode=self._run_texts, dim=self.dim)

    def encode_maps(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """The last feature map in the joint space (B, H, W, D), not normalised; None for SigLIP."""
        if not self.towers.has_maps:
            return None
        return self._run_images(pixels_BHW3, output=1)

    def _run_images(self, pixels_BHW3: NDArray[np.uint8], output: int) -> NDArray[np.float32]:
        parts = []
        with torch.inference_mode():
            for batch_B3SS in normalised_batches(self.card, pixels_BHW3):
                embeds = self.towers.embed_images(torch.from_numpy(batch_B3SS).to(self.device))[output]
                parts.append(embeds.float().cpu().numpy())
        return np.concatenate(parts)[: len(pixels_BHW3)]

    def _run_texts(self, ids_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embeds_TD = self.towers.embed_texts(torch.from_numpy(ids_TL).to(self.device))
        array: NDArray[np.float32] = embeds_TD.float().cpu().numpy()
        return array


class Towers(torch.nn.Module):
    """The two towers of a model behind one interface, for running and for exporting: here transformers' SiglipModel."""

    has_maps = False

    def __init__(self, model: Any, *, dim: int) -> None:
        super().__init__()
        self.model = model
        self.dim = dim

    @property
    def temperature(self) -> float:
        """exp(logit scale) of the weights."""
        return math.exp(float(self.model.logit_scale.detach()))

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Normalised pixels (B, 3, S, S) -> (B, D), not normalised, and with `has_maps` the map (B, H, W, D)."""
        return (_pooled(self.model.get_image_features(pixel_values=pixels_B3SS)),)

    def embed_texts(self, ids_TL: torch.Tensor) -> torch.Tensor:
        """Token ids (T, L) -> (T, D), not normalised."""
        return _pooled(self.model.get_text_features(input_ids=ids_TL))


class ClipTowers(Towers):
    """transformers' CLIPModel."""

    has_maps = True

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Embeddings, and for the map the patch tokens through the class token's own last norm and projection.

        CLIP trains that projection for the class token only; that it also places patches near fitting texts is an
        observation (Zhou et al. 2022, MaskCLIP, arXiv:2112.01071).
        """
        vision = self.model.vision_model
        output = vision(pixel_values=pixels_B3SS)
        patches_BND = self.model.visual_projection(vision.post_layernorm(output.last_hidden_state[:, 1:]))
        side = math.isqrt(patches_BND.shape[1])
        return self.model.visual_projection(output.pooler_output), patches_BND.unflatten(1, (side, side))


class ConvTowers(Towers):
    """Our own: ConvClip of `models.convolutional`, LiteClip of `models.lite`."""

    has_maps = True

    def embed_images(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Embeddings (B, D) and the map (B, H, W, D) that they are the mean of."""
        outputs: tuple[torch.Tensor, ...] = self.model.encode_images(pixels_B3SS)
        return outputs

    def embed_texts(self, ids_TL: torch.Tensor) -> torch.Tensor:
        """Token ids (T, L) -> (T, D)."""
        embeds_TD: torch.Tensor = self.model.encode_texts(ids_TL)
        return embeds_TD


def load_towers(card: ModelCard, folder: Path) -> Towers:
    """The PyTorch modules of a card, in fp32 and evaluation mode, on the CPU.

    Raises ModelError where the folder has no safetensors weights, or they don't fit the card.
    """
    if not find_weights(folder) and not (card.family == "sightline-clip" and comes_as_graphs(folder)):
        raise ModelError(f"{folder} has no model.safetensors; PyTorch models are loaded from safetensors only.")
    if card.family == "sightline-clip":
        conv = load_own_clip(folder)
        return ConvTowers(conv, dim=_checked_dim(card, folder, conv.config.dim)).eval()
    with quiet_transformers():
        model = _load_transformers(card, folder)
    if card.family == "clip":
        hidden_act = model.config.text_config.hidden_act
        if card.activation not in (None, hidden_act):
            raise ModelError(
                f"{folder}: config.json says hidden_act {hidden_act!r}, the card of {card.name} {card.activation!r}; "
                "with the wrong one embeddings are silently worse. Correct config.json, or fetch the model again."
            )
        return ClipTowers(model, dim=_checked_dim(card, folder, model.config.projection_dim)).eval()
    return Towers(model, dim=_checked_dim(card, folder, model.config.text_config.projection_size)).eval()


def choose_device(name: str) -> str:
    """`auto` -> `cuda`, `mps` or `cpu`, the first that is there; another name is taken as it is."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load_transformers(card: ModelCard, folder: Path) -> Any:
    from transformers import CLIPModel, SiglipModel

    classes: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel}
    if card.family not in classes:
        raise ModelError(f"{card.name} is a {card.kind} of family {card.family}; an encoder is needed.")
    try:
        model, loading = classes[card.family].from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} can't be loaded as a {card.family} model: {error}") from error
    if missing := loading["missing_keys"]:
        raise ModelError(
            f"{folder}: the weights lack {len(missing)} of the model's tensors ({', '.join(sorted(missing)[:3])}); "
            "they belong to another architecture than config.json says."
        )
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar for what takes a second, and no remarks on settings that we check ourselves."""
    from transformers.utils import logging as module

    logging: Any = module  # not typed

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _pooled(output: Any) -> torch.Tensor:
    """Embeddings of `get_*_features`, which gave a tensor until transformers 5."""
    pooled: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return pooled


def _checked_dim(card: ModelCard, folder: Path, dim: int) -> int:
    if card.dim != dim:
        raise ModelError(f"{folder} gives {dim} dimensions, the card of {card.name} says {card.dim}.")
    return dim

"""Captioners on PyTorch: transformers' BLIP, and the captioners that Sightline trains.

Shape suffixes: B images, S side in pixels, N rows of the decoder, L tokens, V vocabulary,
M cells of an image's memory, C its width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from sightline.core.models.base import GenerationConfig, ModelCard
from sightline.core.models.convolutional import OwnCaptioner
from sightline.core.models.generation import Decoder
from sightline.core.models.layout import find_weights
from sightline.core.models.lite import load_own_captioner
from sightline.core.models.sentences import SentenceWriter
from sightline.core.models.tokenizing import Tokenizer
from sightline.core.models.torch_encoder import choose_device, quiet_transformers
from sightline.core.types import Caption
from sightline.errors import ModelError

SCORED_ROWS = 16
"""Sequences scored at once: their logits (N, L, V) are the largest array here."""


class TorchCaptioner:
    """A captioner from a folder with `config.json`, safetensors and tokenizer: BLIP or `sightline-captioner`.

    `device` is one of torch's; `auto` takes a GPU if there is one.
    """

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "auto") -> None:
        """Load the safetensors weights of a model folder. Raises ModelError where they are missing or don't fit."""
        self._device = choose_device(device)
        self._model = load_torch_captioner(card, folder).to(self._device)
        self._writer = SentenceWriter(card, Tokenizer.load(folder, card.text), see=self._see, describe=self._describe)
        self.card = card
        self.runtime = f"torch:{self._device}"

    @torch.inference_mode()
    def generate(self, pixels_BHW3: NDArray[np.uint8], config: GenerationConfig) -> list[list[Caption]]:
        """Resized RGB pixels (B, S, S, 3) -> for each image its captions, best first; see `SentenceWriter.write`."""
        return self._writer.write(pixels_BHW3, config)

    @torch.inference_mode()
    def score(self, pixels_BHW3: NDArray[np.uint8], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each image, the mean log-probability (nats) of each of its texts; see `SentenceWriter.score`."""
        return self._writer.score(pixels_BHW3, texts)

    def _see(self, pixel_values: NDArray[np.float32]) -> torch.Tensor:
        pixel_values_B3SS = torch.from_numpy(pixel_values).to(self._device)
        if isinstance(self._model, OwnCaptioner):
            return self._model.encode_images(pixel_values_B3SS)
        memory_BMC: torch.Tensor = self._model.vision_model(pixel_values=pixel_values_B3SS)[0]
        return memory_BMC

    def _describe(self, memory_BMC: torch.Tensor) -> Decoder:
        if isinstance(self._model, OwnCaptioner):
            return _OwnDecoder(self._model, memory_BMC)
        return _BlipDecoder(self._model.text_decoder, memory_BMC)


def load_torch_captioner(card: ModelCard, folder: Path) -> Any:
    """The torch module of a captioner's folder, in fp32 and evaluation mode; only safetensors are read.

    Raises:
        ModelError: the weights are missing, don't fit, or belong to no captioner.
    """
    if not find_weights(folder):
        raise ModelError(
            f"{folder} has no model.safetensors, which the runtime torch needs. Pickled weights (.bin, .pt) are not "
            "loaded; use the runtime onnx if the folder has graphs."
        )
    if card.family == "sightline-captioner":
        return load_own_captioner(folder)
    if card.family != "blip":
        raise ModelError(f"{card.name} is of family {card.family!r}, no captioner; blip or sightline-captioner is.")
    from transformers import BlipForConditionalGeneration

    try:
        with quiet_transformers():
            loaded: Any = BlipForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} can't be loaded as a BLIP captioner: {error}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} of the captioner's weights ({', '.join(missing[:3])}, ...): it holds "
            "another kind of BLIP model, or is incomplete. Sightline needs a BlipForConditionalGeneration."
        )
    return model.eval()


class _OwnDecoder:
    """Our own captioner's decoder, bound to the cells of a batch of images."""

    scored_rows = SCORED_ROWS

    def __init__(self, model: OwnCaptioner, cells_BMC: torch.Tensor) -> None:
        self._model = model
        self._cells_BMC = cells_BMC

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after the last (N, V)."""
        return self.all_logits(ids_NL, images_N)[:, -1]

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after each (N, L, V)."""
        device = self._cells_BMC.device
        cells_NMC = self._cells_BMC[torch.from_numpy(images_N).to(device)]
        return _array(self._model.decode(torch.from_numpy(ids_NL).to(device), cells_NMC))


class _BlipDecoder:
    """BLIP's text decoder, bound to the memory of a batch of images, with the attention cache of its last call.

    Where every row goes on from a row of the last call by one token, as in decoding, only that token is computed.
    """

    scored_rows = SCORED_ROWS

    def __init__(self, decoder: Any, memory_BMC: torch.Tensor) -> None:
        self._decoder = decoder
        self._memory_BMC = memory_BMC
        self._cache_name = _name_cache(decoder)
        self._cache: Any = None
        self._cached_rows: list[tuple[int, ...]] = []

    def next_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after the last (N, V)."""
        rows = [(int(image), *ids) for image, ids in zip(images_N, ids_NL.tolist(), strict=True)]
        continues = self._select_cached([row[:-1] for row in rows])
        fed_NL = np.ascontiguousarray(ids_NL[:, -1:] if continues else ids_NL)
        output = self._decoder(
            input_ids=torch.from_numpy(fed_NL).to(self._memory_BMC.device),
            encoder_hidden_states=self._memory_of(images_N),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: self._cache},
        )
        self._cache, self._cached_rows = getattr(output, self._cache_name), rows
        return _array(output.logits[:, -1])

    def _select_cached(self, parents: list[tuple[int, ...]]) -> bool:
        """Make the cache that of these rows and say True, or drop it where it lacks one."""
        place_of = {row: place for place, row in enumerate(self._cached_rows)}
        places = [place_of.get(parent) for parent in parents]
        if None in places:
            self._cache = None
            return False
        chosen = torch.tensor(places, device=self._memory_BMC.device)
        self._cache.self_attention_cache.reorder_cache(chosen)
        if [parent[0] for parent in parents] != [row[0] for row in self._cached_rows]:
            self._cache.cross_attention_cache.reorder_cache(chosen)  # large, and the same for rows of one image
        return True

    def all_logits(self, ids_NL: NDArray[np.int64], images_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the token after each (N, L, V)."""
        ids = torch.from_numpy(ids_NL).to(self._memory_BMC.device)
        memory_NMC = self._memory_of(images_N)
        return _array(self._decoder(input_ids=ids, encoder_hidden_states=memory_NMC, use_cache=False).logits)

    def _memory_of(self, images_N: NDArray[np.int64]) -> torch.Tensor:
        return self._memory_BMC[torch.from_numpy(images_N).to(self._memory_BMC.device)]


def _name_cache(decoder: Any) -> str:
    """What this transformers calls the attention cache, as an argument and in the output alike."""
    # Newer releases say `cache` and warn of the older name, which they will remove; the oldest we allow know only that.
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def _array(logits: torch.Tensor) -> NDArray[np.float32]:
    """Logits as a float32 array on the CPU."""
    values: NDArray[np.float32] = logits.float().cpu().numpy()
    return values

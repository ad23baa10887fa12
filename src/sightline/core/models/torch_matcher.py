"""BLIP's matching head, run by PyTorch: transformers' `BlipForImageTextRetrieval`. Needs the extra `torch`.

Its text encoder reads the words while it attends to the image, and the head on its first token tells a match from a
mismatch. As in BLIP's own evaluation (Li et al. 2022, arXiv:2201.12086) that token is `[ENC]`, the last of the
vocabulary, in place of the tokenizer's `[CLS]`.

Shape suffixes: B images, S side in pixels, L tokens, M cells of an image's memory, C its width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.core.models.cards import ModelCard
from sightline.core.models.files import find_weights, hash_files
from sightline.core.models.inputs import Tokenizer, normalised_batches
from sightline.core.models.torch_models import choose_device, load_pretrained

IMAGES_PER_RUN = 8
"""Images that are seen or matched at once: a memory of BLIP-base has 1.8 MB, and its activations several times that."""


class TorchMatcher:
    """BLIP's image encoder, text encoder and matching head; see `models.base.Matcher` for the contract."""

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "auto") -> None:
        """Load the safetensors weights of a model folder. Raises ModelError where they are missing or don't fit."""
        from transformers import BlipForImageTextRetrieval

        model = load_pretrained(BlipForImageTextRetrieval, folder, what="matcher")
        self.card = card
        self.image_side = hash_files(find_weights(folder))
        self._device = choose_device(device)
        self._model = model.to(self._device)
        self._tokenizer = Tokenizer.load(folder, card.text)
        self.runtime = f"torch:{self._device}"

    @torch.inference_mode()
    def see(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Resized RGB pixels (B, S, S, 3) uint8 -> the image encoder's last states (B, M, C), one for each patch."""
        parts = []
        for batch_B3SS in normalised_batches(self.card, pixels_BHW3, per_run=IMAGES_PER_RUN):
            memory_BMC = self._model.vision_model(pixel_values=torch.from_numpy(batch_B3SS).to(self._device))[0]
            parts.append(memory_BMC.float().cpu().numpy())
        return np.concatenate(parts)[: len(pixels_BHW3)]

    @torch.inference_mode()
    def match(self, memory_BMC: NDArray[np.float32], text: str) -> NDArray[np.float32]:
        """Log-odds (B,) of a match over a mismatch, in nats. A text longer than the context is read to its end."""
        ids_1L = torch.from_numpy(self._tokenizer.encode([text]))
        ids_1L[:, 0] = self._model.config.text_config.vocab_size - 1
        parts = []
        for first in range(0, len(memory_BMC), IMAGES_PER_RUN):
            part = torch.from_numpy(np.ascontiguousarray(memory_BMC[first : first + IMAGES_PER_RUN])).to(self._device)
            ids_BL = ids_1L.expand(len(part), -1).to(self._device)
            states_BLC = self._model.text_encoder(
                input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), encoder_hidden_states=part
            )[0]
            mismatch_match_B2 = self._model.itm_head(states_BLC[:, 0])
            parts.append((mismatch_match_B2[:, 1] - mismatch_match_B2[:, 0]).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

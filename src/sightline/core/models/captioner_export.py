"""PyTorch weights of a captioner -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`.

The graphs: `pixel_values` float (B, 3, S, S) -> `encoder_hidden_states` (B, M, C), run once an image; and the decoder,
run once a token, whose shapes are those of `cached_decoder.CachedDecoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sightline.core.models.base import ModelCard
from sightline.core.models.cached_decoder import CachedDecoder
from sightline.core.models.convolutional import OwnCaptioner
from sightline.core.models.graph_export import BATCH, complete_or_absent, export_graph, finish_folder
from sightline.core.models.torch_captioner import load_torch_captioner


def export_captioner(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/decoder.onnx` (fp32), card and tokenizer of a captioner; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. Raises ModelError where the weights
    can't be loaded or the export fails.
    """
    model = load_torch_captioner(card, folder_in)
    with complete_or_absent(folder_out) as partial:
        memory_BMC = _export_image(_Image(model), card, partial / "onnx" / "image.onnx")
        decoder = CachedDecoder(model).eval()
        _export_decoder(decoder, card, partial / "onnx" / "decoder.onnx", memory_BMC=memory_BMC)
        return finish_folder(card, folder_in, partial)


class _Image(torch.nn.Module):
    """The image side of either captioner: normalised pixels (B, 3, S, S) -> memory (B, M, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, OwnCaptioner):
            normed_BMC: torch.Tensor = self.model.memory_norm(self.model.encode_images(pixel_values))
            return normed_BMC
        memory_BMC: torch.Tensor = self.model.vision_model(pixel_values=pixel_values)[0]
        return memory_BMC


def _export_image(module: _Image, card: ModelCard, path: Path) -> torch.Tensor:
    """Export the image side and give the memory of the example it was traced with."""
    side = card.preprocessing.size_px
    example = torch.zeros(2, 3, side, side)
    names = (("pixel_values",), ("encoder_hidden_states",))
    export_graph(module, (example,), path, names=names, dynamic=({0: BATCH},))
    with torch.inference_mode():
        memory_BMC: torch.Tensor = module(example)
    return memory_BMC


def _export_decoder(module: CachedDecoder, card: ModelCard, path: Path, *, memory_BMC: torch.Tensor) -> None:
    images, rows, earlier, new = len(memory_BMC), 3, 4, 5  # all different, so that none is taken for another
    ids_BRL = torch.full((images, rows, new), card.text.pad_id, dtype=torch.int64)
    past = module.empty_past(images, rows, earlier)
    layers = range(len(past) // 2)
    states = [f"{kind}_{layer}" for layer in layers for kind in ("key", "value")]
    names = (
        ("input_ids", "encoder_hidden_states", *(f"past_{state}" for state in states)),
        ("logits", *(f"present_{state}" for state in states)),
    )
    row, length, past_length = (
        torch.export.Dim("rows", min=1),
        torch.export.Dim("length", min=1, max=card.text.context_length),
        torch.export.Dim("past", min=0, max=card.text.context_length),
    )
    dynamic: Any = (
        {0: BATCH, 1: row, 2: length},
        {0: BATCH},
        tuple({0: BATCH, 1: row, 3: past_length} for _ in past),
    )
    export_graph(module, (ids_BRL, memory_BMC.clone(), *past), path, names=names, dynamic=dynamic)

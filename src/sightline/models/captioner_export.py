"""PyTorch weights of a captioner -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sightline.models.base import ModelCard
from sightline.models.convolutional import ConvCaptioner
from sightline.models.graph_export import BATCH, complete_or_absent, export_graph, finish_folder
from sightline.models.torch_captioner import load_torch_captioner


def export_captioner(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/decoder.onnx` (fp32), card and tokenizer of a captioner; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. Raises ModelError where the weights
    can't be loaded or the export fails.
    """
    model = load_torch_captioner(card, folder_in)
    with complete_or_absent(folder_out) as partial:
        memory_BMC = _export_image(_Image(model), card, partial / "onnx" / "image.onnx")
        _export_decoder(_Decoder(model), card, partial / "onnx" / "decoder.onnx", memory_BMC=memory_BMC)
        return finish_folder(card, folder_in, partial)


class _Image(torch.nn.Module):
    """The image side of either captioner: normalised pixels (B, 3, S, S) -> memory (B, M, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, ConvCaptioner):
            return self.model.encode_images(pixel_values)
        memory_BMC: torch.Tensor = self.model.vision_model(pixel_values=pixel_values)[0]
        return memory_BMC


class _Decoder(torch.nn.Module):
    """The text side of either captioner: ids (B, L) and memory (B, M, C) -> logits (B, L, V)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        if isinstance(self.model, ConvCaptioner):
            return self.model.decode(input_ids, encoder_hidden_states)
        output = self.model.text_decoder(
            input_ids=input_ids, encoder_hidden_states=encoder_hidden_states, use_cache=False
        )
        logits_BLV: torch.Tensor = output.logits
        return logits_BLV


def _export_image(module: _Image, card: ModelCard, path: Path) -> torch.Tensor:
    """Export the image side and give the memory of the example it was traced with."""
    side = card.preprocessing.size_px
    example = torch.zeros(2, 3, side, side)
    names = (("pixel_values",), ("encoder_hidden_states",))
    export_graph(module, (example,), path, names=names, dynamic=({0: BATCH},))
    with torch.inference_mode():
        memory_BMC: torch.Tensor = module(example)
    return memory_BMC


def _export_decoder(module: _Decoder, card: ModelCard, path: Path, *, memory_BMC: torch.Tensor) -> None:
    ids_BL = torch.full((2, 5), card.text.pad_id, dtype=torch.int64)
    length = torch.export.Dim("length", min=1, max=card.text.context_length)
    names = (("input_ids", "encoder_hidden_states"), ("logits",))
    dynamic = ({0: BATCH, 1: length}, {0: BATCH})
    export_graph(module, (ids_BL, memory_BMC.clone()), path, names=names, dynamic=dynamic)

"""PyTorch weights of an encoder -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.core.models.base import ModelCard
from sightline.core.models.graph_export import BATCH, complete_or_absent, export_graph, finish_folder
from sightline.core.models.torch_encoder import Towers, load_towers


def export_encoder(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/text.onnx` (fp32), card and tokenizer of an encoder; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. The card records the hash of the
    source's weights, so vectors of both runtimes are of one identity. Raises ModelError where the export fails.
    """
    towers = load_towers(card, folder_in)
    with complete_or_absent(folder_out) as partial:
        _export_image(towers, card, partial / "onnx" / "image.onnx")
        _export_text(towers, card, partial / "onnx" / "text.onnx")
        return finish_folder(replace(card, temperature=towers.temperature), folder_in, partial)


class _Method(torch.nn.Module):
    """One method of the towers as a module of its own, which is what the exporter takes."""

    def __init__(self, towers: Towers, method: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.towers = towers
        self.method = method

    def forward(self, x: torch.Tensor) -> Any:
        return self.method(x)


def _export_image(towers: Towers, card: ModelCard, path: Path) -> None:
    side = card.preprocessing.size_px
    outputs = ("image_embeds", "feature_map") if towers.has_maps else ("image_embeds",)
    module = _Method(towers, towers.embed_images)
    names = (("pixel_values",), outputs)
    export_graph(module, (torch.zeros(2, 3, side, side),), path, names=names, dynamic=({0: BATCH},))


def _export_text(towers: Towers, card: ModelCard, path: Path) -> None:
    length = card.text.context_length
    dynamic: dict[int, Any] = {0: BATCH}
    if card.text.padding == "longest":
        dynamic[1] = torch.export.Dim("length", min=2, max=length)
        length = min(length, 7)  # traced at another length than the longest, which would be taken for a constant
    example = torch.full((2, length), card.text.pad_id, dtype=torch.int64)
    module = _Method(towers, towers.embed_texts)
    export_graph(module, (example,), path, names=(("input_ids",), ("text_embeds",)), dynamic=(dynamic,))

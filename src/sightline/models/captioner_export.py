"""PyTorch weights of a captioner -> a model folder with ONNX graphs that the core runs. Needs the extra `torch`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.errors import ModelError
from sightline.models.base import ModelCard
from sightline.models.cards import write_card
from sightline.models.convolutional import ConvCaptioner
from sightline.models.export import _complete_or_absent, _quiet
from sightline.models.hashes import hash_file, hash_files
from sightline.models.layout import TOKENIZER_FILES, find_weights
from sightline.models.torch_captioner import load_torch_captioner

_OPSET = 18


def export_captioner(card: ModelCard, folder_in: Path, folder_out: Path) -> ModelCard:
    """Write `onnx/image.onnx`, `onnx/decoder.onnx` (fp32), card and tokenizer of a captioner; gives the new card.

    `folder_out` appears complete or not at all, and replaces what stood there. Raises ModelError where the weights
    can't be loaded or the export fails.
    """
    model = load_torch_captioner(card, folder_in)
    weights_hash = card.weights_hash or hash_files(find_weights(folder_in))
    with _complete_or_absent(folder_out) as partial:
        (partial / "onnx").mkdir()
        memory_BMC = _export_image(_Image(model), card, partial / "onnx" / "image.onnx")
        _export_decoder(_Decoder(model), card, partial / "onnx" / "decoder.onnx", memory_BMC=memory_BMC)
        for name in TOKENIZER_FILES:
            if (folder_in / name).is_file():
                shutil.copyfile(folder_in / name, partial / name)
        files = {f"onnx/{path.name}": hash_file(path) for path in sorted((partial / "onnx").iterdir())}
        exported = replace(card, weights_hash=weights_hash, onnx=None, files=files)
        write_card(partial, exported)
    return exported


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
    batch = torch.export.Dim("batch", min=1)
    _export(module, (example,), path, names=("pixel_values", "encoder_hidden_states"), dynamic=({0: batch},))
    with torch.inference_mode():
        memory_BMC: torch.Tensor = module(example)
    return memory_BMC


def _export_decoder(module: _Decoder, card: ModelCard, path: Path, *, memory_BMC: torch.Tensor) -> None:
    ids_BL = torch.full((2, 5), card.text.pad_id, dtype=torch.int64)
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1, max=card.text.context_length)
    names = ("input_ids", "encoder_hidden_states", "logits")
    _export(module, (ids_BL, memory_BMC.clone()), path, names=names, dynamic=({0: batch, 1: length}, {0: batch}))


def _export(
    module: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    path: Path,
    *,
    names: Sequence[str],
    dynamic: tuple[dict[int, Any], ...],
) -> None:
    """One graph; the last of `names` is the output's."""
    try:
        with _quiet():
            torch.onnx.export(
                module.eval(),
                examples,
                str(path),
                input_names=list(names[:-1]),
                output_names=[names[-1]],
                dynamic_shapes=dynamic,
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        raise ModelError(
            f"The ONNX export of {path.stem} failed: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "Run the model in PyTorch instead: runtime `torch`."
        ) from error

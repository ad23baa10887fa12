"""The door to captioners: a name or a card -> a captioner that is ready to run, on the best runtime of this machine."""

from __future__ import annotations

from dataclasses import replace

from sightline.errors import ModelError
from sightline.models.base import Captioner, ModelCard
from sightline.models.exports import cached_export, require_torch
from sightline.models.layout import find_graphs
from sightline.models.registry import STARTER_CAPTIONER, find_card
from sightline.models.resolve import Runtime, resolve_folder


def load_captioner(
    model: str | ModelCard = STARTER_CAPTIONER, *, runtime: Runtime = "auto", download: bool = False
) -> Captioner:
    """A captioner of a model name (`starter-captioner`, `blip-base`, `hf:org/name`, `dir:path`) or card.

    `auto` and `onnx` run ONNX graphs, made once from the PyTorch weights where there are none; `torch` runs the weights
    themselves. Files are fetched only if `download` is given. Raises ModelError where the model is unknown, not on this
    machine, damaged, or needs the extra `torch`.
    """
    card = find_card(model) if isinstance(model, str) else model
    if card.kind != "captioner":
        raise ModelError(
            f"{card.name} is an {card.kind}; captions are written by a captioner, such as {STARTER_CAPTIONER!r} or "
            "'blip-base'."
        )
    folder = resolve_folder(card, download=download, runtime=runtime)
    if runtime == "torch":
        require_torch(card, folder)
        from sightline.models.torch_captioner import TorchCaptioner

        return TorchCaptioner(card, folder)
    if find_graphs(folder, card) is None:
        made, folder = cached_export(card, folder)
        card = replace(card, weights_hash=made.weights_hash)
    from sightline.models.onnx_captioner import OnnxCaptioner

    return OnnxCaptioner(card, folder)

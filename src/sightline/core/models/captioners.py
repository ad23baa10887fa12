"""The door to captioners: a name or a card -> a captioner that is ready to run, on the best runtime of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sightline.core.models.base import Captioner, ModelCard
from sightline.core.models.exports import cached_export, require_torch
from sightline.core.models.layout import find_graphs
from sightline.core.models.registry import ENDPOINT_PREFIX, STARTER_CAPTIONER, find_card
from sightline.core.models.resolve import Runtime, resolve_folder
from sightline.errors import ModelError
from sightline.kit.config import PrecisionChoice


def load_captioner(
    model: str | ModelCard = STARTER_CAPTIONER,
    *,
    runtime: Runtime = "auto",
    download: bool = False,
    precision: PrecisionChoice | None = None,
) -> Captioner:
    """A captioner of a model name (`starter-captioner`, `blip-base`, `hf:org/name`, `dir:path`) or card.

    `auto` and `onnx` run ONNX graphs, made once from the PyTorch weights where there are none; `torch` runs the weights
    themselves. `precision` (default: `config.precision()`) says whether graphs run in int8; `auto` does where their
    gate has passed them. Files are fetched only if `download` is given. Raises ModelError where the model is unknown,
    not on this machine, damaged, needs the extra `torch`, or lacks the precision.
    """
    if isinstance(model, str) and model.startswith(ENDPOINT_PREFIX):
        from sightline.core.models.remote_captioner import load_remote_captioner

        return load_remote_captioner(model)
    card = find_card(model) if isinstance(model, str) else model
    if card.kind != "captioner":
        raise ModelError(
            f"{card.name} is an {card.kind}; captions are written by a captioner, such as {STARTER_CAPTIONER!r} or "
            "'blip-base'."
        )
    folder = resolve_folder(card, download=download, runtime=runtime)
    if runtime == "torch":
        require_torch(card, folder)
        from sightline.core.models.torch_captioner import TorchCaptioner

        return TorchCaptioner(card, folder)
    card, folder, graphs = fp32_graphs(card, folder)
    from sightline.core.models.captioner_precision import choose_graphs
    from sightline.core.models.onnx_captioner import OnnxCaptioner

    return OnnxCaptioner(card, folder, graphs=choose_graphs(graphs, precision))


def fp32_graphs(card: ModelCard, folder: Path) -> tuple[ModelCard, Path, Mapping[str, Path]]:
    """The graphs of a captioner's folder, with their card and folder, exported now where there are none.

    Of the starter, which ships in int8 only, those. Raises ModelError where they have to be exported and can't be.
    """
    graphs = find_graphs(folder, card)
    if graphs is None:
        made, folder = cached_export(card, folder)
        card, graphs = replace(card, weights_hash=made.weights_hash), find_graphs(folder, card)
    if graphs is None:
        raise ModelError(f"{folder} lacks the graphs of a captioner; delete that folder, and they are exported again.")
    return card, folder, graphs

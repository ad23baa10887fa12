"""The door to captioners: a name or a card -> a captioner that is ready to run, on the best runtime of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sightline.errors import ModelError
from sightline.models.base import Captioner, ModelCard
from sightline.models.cards import CARD_FILE, read_card
from sightline.models.hashes import verify_files
from sightline.models.layout import TORCH_ADVICE, find_graphs, find_weights, torch_installed
from sightline.models.registry import STARTER_CAPTIONER, find_card
from sightline.models.resolve import Runtime, exports_dir, resolve_folder


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
        _require_torch(card, folder)
        from sightline.models.torch_captioner import TorchCaptioner

        return TorchCaptioner(card, folder)
    if find_graphs(folder, card) is None:
        card, folder = _exported(card, folder)
    from sightline.models.onnx_captioner import OnnxCaptioner

    return OnnxCaptioner(card, folder)


def _exported(card: ModelCard, folder: Path) -> tuple[ModelCard, Path]:
    """The card and folder of the cached export of a folder's weights, made now where it is missing."""
    target = exports_dir(folder)
    if not (target / CARD_FILE).is_file():
        _require_torch(card, folder)
        from sightline.models.captioner_export import export_captioner

        export_captioner(card, folder, target)
    made = read_card(target)
    verify_files(target, made.files)
    return replace(card, weights_hash=made.weights_hash), target


def _require_torch(card: ModelCard, folder: Path) -> None:
    if not find_weights(folder):
        raise ModelError(f"{folder} holds no PyTorch weights of {card.name}; use the runtime `onnx`.")
    if not torch_installed():
        raise ModelError(f"{card.name} has PyTorch weights only, and PyTorch is not installed; {TORCH_ADVICE}.")

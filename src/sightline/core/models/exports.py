"""ONNX graphs made here, once, of weights that came without: kept in the cache and found again."""

from __future__ import annotations

import logging
from pathlib import Path

from sightline.core.models.base import ModelCard
from sightline.core.models.cards import CARD_FILE, read_card
from sightline.core.models.hashes import verify_files
from sightline.core.models.layout import TORCH_ADVICE, find_weights, torch_installed
from sightline.core.models.resolve import exports_dir
from sightline.errors import ModelError

_LOG = logging.getLogger(__name__)


def cached_export(card: ModelCard, folder: Path) -> tuple[ModelCard, Path]:
    """The card and folder of the export of a folder's weights, made now where it is missing.

    Raises ModelError where it has to be made and can't be, or where it is damaged.
    """
    target = exports_dir(folder)
    if not (target / CARD_FILE).is_file():
        require_torch(card, folder)
        _LOG.warning("Exporting %s to ONNX; this is done once and takes a minute or so.", card.name)
        _export(card, folder, target)
    made = read_card(target)
    verify_files(target, made.files)
    return made, target


def require_torch(card: ModelCard, folder: Path) -> None:
    """Raise ModelError unless a folder's weights can be run by PyTorch here."""
    if not find_weights(folder):
        raise ModelError(f"{folder} holds no PyTorch weights of {card.name}; use the runtime `onnx`.")
    if not torch_installed():
        raise ModelError(f"{card.name} has PyTorch weights only, and PyTorch is not installed; {TORCH_ADVICE}.")


def _export(card: ModelCard, folder: Path, target: Path) -> None:
    if card.kind == "encoder":
        from sightline.core.models.export import export_encoder

        export_encoder(card, folder, target)
    else:
        from sightline.core.models.captioner_export import export_captioner

        export_captioner(card, folder, target)

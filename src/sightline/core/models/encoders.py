"""The door to encoders: a name or a card -> an encoder that is ready to run, on the best runtime of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sightline.core.models.base import Encoder, ModelCard
from sightline.core.models.exports import cached_export, require_torch
from sightline.core.models.hashes import hash_files
from sightline.core.models.layout import find_graphs, find_weights
from sightline.core.models.registry import ENDPOINT_PREFIX, STARTER, find_card
from sightline.core.models.resolve import Runtime, best_choice, is_available, resolve_folder
from sightline.errors import ModelError
from sightline.kit.config import PrecisionChoice

DEFAULT_MODEL = "ViT-B-32/openai"
_PROBE_TIMEOUT_S = 2.0


def load_encoder(
    model: str | ModelCard,
    *,
    runtime: Runtime = "auto",
    download: bool = False,
    precision: PrecisionChoice | None = None,
) -> Encoder:
    """An encoder of a model name (`starter`, `ViT-B-32/openai`, `hf:org/name`, `dir:path`) or card.

    `auto` runs ONNX graphs where there are some, else exports the PyTorch weights once and runs that; `onnx` and
    `torch` insist. `precision` (default: `config.precision()`) says whether graphs run in int8; `auto` does where a
    gate has passed them on this user's pictures. Files are fetched only if `download` is given. Raises ModelError where
    the model is unknown, not on this machine, damaged, needs the extra `torch`, or lacks the precision.
    """
    if isinstance(model, str) and model.startswith(ENDPOINT_PREFIX):
        from sightline.core.models.remote_encoder import load_remote_encoder

        return load_remote_encoder(model)
    card = find_card(model) if isinstance(model, str) else model
    if card.kind != "encoder":
        raise ModelError(f"{card.name} is a {card.kind}; searching needs an encoder, such as {STARTER!r}.")
    folder = resolve_folder(card, download=download, runtime=runtime)
    if runtime == "torch":
        return _load_torch(card, folder)
    card, folder, graphs = encoder_graphs(card, folder)
    from sightline.core.models.encoder_precision import choose_graphs
    from sightline.core.models.onnx_encoder import OnnxEncoder

    identity_hash = weights_hash(card, folder)
    return OnnxEncoder(card, folder, weights_hash=identity_hash, graphs=choose_graphs(graphs, precision))


def encoder_graphs(card: ModelCard, folder: Path) -> tuple[ModelCard, Path, dict[str, Path]]:
    """The graphs that a folder has, with card and folder; those of PyTorch weights alone are exported now, once.

    Raises ModelError where they have to be exported and can't be.
    """
    graphs = find_graphs(folder, card)
    if graphs is None:
        made, folder = cached_export(card, folder)
        card = replace(card, temperature=made.temperature, weights_hash=made.weights_hash)
        graphs = find_graphs(folder, card)
    if graphs is None:
        raise ModelError(f"{folder} lacks the graphs of an encoder; delete that folder, and they are exported again.")
    return card, folder, graphs


def weights_hash(card: ModelCard, folder: Path) -> str:
    """What identifies the weights: the card's own hash, else that of the safetensors, else of the ONNX graphs."""
    if card.weights_hash is not None:
        return card.weights_hash
    if weights := find_weights(folder):
        return hash_files(weights)
    graphs = find_graphs(folder, card)
    if graphs is None:
        raise ModelError(f"{folder} has neither model.safetensors nor ONNX graphs.")
    return hash_files(graphs.values())


def default_model_name(*, confirm: Callable[[str], bool] | None) -> tuple[str, str | None]:
    """The model of a new library, and one line to tell the user where it isn't the one we would choose.

    `ViT-B-32/openai` if it can run now without network; else, where `confirm` is given (at a terminal) and the hub
    answers, the user is asked once, with the size, and the model is fetched on yes; else `starter`.
    """
    card = find_card(DEFAULT_MODEL)
    if is_available(card):
        return DEFAULT_MODEL, None
    if confirm is not None and _fetch_if_confirmed(card, confirm):
        return DEFAULT_MODEL, None
    return (
        STARTER,
        f"Using the small model `starter`; for much better results run: sightline models pull {DEFAULT_MODEL}",
    )


def _fetch_if_confirmed(card: ModelCard, confirm: Callable[[str], bool]) -> bool:
    from sightline.core.models import hub

    choice = best_choice(card)
    if not hub.hub_answers(choice.repo, timeout_s=_PROBE_TIMEOUT_S):
        return False
    size_bytes = card.size_bytes or hub.download_size(choice.repo, revision=choice.revision, patterns=choice.patterns)
    if not confirm(f"Download {card.name} ({size_bytes / 1e6:.0f} MB) from the Hugging Face hub?"):
        return False
    resolve_folder(card, download=True)
    return True


def _load_torch(card: ModelCard, folder: Path) -> Encoder:
    require_torch(card, folder)
    from sightline.core.models.torch_encoder import TorchEncoder

    return TorchEncoder.load(card, folder, weights_hash=weights_hash(card, folder))

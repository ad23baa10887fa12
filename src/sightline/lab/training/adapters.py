"""LoRA: small trainable matrices beside the frozen projections of transformers' CLIP and SigLIP towers.

Needs peft, of the extra `train`. Hu et al. 2021, arXiv:2106.09685: `W x + (alpha / rank) * B A x`, with B zero at the
start, so that a model with new adapters gives the very vectors that it gave before.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sightline.errors import InputError, TrainingError, install_advice

if TYPE_CHECKING:
    from torch import nn

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""The projections of attention and MLP in each layer of a tower, by transformers' names."""

FAMILIES = ("clip", "siglip")

_ALWAYS_TRAINED = re.compile(r"(?:^|\.)logit_(?:scale|bias)$")
_PROJECTIONS = re.compile(r"(?:^|\.)(?:visual_projection|text_projection|text_model\.head)\.")


def add_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    train_projections: bool = False,
) -> list[str]:
    """Put adapters into both towers, freeze all else but the logit scale and bias, and name the trainable tensors.

    The model is changed in place. `targets` are names out of `TARGETS`, all where None. `train_projections` trains the
    projections into the joint space too. A's start is drawn from torch's generator.

    Raises:
        InputError: a rank, alpha, dropout or target that can't be.
        TrainingError: peft isn't installed, the model isn't transformers' CLIP or SigLIP, or has adapters already.
    """
    _check_model(model)
    names = _check_options(rank=rank, alpha=alpha, dropout=dropout, targets=targets)
    peft = _import_peft()
    # SigLIP's pooling attention is left out: it is torch's fused module, which reads its weights past any adapter.
    pattern = rf".*\.encoder\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(names)})"
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern), model
    )
    model.train(model.training)  # peft's new modules would drop out in a model that is set to evaluation
    for name, parameter in model.named_parameters():
        trained = ".lora_" in name or _ALWAYS_TRAINED.search(name)
        parameter.requires_grad_(bool(trained or (train_projections and _PROJECTIONS.search(name))))
    return trainable_names(model)


def merge_lora(model: nn.Module) -> nn.Module:
    """A copy whose weights hold what the adapters learned: a plain model again, in transformers' own layout.

    The model itself stays as it is, so that training goes on after a checkpoint. Every tensor of the copy requires a
    gradient, as in a model that was loaded.

    Raises:
        TrainingError: peft isn't installed, or the model has no adapters.
    """
    layer_class = _import_peft().tuners.lora.LoraLayer
    merged: Any = copy.deepcopy(model)
    layers = {name: module for name, module in merged.named_modules() if isinstance(module, layer_class)}
    if not layers:
        raise TrainingError(f"{type(model).__name__} has no LoRA adapters to merge.")
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, layer.get_base_layer())
    merged.__dict__.pop("peft_config", None)
    plain: nn.Module = merged.requires_grad_(True)
    return plain


def has_lora(model: nn.Module) -> bool:
    """Whether `add_lora` put adapters into the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def trainable_names(model: nn.Module) -> list[str]:
    """The tensors that a step changes: with the start's weights they are all that a checkpoint must hold."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise TrainingError(f"LoRA needs peft, of the extra train: {install_advice('train')}") from error
    return peft


def _check_model(model: nn.Module) -> None:
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family in ("sightline-clip", "sightline-lite-clip"):
        raise TrainingError(
            "LoRA adapts the linear projections of transformer towers; a convolutional image tower has none, and is so "
            "small that training it wholly costs little. Train without LoRA, or freeze the image tower."
        )
    if family not in FAMILIES:
        raise TrainingError(
            f"LoRA is for transformers' {' and '.join(FAMILIES)} models; this is a {type(model).__name__}."
        )
    if has_lora(model):
        raise TrainingError("The model has LoRA adapters already; merge them first.")


def _check_options(*, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None) -> tuple[str, ...]:
    if rank < 1:
        raise InputError(f"LoRA's rank must be at least 1, got {rank}; 4 to 32 is usual.")
    if not alpha > 0:
        raise InputError(f"LoRA's alpha must be above 0, got {alpha}; twice the rank is usual.")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"LoRA's dropout must lie in [0, 1), got {dropout}.")
    names = TARGETS if targets is None else tuple(targets)
    if not names or (unknown := [name for name in names if name not in TARGETS]):
        what = f"LoRA can't adapt {', '.join(unknown)}" if names else "LoRA needs at least one target"
        raise InputError(f"{what}; the targets are {', '.join(TARGETS)}.")
    return names

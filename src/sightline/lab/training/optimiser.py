"""AdamW with a parameter group for each tower, depth and kind of tensor, and what is trained at all.

Understands the names of transformers' CLIPModel and SiglipModel and of our own `ConvClip` and `LiteClip`, also inside a
wrapper (`model.`, `module.`) and with LoRA adapters in them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import nn

from sightline.errors import InputError, TrainingError

Tower = Literal["image", "text", "both"]

_WHOLE: dict[Tower, str] = {"image": "image tower", "text": "text tower", "both": "shared"}

_TOWER = re.compile(
    r"(?:^|\.)(?:(?P<image>vision_model|visual_projection|image_tower|image_projection)"
    r"|text_model|text_projection|text_tower)\."
)
_LAYER = re.compile(r"(?:^|\.)(?:encoder\.layers|image_tower\.blocks|text_tower\.layers)\.(?P<index>\d+)\.")
_EMBEDDINGS = re.compile(
    r"(?:^|\.)(?:embeddings|pre_layrnorm|image_tower\.stem|text_tower\.(?:tokens|positions))(?:\.|$)"
)
# The probe is SigLIP's query for pooling: one learned token, as a class token is.
_NO_DECAY = re.compile(r"(?:^|\.)(?:position_embedding|positions|class_embedding|probe)(?:\.|$)")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW's settings (Loshchilov and Hutter 2019, arXiv:1711.05101); the defaults are those of CLIP's ViTs."""

    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    image_lr_scale: float = 1.0
    """Multiplies the learning rate of the image tower and its projection."""
    text_lr_scale: float = 1.0
    layer_decay: float = 1.0
    """Each layer learns this much slower than the one above it (Bao et al. 2022, BEiT, arXiv:2106.08254); 1 is off."""

    def __post_init__(self) -> None:
        """Refuse what AdamW can't do. Raises InputError."""
        for name in ("weight_decay", "image_lr_scale", "text_lr_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be two numbers in [0, 1), got {self.betas}.")
        if not self.epsilon > 0:
            raise InputError(f"epsilon must be above 0, got {self.epsilon}.")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must lie in (0, 1], got {self.layer_decay}; 0.75 is usual, 1 turns it off.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that JSON holds. Raises InputError for an unknown key or a value out of range."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"Unknown optimiser key {', '.join(unknown)}. Valid keys: {', '.join(sorted(known))}.")
        betas = {"betas": tuple(values["betas"])} if "betas" in values else {}
        return cls(**{**values, **betas})


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor sits: its tower, and how many layers lie above it (0 is the head)."""

    tower: Tower
    distance: int
    part: str


def make_optimiser(
    model: nn.Module, *, learning_rate: float, config: OptimiserConfig | None = None
) -> torch.optim.AdamW:
    """AdamW over every tensor that requires a gradient, each in exactly one group.

    A group has `lr_scale`, the factor on the schedule's rate that `set_learning_rate` applies, and a readable `name`.
    Biases, norms, positions, learned tokens and the logit scale and bias aren't decayed. With `layer_decay` d, a tensor
    with n layers above it gets `d ** n`: heads and projections 1, embeddings least, a name that isn't known 1.

    Raises:
        TrainingError: nothing requires a gradient.
    """
    config = config or OptimiserConfig()
    depths = _count_layers(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = _find_place(name, depths)
        decayed = parameter.ndim > 1 and not _NO_DECAY.search(name)
        part = place.part if config.layer_decay < 1 else _WHOLE[place.tower]
        label = f"{part}, {'decayed' if decayed else 'not decayed'}"
        if label not in groups:
            scale = _tower_scale(place.tower, config) * config.layer_decay**place.distance
            decay = config.weight_decay if decayed else 0.0
            groups[label] = {"name": label, "params": [], "lr_scale": scale, "weight_decay": decay}
        groups[label]["params"].append(parameter)
    if not groups:
        raise TrainingError("Nothing of the model is trained: every tensor is frozen. Freeze less.")
    optimiser = torch.optim.AdamW(list(groups.values()), lr=learning_rate, betas=config.betas, eps=config.epsilon)
    set_learning_rate(optimiser, learning_rate)
    return optimiser


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group `learning_rate` times its own `lr_scale`: called before each step with the schedule's rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]


def describe_groups(optimiser: torch.optim.Optimizer) -> list[str]:
    """A line for each group: its name, tensors, parameters, factor on the learning rate, weight decay."""
    lines = []
    for group in optimiser.param_groups:
        count = sum(parameter.numel() for parameter in group["params"])
        lines.append(
            f"{group['name']}: {count:,} parameters in {len(group['params'])} tensors, "
            f"learning rate x {group['lr_scale']:.3g}, weight decay {group['weight_decay']:g}"
        )
    return lines


def freeze_tower(model: nn.Module, tower: Literal["image", "text"], *, projection: bool = True) -> list[str]:
    """Lock a tower (the image tower: Zhai et al. 2022, LiT, arXiv:2111.07991) and name what was frozen.

    With its projection frozen too, its vectors stay what they are and only the other tower moves; a projection from a
    random start must be trained (`projection=False`). Batch norms stand still only under `set_training_mode`.

    Raises:
        TrainingError: the model has no such tower that we know.
    """
    frozen = []
    for name, parameter in model.named_parameters():
        found = _TOWER.search(name)
        if found is None or _tower_of(name) != tower or ("_projection." in found[0] and not projection):
            continue
        parameter.requires_grad_(False)
        frozen.append(name)
    if not frozen:
        raise TrainingError(f"{type(model).__name__} has no {tower} tower of a known name; it can't be frozen.")
    return frozen


def freeze_batch_norms(model: nn.Module) -> list[str]:
    """Take batch norms out of training and name them; `set_training_mode` then keeps their running statistics."""
    frozen = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)
            frozen.append(name)
    return frozen


def set_training_mode(model: nn.Module) -> None:
    """`model.train()`, but what is wholly frozen stays in evaluation mode: its batch norms and dropout stand still."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _tower_of(name: str) -> Tower:
    found = _TOWER.search(name)
    if not found:
        return "both"
    return "image" if found["image"] else "text"


def _tower_scale(tower: Tower, config: OptimiserConfig) -> float:
    return {"image": config.image_lr_scale, "text": config.text_lr_scale, "both": 1.0}[tower]


def _count_layers(model: nn.Module) -> dict[Tower, int]:
    """How many layers each tower has, frozen ones too: depth is the architecture's."""
    depths: dict[Tower, int] = {}
    for name, _ in model.named_parameters():
        if found := _LAYER.search(name):
            tower = _tower_of(name)
            depths[tower] = max(depths.get(tower, 0), int(found["index"]) + 1)
    return depths


def _find_place(name: str, depths: Mapping[Tower, int]) -> _Place:
    tower = _tower_of(name)
    depth = depths.get(tower, 0)
    if found := _LAYER.search(name):
        index = int(found["index"])
        return _Place(tower=tower, distance=depth - index, part=f"{tower} layer {index}")
    if _EMBEDDINGS.search(name):
        return _Place(tower=tower, distance=depth + 1, part=f"{tower} embeddings")
    return _Place(tower=tower, distance=0, part=_WHOLE[tower] if tower == "both" else f"{tower} head")

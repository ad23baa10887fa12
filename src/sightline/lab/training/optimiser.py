"""AdamW with a parameter group for each tower, depth and kind of tensor, what is frozen, and the weights' average.

Understands the names of transformers' CLIPModel and SiglipModel and of our own `ConvClip` and `LiteClip`, also inside a
wrapper (`model.`, `module.`) and with LoRA adapters in them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sightline.core.models.convolutional import Saved
from sightline.errors import TrainingError
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.towers import add_lora

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
_BETAS, _EPSILON = (0.9, 0.98), 1e-6  # as for CLIP's ViTs (Radford et al. 2021, table 18)
# The probe is SigLIP's query for pooling: one learned token, as a class token is.
_NO_DECAY = re.compile(r"(?:^|\.)(?:position_embedding|positions|class_embedding|probe)(?:\.|$)")


def choose_trained(model: nn.Module, config: TrainConfig) -> None:
    """Freeze what shall not learn, and make room for adapters. Raises TrainingError for what the model can't do."""
    if config.lora_rank:
        add_lora(model, rank=config.lora_rank)
    is_new = config.init is None
    if config.freeze_image:
        freeze_tower(model, "image", projection=not is_new)
    if config.freeze_text:
        freeze_tower(model, "text", projection=not is_new)
    if config.freeze_norm:
        freeze_batch_norms(model)
    if config.gradient_checkpointing:
        if isinstance(model, Saved):
            raise TrainingError(
                "gradient_checkpointing runs each layer twice, and batch norm would count each batch twice. It is for "
                "ViTs; here a smaller batch_size, or freeze_norm with chunk_size, saves memory."
            )
        enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    set_training_mode(model)


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over what requires a gradient, each tensor in one group.

    A group has `lr_scale`, the factor on the schedule's rate that `set_learning_rate` applies, and a readable `name`.
    Biases, norms, positions, learned tokens and the logit scale and bias aren't decayed. With `layer_decay` d, a tensor
    with n layers above it gets `d ** n` (Bao et al. 2022, BEiT, arXiv:2106.08254): heads and projections 1, embeddings
    least, a name that isn't known 1.

    Raises TrainingError where nothing requires a gradient.
    """
    depths = _count_layers(model)
    tower_scales = {"image": config.image_lr_factor, "text": config.text_lr_factor, "both": 1.0}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tower, distance, group = _find_place(name, depths)
        decayed = parameter.ndim > 1 and not _NO_DECAY.search(name)
        part = group if config.layer_decay < 1 else _WHOLE[tower]
        label = f"{part}, {'decayed' if decayed else 'not decayed'}"
        if label not in groups:
            scale = tower_scales[tower] * config.layer_decay**distance
            decay = config.weight_decay if decayed else 0.0
            groups[label] = {"name": label, "params": [], "lr_scale": scale, "weight_decay": decay}
        groups[label]["params"].append(parameter)
    if not groups:
        raise TrainingError("Nothing of the model is trained: every tensor is frozen. Freeze less.")
    optimiser = torch.optim.AdamW(list(groups.values()), lr=config.lr, betas=_BETAS, eps=_EPSILON)
    set_learning_rate(optimiser, config.lr)
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


def freeze_tower(model: nn.Module, tower: Literal["image", "text"], *, projection: bool = True) -> None:
    """Lock a tower (the image tower: Zhai et al. 2022, LiT, arXiv:2111.07991).

    With its projection frozen too, its vectors stay what they are and only the other tower moves; a projection from a
    random start must be trained (`projection=False`). Batch norms stand still only under `set_training_mode`. Raises
    TrainingError where the model has no such tower that we know.
    """
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if (match := _TOWER.search(name))
        and _tower_of(name) == tower
        and (projection or "_projection." not in match[0])
    ]
    if not found:
        raise TrainingError(f"{type(model).__name__} has no {tower} tower of a known name; it can't be frozen.")
    for parameter in found:
        parameter.requires_grad_(False)


def freeze_batch_norms(model: nn.Module) -> None:
    """Take batch norms out of training; `set_training_mode` then keeps their running statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)


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


def _count_layers(model: nn.Module) -> dict[Tower, int]:
    """The number of each tower's layers, frozen ones too: depth is the architecture's."""
    depths: dict[Tower, int] = {}
    for name, _ in model.named_parameters():
        if found := _LAYER.search(name):
            tower = _tower_of(name)
            depths[tower] = max(depths.get(tower, 0), int(found["index"]) + 1)
    return depths


def _find_place(name: str, depths: Mapping[Tower, int]) -> tuple[Tower, int, str]:
    """A tensor's tower, how many layers lie above it (0 is the head), and the name of its part."""
    tower = _tower_of(name)
    depth = depths.get(tower, 0)
    if found := _LAYER.search(name):
        index = int(found["index"])
        return tower, depth - index, f"{tower} layer {index}"
    if _EMBEDDINGS.search(name):
        return tower, depth + 1, f"{tower} embeddings"
    return tower, 0, _WHOLE[tower] if tower == "both" else f"{tower} head"


class WeightAverage:
    """The average of a module's trainable tensors over its steps, in fp32 (Polyak averaging with exponential decay).

    Frozen tensors are the module's own. Buffers (a batch norm's running statistics) are averages already and
    are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the module's weights, with a decay in (0, 1)."""
        self.decay = decay
        self._average = {name: value.detach().float().clone() for name, value in _trainable(module).items()}
        self._kept = self._average | {name: value.detach().clone() for name, value in _buffers(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> float:
        """Take in the weights after update number `step`, counted from 0; the decay that was used.

        `min(decay, (1 + step) / (10 + step))`: early weights, which are bad, are soon forgotten (as TensorFlow's
        ExponentialMovingAverage does with `num_updates`).
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        current = _trainable(module) | _buffers(module)
        _check_names(self._kept, current, "module")
        for name, kept in self._kept.items():
            if name in self._average:
                kept.lerp_(current[name].detach().to(kept), 1.0 - decay)
            else:
                kept.copy_(current[name])
        return decay

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with averaged weights inside the block, and bit for bit its own again after it.

        Tensors are changed in place, so an optimiser goes on with the same ones.
        """
        own = _trainable(module) | _buffers(module)
        _check_names(self._kept, own, "module")
        before = {name: value.detach().clone() for name, value in own.items()}
        try:
            _copy(self._kept, own)
            yield
        finally:
            _copy(before, own)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all tensors, fit for safetensors; the decay is the config's."""
        return {name: value.clone() for name, value in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave. Raises TrainingError where names or shapes are of another model."""
        _check_names(self._kept, state, "checkpoint")
        for name, value in self._kept.items():
            if value.shape != state[name].shape:
                raise TrainingError(
                    f"The averaged weights of the checkpoint have {name} as {tuple(state[name].shape)}, the model has "
                    f"{tuple(value.shape)}; they are of another model."
                )
        _copy(state, self._kept)


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that are saved: not the constants that a module makes anew."""
    saved = module.state_dict(keep_vars=True)
    return {name: value for name, value in module.named_buffers() if name in saved}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)


def _check_names(own: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
    if differing := sorted(set(own) ^ set(other)):
        raise TrainingError(
            f"The averaged weights don't fit the {what}: {len(differing)} tensors are in one only "
            f"({', '.join(differing[:3])}). Freeze, or add adapters, before the average is made."
        )

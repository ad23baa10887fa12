"""An exponential moving average of the weights, which often evaluates better than the last weights do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sightline.errors import InputError, TrainingError


class WeightAverage:
    """The average of a module's trainable tensors over its steps, in fp32 (Polyak averaging with exponential decay).

    Frozen tensors are the module's own. Buffers (a batch norm's running statistics) are averages already and
    are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the module's weights. Raises InputError for a decay outside (0, 1)."""
        if not 0.0 < decay < 1.0:
            raise InputError(f"The decay of averaged weights must lie in (0, 1), got {decay}; 0.999 is usual.")
        self.decay = decay
        self._average = {name: value.detach().float().clone() for name, value in _trainable(module).items()}
        self._buffers = {name: value.detach().clone() for name, value in _buffers(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> float:
        """Take in the weights after update number `step`, counted from 0; the decay that was used.

        `min(decay, (1 + step) / (10 + step))`: early weights, which are bad, are soon forgotten (as TensorFlow's
        ExponentialMovingAverage does with `num_updates`).
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        current = {**_trainable(module), **_buffers(module)}
        _check_names({**self._average, **self._buffers}, current, "module")
        for name, average in self._average.items():
            average.lerp_(current[name].detach().to(average), 1.0 - decay)
        for name, buffer in self._buffers.items():
            buffer.copy_(current[name])
        return decay

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with averaged weights inside the block, and bit for bit its own again after it.

        Tensors are changed in place, so an optimiser goes on with the same ones.
        """
        own = {**_trainable(module), **_buffers(module)}
        averaged = {**self._average, **self._buffers}
        _check_names(averaged, own, "module")
        before = {name: value.detach().clone() for name, value in own.items()}
        try:
            _copy(averaged, own)
            yield
        finally:
            _copy(before, own)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all tensors, fit for safetensors; the decay is the config's."""
        return {name: value.clone() for name, value in {**self._average, **self._buffers}.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave. Raises TrainingError where names or shapes are of another model."""
        own = {**self._average, **self._buffers}
        _check_names(own, state, "checkpoint")
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise TrainingError(
                    f"The averaged weights of the checkpoint have {name} as {tuple(state[name].shape)}, the model has "
                    f"{tuple(value.shape)}; they are of another model."
                )
        _copy(state, own)


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

"""What every training stage shares: a JSON-lines log, atomic resumable checkpoints, and the learning-rate schedule."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Log:
    """Appends one JSON object a line to a file and prints it; each line carries the seconds since this start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.monotonic()

    def write(self, **values: Any) -> None:
        """Append one line."""
        line = json.dumps({"elapsed_s": round(time.monotonic() - self.started, 1), **values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def save_checkpoint(path: Path, **state: Any) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where there is none. Tensors and plain values only: no pickled code runs."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def one_cycle(step: int, n_steps: int, peak: float, *, warm_fraction: float = 0.1) -> float:
    """The learning rate at `step`: a linear rise over `warm_fraction`, then half a cosine down to zero.

    A pure function of the step, so a resumed run needs no schedule state beyond the step itself.
    """
    n_warm = max(1, round(warm_fraction * n_steps))
    if step < n_warm:
        return peak * (step + 1) / n_warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - n_warm) / max(1, n_steps - n_warm)))


class Training:
    """A resumable training loop's bookkeeping: seeds, learning rate, optimiser steps, a checkpoint for each epoch.

    An epoch's random numbers depend on the seed and the epoch alone, so a resumed run equals an unbroken one.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        *,
        epochs: int,
        steps: int,
        rate: float,
        seed: int,
    ) -> None:
        self.module, self.path, self.seed = module, path, seed
        self.n_epochs, self.n_steps, self.peak = epochs, steps, rate
        # Matrices, embeddings and convolutions are decayed; biases, norms and the logit scale are not.
        groups = [
            {
                "params": [parameter],
                "weight_decay": 0.05 if parameter.ndim > 1 else 0.0,
            }
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.n_done = 0
        if (state := load_checkpoint(path)) is not None:
            module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.n_done = int(state["epoch"])
        self.step = 0

    def epochs(self) -> Iterator[tuple[int, torch.Generator]]:
        """The epochs that aren't done yet, each with its generator; a checkpoint is written after each."""
        for epoch in range(self.n_done, self.n_epochs):
            self.step = epoch * self.n_steps
            torch.manual_seed(self.seed * 2000 + epoch)
            self.module.train()
            yield epoch, torch.Generator().manual_seed(self.seed * 1000 + epoch)
            state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
            save_checkpoint(self.path, epoch=epoch + 1, **state)

    def descend(self, loss: Tensor) -> None:
        """One optimiser step down `loss` at the schedule's rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = one_cycle(self.step, self.n_epochs * self.n_steps, self.peak)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1

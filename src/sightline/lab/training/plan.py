"""The numbers of a run that follow from its settings: counts of steps, each with its formula, and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sightline.lab.training.batches import Batches
from sightline.lab.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Counts of optimiser steps."""

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    eval_steps: int
    checkpoint_steps: int

    @classmethod
    def make(cls, config: TrainConfig, steps_per_epoch: int) -> TrainPlan:
        """The plan of a config whose data gives so many whole batches an epoch."""
        if config.samples_seen is None:
            total, counted = max(1, round(config.epochs * steps_per_epoch)), float(steps_per_epoch)
        else:
            total = max(1, round(config.samples_seen / config.batch_size))
            counted = total / config.epochs
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=min(total, round(config.warmup_fraction * total)),
            eval_steps=max(1, round(config.eval_epochs * counted)),
            checkpoint_steps=max(1, round(config.checkpoint_epochs * counted)),
        )

    def learning_rate(self, step: int, *, peak: float) -> float:
        """The rate for the update number `step`, counted from 0.

        Warm-up is linear: `peak * (step + 1) / warmup_steps`, so the first update already moves. Then the rate falls to
        nothing (Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, without restarts):
        `peak * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2`.
        """
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return peak * 0.5 * (1.0 + math.cos(math.pi * progress))

    def measures_after(self, done: int) -> bool:
        """True where the val pairs are measured when so many updates are done."""
        return done % self.eval_steps == 0 or done == self.total_steps

    def keeps_after(self, done: int) -> bool:
        """True where a checkpoint is written when so many updates are done."""
        return done % self.checkpoint_steps == 0 or done == self.total_steps


def describe_plan(config: TrainConfig, plan: TrainPlan, batches: Batches, *, world_size: int) -> list[str]:
    """A line for each derived number, with its formula."""
    usable, total, taken = len(batches.usable), len(batches.dataset), len(batches.order)
    captions = batches.captions
    lost = captions.n_lost / max(1, captions.n_tokens)
    share = config.batch_size // world_size
    if config.samples_seen is None:
        steps = f"round({config.epochs:g} epochs x {plan.steps_per_epoch:,})"
    else:
        epochs = plan.total_steps / plan.steps_per_epoch
        steps = f"round({config.samples_seen:,} samples / batch of {config.batch_size:,}), {epochs:.3g} epochs"
    lines = [
        f"pictures: {usable:,} usable of {total:,}; captions: {len(captions.ids_CL):,}",
        f"tokens lost to truncation: {captions.n_lost:,} of {captions.n_tokens:,} ({lost:.2%}), "
        f"texts longer than {captions.ids_CL.shape[1]} tokens are cut",
        f"steps an epoch: {plan.steps_per_epoch:,} = floor({taken:,} pictures / batch of {config.batch_size:,}); "
        f"{taken - plan.steps_per_epoch * config.batch_size:,} pictures wait for another epoch's order",
        f"steps: {plan.total_steps:,} = {steps}",
        f"warm-up steps: {plan.warmup_steps:,} = round({config.warmup_fraction:g} x {plan.total_steps:,})",
        f"samples seen: {plan.total_steps * config.batch_size:,} = {plan.total_steps:,} steps x {config.batch_size:,}",
        f"measured every {plan.eval_steps:,} steps, kept every {plan.checkpoint_steps:,}",
    ]
    if batches.dataset.sizes:
        first, *others = batches.dataset.sizes
        lines.append(
            f"pictures an epoch: {taken:,} = {config.data_repeats} x {first:,} + {' + '.join(f'{n:,}' for n in others)}"
            f"{'' if usable == total else ', without those that cannot be read'}"
        )
    if world_size > 1:
        lines.append(f"pictures a rank and step: {share:,} = {config.batch_size:,} / {world_size} ranks")
    if config.chunk_size and config.chunk_size < share:
        chunks = -(-share // config.chunk_size)
        lines.append(
            f"chunks a step: {chunks} = ceil({share:,} / {config.chunk_size:,}) (gradient caching: two passes)"
        )
    if batches.negatives is not None:
        lines.append(
            f"hard negatives: up to {config.negatives_per_caption} a caption, {len(batches.negatives.ids_CL):,} in all"
        )
    return lines

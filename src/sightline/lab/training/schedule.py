"""The learning rate of each step, and which ones are known to do harm. Pure functions of numbers."""

from __future__ import annotations

import math
from typing import get_args

from sightline.errors import InputError
from sightline.lab.training.config import ScheduleName

HARMFUL_VIT_LEARNING_RATE = 1e-4
VIT_FAMILIES = ("clip", "siglip")


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    shape: ScheduleName = "cosine",
    final_fraction: float = 0.0,
) -> float:
    """The rate for the update number `step`, counted from 0.

    Warm-up is linear: `peak * (step + 1) / warmup_steps`, so the first update already moves. Then `constant` stays, and
    `cosine` falls to `final_fraction * peak` (Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, without restarts):
    `peak * (f + (1 - f) * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2)`.
    From `total_steps` on the end stays.

    Raises:
        InputError: a count or fraction out of range, or a warm-up that is longer than the run.
    """
    _check(step=step, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps, final_fraction=final_fraction)
    if shape not in get_args(ScheduleName):
        raise InputError(f"There is no schedule {shape!r}; the schedules are {', '.join(get_args(ScheduleName))}.")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if shape == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def _check(*, step: int, peak: float, warmup_steps: int, total_steps: int, final_fraction: float) -> None:
    if step < 0 or total_steps < 1 or warmup_steps < 0:
        raise InputError(
            f"A schedule needs step >= 0, total_steps >= 1 and warmup_steps >= 0; got step {step}, total_steps "
            f"{total_steps}, warmup_steps {warmup_steps}."
        )
    if not (peak > 0 and math.isfinite(peak)):
        raise InputError(f"The learning rate must be above 0, got {peak}.")
    if not 0.0 <= final_fraction <= 1.0:
        raise InputError(f"final_fraction must lie in [0, 1], got {final_fraction}.")
    if warmup_steps > total_steps:
        raise InputError(
            f"A warm-up of {warmup_steps} steps is longer than the run of {total_steps}: it would end before the peak. "
            "Shorten the warm-up, or train for more epochs."
        )


def learning_rate_warning(peak: float, *, pretrained: bool, family: str, adapters: bool = False) -> str | None:
    """What to tell a user whose learning rate is known to destroy what a pretrained tower knows; None where it's fine.

    `peak` is the highest rate that a tower's own weights get. Adapters (LoRA) start as nothing and bear more; towers
    from a random start need more. The bound: OpenAI trained B/32 from scratch at 5e-4, and fine-tunings at 1e-4 lose
    what was learned within an epoch (open_clip#1093: image retrieval recall@10 from 43.2% to 17.0%, there with Lion,
    whose steps are larger than AdamW's).
    """
    if not pretrained or adapters or family not in VIT_FAMILIES or peak < HARMFUL_VIT_LEARNING_RATE:
        return None
    return (
        f"A learning rate of {peak:g} is known to destroy pretrained ViT towers within an epoch (open_clip#1093). "
        "Take 1e-5 (1e-6 to 3e-5 is usual), with layer-wise learning rates, LoRA or a frozen image tower where data is "
        "scarce."
    )

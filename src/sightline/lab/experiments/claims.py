"""What a study says of its results: each statement is checked against figures where it is made.

A full run of a notebook fails where a statement doesn't hold, so prose can't outlive its results; a smoke run, whose
figures mean nothing, checks only that the statements can be made. Shape suffixes: N results, G groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError, SightlineError
from sightline.lab.evaluation.results import Bootstrap, Mean, bootstrap_intervals

SMOKE_VARIABLE = "SIGHTLINE_SMOKE"


def is_smoke() -> bool:
    """Whether this is a smoke run: everything tiny, figures without meaning, claims not checked."""
    return os.environ.get(SMOKE_VARIABLE, "") not in ("", "0")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement with the figures that it rests on; notebooks show it as text."""

    text: str
    """A sentence, in Markdown."""
    holds: bool
    margin: float | None = None
    """How far the figure lies on the claimed side."""
    noise: float | None = None
    """What chance alone moves it by: half the width of its 95% interval."""

    def _repr_markdown_(self) -> str:
        return self.text if self.holds else f"**Not so in this run:** {self.text}"


class Claims:
    """The statements of one study, in the order they were made."""

    def __init__(self) -> None:
        self.made: list[Claim] = []

    def state(self, text: str, *, holds: bool = True, margin: float | None = None, noise: float | None = None) -> Claim:
        """Keep a statement and give it to be shown. With a margin it holds where that exceeds the noise (0 if none).

        A margin or noise that isn't a number never holds. Raises InputError for a noise without a margin, a negative
        noise, and a statement without words.
        """
        if not text.strip():
            raise InputError("A claim needs words.")
        if noise is not None and (margin is None or noise < 0):
            raise InputError(f"The noise of a claim ({noise}) must be 0 or more, and belongs to a margin ({margin}).")
        beyond = margin is None or margin > (noise or 0.0)  # false for NaN
        claim = Claim(text=text, holds=bool(holds) and beyond, margin=margin, noise=noise)
        self.made.append(claim)
        return claim

    @property
    def broken(self) -> list[Claim]:
        """Those that don't hold."""
        return [claim for claim in self.made if not claim.holds]

    def check(self) -> str:
        """How many statements hold, as a sentence. Raises SightlineError with those that don't, but in a smoke run."""
        if is_smoke():
            return f"A smoke run: {len(self.made)} claims were made, none checked."
        if self.broken:
            lines = "\n".join(f"- {claim.text} ({_figures(claim)})" for claim in self.broken)
            raise SightlineError(
                f"{len(self.broken)} of {len(self.made)} claims don't hold in this run; "
                f"mend the text, or what it says:\n{lines}"
            )
        measured = sum(claim.noise is not None for claim in self.made)
        return f"All {len(self.made)} claims of this notebook hold in this run, {measured} of them beyond noise."


def measure_noise(result_N: Sequence[float], group_N: Sequence[int] | None = None, *, seed: int = 0) -> float:
    """Half the width of the 95% interval of a mean, from resampling groups (default: each result its own).

    Results of one picture belong together: resampled one by one they would look surer than they are. Raises InputError
    for results and groups of different lengths, and for fewer than two groups, which tell nothing of noise.
    """
    if group_N is not None and len(group_N) != len(result_N):
        raise InputError(f"{len(result_N)} results need as many groups, not {len(group_N)}.")
    _, group = np.unique(np.arange(len(result_N)) if group_N is None else np.asarray(group_N), return_inverse=True)
    n_groups = int(group.max(initial=-1)) + 1
    mean = Mean(np.asarray(result_N, np.float64), group, n_groups)
    intervals = bootstrap_intervals({"mean": mean}, n_groups=n_groups, config=Bootstrap(resamples=4000, seed=seed))
    if not intervals:
        raise InputError(f"Noise can't be told from {n_groups} group; give two or more.")
    low, high = intervals["mean"]
    return (high - low) / 2


def _figures(claim: Claim) -> str:
    if claim.margin is None:
        return "a fact that isn't so"
    noise = "" if claim.noise is None else f", noise {claim.noise:.3g}"
    return f"margin {'not a number' if math.isnan(claim.margin) else f'{claim.margin:.3g}'}{noise}"

"""Fitting and judging probabilities that a hit is relevant: see `sightline.core.search.relevance`.

Pure numpy. Shape suffixes: N examples (hits, or queries), F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sightline.core.search.relevance import Context

_STEPS = 50
_SMALLEST_STEP = 1e-8
_PENALTY = 1.0
"""Of the squared coefficients of standardised features: the posterior's mode under a normal prior."""


@dataclass
class Examples:
    """Hits, and the best hit of each query, with their features and whether they are relevant."""

    hits: list[Mapping[str, Any]] = field(default_factory=list)
    hits_truth: list[NDArray[np.bool_]] = field(default_factory=list)
    queries: list[Mapping[str, Any]] = field(default_factory=list)
    queries_truth: list[bool] = field(default_factory=list)

    def add(self, context: Context, score_H: NDArray[np.float64], truth_H: NDArray[np.bool_], *, present: bool) -> None:
        """The first hits of one query, best first, which are relevant, and whether anything in the library is."""
        self.hits.append(_broadcast(context.features(score_H), len(score_H)))
        self.hits_truth.append(truth_H)
        self.queries.append(_broadcast(context.features(score_H[:1]), 1))
        self.queries_truth.append(present)

    def fit(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """A calibration by these features, as a card keeps it."""
        hit = fit_logistic(_stack(self.hits, names), np.concatenate(self.hits_truth))
        query = fit_logistic(_stack(self.queries, names), np.array(self.queries_truth))
        return {"hit": hit, "query": query}


def fit_logistic(features: Mapping[str, NDArray[np.float64]], truth_N: NDArray[np.bool_]) -> dict[str, float]:
    """Coefficients by name, and `constant`, of a logistic regression: Newton's method on the penalised likelihood.

    Raises InputError where all examples are of one kind.
    """
    if truth_N.all() or not truth_N.any():
        raise InputError("A calibration needs relevant examples and others; all of these are of one kind.")
    raw_NF = np.stack(list(features.values()), axis=1)
    mean_F, spread_F = raw_NF.mean(axis=0), raw_NF.std(axis=0) + 1e-12
    x_NF = np.concatenate([(raw_NF - mean_F) / spread_F, np.ones((len(raw_NF), 1))], axis=1)
    penalty_F = np.append(np.full(len(features), _PENALTY), 0.0)
    weight_F = np.zeros(len(penalty_F))
    for _ in range(_STEPS):
        p_N = 1 / (1 + np.exp(-np.clip(x_NF @ weight_F, -30, 30)))
        gradient_F = x_NF.T @ (p_N - truth_N) + penalty_F * weight_F
        hessian_FF = (x_NF * (p_N * (1 - p_N))[:, None]).T @ x_NF + np.diag(penalty_F + 1e-9)
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        weight_F -= step_F
        if np.abs(step_F).max() < _SMALLEST_STEP:
            break
    slopes_F = weight_F[:-1] / spread_F
    constant = float(weight_F[-1] - slopes_F @ mean_F)
    slopes = dict(zip(features, slopes_F.tolist(), strict=True))
    return {name: float(f"{value:.5g}") for name, value in {"constant": constant, **slopes}.items()}


def calibration_error(probability_N: NDArray[np.float64], truth_N: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Expected calibration error: in bins of equal width, how far the mean probability is from what is true.

    Each bin counts by its number of examples. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    bin_N = np.minimum((probability_N * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(bin_N, weights=probability_N - truth_N, minlength=bins))
    return float(gaps.sum() / len(probability_N))


def area_under_curve(positive_N: NDArray[np.float64], negative_N: NDArray[np.float64]) -> float:
    """AUROC: how often a positive example is above a negative one; ties count half."""
    both = np.concatenate([positive_N, negative_N])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = rank_N[: len(positive_N)].sum() - len(positive_N) * (len(positive_N) + 1) / 2
    return float(above / (len(positive_N) * len(negative_N)))


def _broadcast(features: Mapping[str, Any], count: int) -> Mapping[str, NDArray[np.float64]]:
    return {name: np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for name, value in features.items()}


def _stack(examples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([one[name] for one in examples]) for name in names}

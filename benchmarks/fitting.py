"""Fitting and judging probabilities that a hit is relevant: see `sightline.core.search.relevance`.

Shape suffixes: H hits of one query, N examples (hits, or queries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from sightline.core.search.relevance import Context


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
        hit = _fit(self.hits, np.concatenate(self.hits_truth), names)
        return {"hit": hit, "query": _fit(self.queries, np.array(self.queries_truth), names)}


def calibration_error(probability_N: NDArray[np.float64], truth_N: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Expected calibration error: in bins of equal width, how far the mean probability is from what is true.

    Each bin counts by its number of examples. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    bin_N = np.minimum((probability_N * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(bin_N, weights=probability_N - truth_N, minlength=bins))
    return float(gaps.sum() / len(probability_N))


def _fit(examples: Sequence[Mapping[str, Any]], truth_N: NDArray[np.bool_], names: Sequence[str]) -> dict[str, float]:
    """Coefficients by name, and `constant`, of a logistic regression on standardised features."""
    raw_NF = np.stack([np.concatenate([one[name] for one in examples]) for name in names], axis=1)
    mean_F, spread_F = raw_NF.mean(axis=0), raw_NF.std(axis=0) + 1e-12
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit((raw_NF - mean_F) / spread_F, truth_N)
    slope_F = model.coef_[0] / spread_F
    values = {"constant": model.intercept_[0] - slope_F @ mean_F, **dict(zip(names, slope_F, strict=True))}
    return {name: float(f"{value:.5g}") for name, value in values.items()}


def _broadcast(features: Mapping[str, Any], count: int) -> Mapping[str, NDArray[np.float64]]:
    return {name: np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for name, value in features.items()}

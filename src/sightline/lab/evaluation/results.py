"""Results of an evaluation: figures with their bootstrap intervals, and the ranks that most figures rest on.

Intervals come from resampling images, each with all that belongs to it: captions of one image are not independent, so
an interval from resampled captions would be too narrow. The candidates of a ranking stay the whole set: what is
resampled are the queries' results, so no similarity is computed twice. Percentile intervals: Efron and Tibshirani 1993,
"An Introduction to the Bootstrap", chapter 13.

Ranks are the one mechanism behind retrieval, zero-shot and probes. Ties are broken at random, and figures are the exact
mean over all their orders: embeddings that collapsed to one point score what chance scores, and no order of rows in a
file helps. Shape suffixes: N results, G groups (images), S resamples, Q queries, C candidates or classes, R relevant
candidates of one query, D dimension of the joint space.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.kit.files import replacing
from sightline.lab.data.base import Problem as Problem

Interval = tuple[float, float]
_DECIMALS = 6
"""Decimals of figures in JSON: finer than any difference that a data set can show."""
_CHUNK_CELLS = 1_000_000
"""Counts of groups held at a time; figures may need some of them for each of a group's results."""
TIE_TOLERANCE = 1e-6
"""Similarities closer than this, for rows of norm 1, are tied: float32 sums of equal rows differ by some 1e-7,
depending on how a batch was cut."""
_CHUNK_BYTES = 32 * 2**20
"""Similarities held at a time."""


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The figures of one model on one split. Rates are fractions in [0, 1]."""

    model: str
    data: str
    """Address of the data set: `flickr8k:PATH`."""
    split: str
    n_images: int
    n_texts: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Metric -> the ends of its bootstrap interval, where one was made."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides the figures or helps to read them, as JSON values: prompts, the C that was chosen."""
    problems: tuple[Problem, ...] = ()
    """Images that were left out."""
    took_s: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a figure that isn't finite, and for an interval of no metric."""
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise InputError(f"{name} of {self.model} on {self.data} is {value}, which is no result.")
        if strangers := sorted(set(self.intervals) - set(self.metrics)):
            raise InputError(f"Intervals of unknown metrics: {', '.join(strangers)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them: fixed keys first, the others only where there is something."""
        values: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "n_images": self.n_images,
            "n_texts": self.n_texts,
            "metrics": {name: round(value, _DECIMALS) for name, value in self.metrics.items()},
        }
        if self.intervals:
            values["intervals"] = {
                name: [round(low, _DECIMALS), round(high, _DECIMALS)] for name, (low, high) in self.intervals.items()
            }
        if self.details:
            values["details"] = dict(self.details)
        if self.problems:
            values["left_out"] = [{"id": problem.id, "reason": problem.reason} for problem in self.problems]
        if self.took_s is not None:
            values["took_s"] = round(self.took_s, 2)
        return values

    def rows(self) -> list[list[str]]:
        """Name, value and interval of each metric, as people read them."""
        rows = []
        for name, value in self.metrics.items():
            ends = [format_figure(name, end) for end in self.intervals.get(name, ())]
            rows.append([name, format_figure(name, value), " to ".join(ends)])
        return rows


RATES = ("recall", "acc", "compose", "winoground", "pointing")
"""Words in the names of metrics that are shown in percent."""


def format_figure(metric: str, value: float) -> str:
    """A metric's value as people read it: rates in percent, ranks with one decimal."""
    if any(word in metric for word in RATES):
        return f"{value:.1%}"
    return f"{value:.1f}" if metric.endswith("_rank") else f"{value:.3f}"


_BENCHMARK_SETS = {
    "imagenet": "imagenet1k",
    "coco": "mscoco_captions",
    "pets": "vtab/pets",
    "dtd": "vtab/dtd",
    "sugarcrepe": "sugar_crepe",
}
"""Our kinds of data -> CLIP_benchmark's names, where they differ."""
_BENCHMARK_TASKS = {
    "retrieval": "zeroshot_retrieval",
    "zeroshot": "zeroshot_classification",
    "linear-probe": "linear_probe",
    "captions": "captioning",
    "compose": "image_caption_selection",
}
_BENCHMARK_COLUMNS = ("model", "pretrained", "model_fullname", "dataset", "task", "language")


def append_benchmark_row(path: Path, result: EvalResult, *, measure: str) -> None:
    """Add a result to a CSV with the columns that `clip_benchmark build` writes; the file is made where it is missing.

    A model `ViT-B-32/openai` is its `model` and `pretrained`; metrics are columns under their names, those of a linear
    probe with `lp_` in front. Raises InputError for a file with other columns.
    """
    name, slash, weights = result.model.partition("/")
    model, pretrained = (result.model, "") if ":" in name or not slash else (name, weights)
    kind = result.data.partition(":")[0]
    facts = (model, pretrained, f"{model} {pretrained}".strip(), _BENCHMARK_SETS.get(kind, kind))
    row = dict(zip(_BENCHMARK_COLUMNS, (*facts, _BENCHMARK_TASKS.get(measure, measure), "en"), strict=True))
    prefix = "lp_" if measure == "linear-probe" else ""
    row |= {f"{prefix}{metric}": f"{value:.6f}" for metric, value in result.metrics.items()}
    rows = [row]
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            earlier = list(csv.DictReader(file))
        if earlier and not set(_BENCHMARK_COLUMNS) <= earlier[0].keys():
            raise InputError(f"{path} has other columns than {', '.join(_BENCHMARK_COLUMNS)}. Name another file.")
        rows = [*earlier, row]
    columns = dict.fromkeys((*_BENCHMARK_COLUMNS, *(column for one in rows for column in one)))
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of intervals; no resamples, no intervals."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for settings that make no interval."""
        if self.resamples < 0:
            raise InputError(f"resamples must be 0 (no intervals) or more, got {self.resamples}.")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence must lie between 0 and 1, got {self.confidence}.")
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}.")


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Counts of each group's draws (S, G) -> the figure of each resample (S,)."""


def mean_of(result_N: NDArray[Any], group_N: NDArray[np.int64], n_groups: int) -> Statistic:
    """The mean of the results of all drawn groups, NaN where no group with a result was drawn."""
    sum_G = np.bincount(group_N, weights=result_N, minlength=n_groups)
    count_G = np.bincount(group_N, minlength=n_groups).astype(np.float64)

    def of(counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray((counts_SG @ sum_G) / (counts_SG @ count_G))

    return of


def median_of(result_N: NDArray[np.float64], group_N: NDArray[np.int64]) -> Statistic:
    """The median of the results of all drawn groups: the mean of the two middle ones where they are two."""
    order_N = np.argsort(result_N, kind="stable")
    result_N, group_N = result_N[order_N], group_N[order_N]

    def of(counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        reached_SN = np.cumsum(counts_SG[:, group_N], axis=1)
        half_S1 = reached_SN[:, -1:] / 2
        lower_S, upper_S = (reached_SN >= half_S1).argmax(axis=1), (reached_SN > half_S1).argmax(axis=1)
        return np.asarray((result_N[lower_S] + result_N[upper_S]) / 2)

    return of


def mean_of_classes(result_G: NDArray[np.float64], class_G: NDArray[np.int64]) -> Statistic:
    """The mean, over the classes that were drawn, of the mean result in each; a group has one result and one class."""
    order_G = np.argsort(class_G, kind="stable")
    result_G = result_G[order_G]
    _, start_C = np.unique(class_G[order_G], return_index=True)

    def of(counts_SG: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered_SG = counts_SG[:, order_G]
        count_SC = np.add.reduceat(ordered_SG, start_C, axis=1)
        sum_SC = np.add.reduceat(ordered_SG * result_G, start_C, axis=1)
        return np.asarray((sum_SC / np.maximum(count_SC, 1)).sum(axis=1) / (count_SC > 0).sum(axis=1))

    return of


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of one measurement by name, each told once: of all groups it is the metric, of resamples its interval."""

    statistics: Mapping[str, Statistic]
    n_groups: int

    @classmethod
    def means(cls, results: Mapping[str, NDArray[Any]]) -> Figures:
        """The means of results of which each group has one."""
        n_groups = len(next(iter(results.values()), ()))
        group_N = np.arange(n_groups)
        return cls(
            statistics={name: mean_of(result_N, group_N, n_groups) for name, result_N in results.items()},
            n_groups=n_groups,
        )

    def metrics(self) -> dict[str, float]:
        """Each figure of all groups."""
        once_1G = np.ones((1, self.n_groups))
        return {name: float(statistic(once_1G)[0]) for name, statistic in self.statistics.items()}

    def intervals(self, config: Bootstrap | None = None) -> dict[str, Interval]:
        """The interval of each figure that holds the middle `confidence` of its resamples; same seed, same intervals.

        One group says nothing of how groups vary, so there is no interval then, nor without resamples.
        """
        config = config or Bootstrap()
        if config.resamples == 0 or self.n_groups < 2:
            return {}
        drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.statistics}
        for counts_SG in _draw(self.n_groups, config):
            for name, statistic in self.statistics.items():
                drawn[name].append(statistic(counts_SG))
        tail = (1 - config.confidence) / 2
        intervals = {}
        for name, parts in drawn.items():
            figures_S = np.concatenate(parts)
            known_S = figures_S[~np.isnan(figures_S)]
            if len(known_S):
                low, high = np.quantile(known_S, (tail, 1 - tail))
                intervals[name] = (float(low), float(high))
        return intervals


def summarise(figures: Iterable[Figures], config: Bootstrap) -> tuple[dict[str, float], dict[str, Interval]]:
    """The metrics of several measurements together, and their intervals."""
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for one in figures:
        metrics |= one.metrics()
        intervals |= one.intervals(config)
    return metrics, intervals


def _draw(n_groups: int, config: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """Resamples in chunks: how often each group was drawn in `n_groups` draws with replacement."""
    rng = np.random.default_rng(config.seed)
    at_once = max(1, _CHUNK_CELLS // n_groups)
    for start in range(0, config.resamples, at_once):
        rows = min(at_once, config.resamples - start)
        drawn = [np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups) for _ in range(rows)]
        yield np.stack(drawn).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each query, where its best relevant candidate stands; the rest follows from these counts."""

    better_Q: NDArray[np.int64]
    """Irrelevant candidates that are strictly more similar than the best relevant one."""
    tied_Q: NDArray[np.int64]
    """Irrelevant candidates tied with the best relevant one."""
    relevant_Q: NDArray[np.int64]
    """Relevant candidates tied for best, that one included: at least 1."""
    average_precision_Q: NDArray[np.float64]
    """Average precision over all relevant candidates of the query."""

    def __len__(self) -> int:
        return len(self.better_Q)

    @property
    def expected_ranks(self) -> NDArray[np.float64]:
        """Expected rank (Q,) of the first relevant candidate, from 1.

        The first of r marked items among n in random order stands at (n + 1) / (r + 1) on average.
        """
        among_Q = self.relevant_Q + self.tied_Q
        expected_Q: NDArray[np.float64] = self.better_Q + (among_Q + 1) / (self.relevant_Q + 1)
        return expected_Q

    def found_at(self, k: int) -> NDArray[np.float64]:
        """Probability (Q,) that the first k candidates hold a relevant one: 0 or 1 where nothing is tied.

        With j places left for r relevant and t others that are tied, 1 - C(t, j) / C(r + t, j). Raises InputError for
        k below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        places_Q = np.clip(k - self.better_Q, 0, None)
        missed_Q = np.ones(len(self))
        for nth in range(int(self.relevant_Q.max(initial=0))):  # C(t, j) / C(r + t, j), one relevant item at a time
            among_Q = self.tied_Q + nth + 1
            factor_Q = np.clip((among_Q - places_Q) / among_Q, 0.0, 1.0)
            missed_Q = np.where(nth < self.relevant_Q, missed_Q * factor_Q, missed_Q)
        return 1.0 - missed_Q


def rank_embeddings(
    query_QD: NDArray[np.float32], candidate_CD: NDArray[np.float32], relevant: Sequence[NDArray[np.int64]]
) -> Ranks:
    """Ranks of each query's `relevant` candidates (indices, at least one) by dot product, in chunks of queries.

    For normalised rows that is the cosine. Values must be finite.
    """
    rows = max(1, _CHUNK_BYTES // (4 * max(1, len(candidate_CD))))
    tolerance = TIE_TOLERANCE * _longest(query_QD) * _longest(candidate_CD)
    parts = [
        rank_similarities(query_QD[start : start + rows] @ candidate_CD.T, relevant[start : start + rows], tolerance)
        for start in range(0, len(query_QD), rows)
    ]
    return Ranks(**{each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Ranks)})


def rank_similarities(
    similarity_QC: NDArray[np.floating], relevant: Sequence[NDArray[np.int64]], tolerance: float
) -> Ranks:
    """Ranks of each query's `relevant` candidates in its row of similarities."""
    sorted_QC = np.sort(similarity_QC, axis=1)
    rows = [
        _rank_row(sorted_C, np.sort(similarity_C[own_R])[::-1], tolerance)
        for sorted_C, similarity_C, own_R in zip(sorted_QC, similarity_QC, relevant, strict=True)
    ]
    better, tied, own, precision = zip(*rows, strict=True)
    return Ranks(
        better_Q=np.array(better, np.int64),
        tied_Q=np.array(tied, np.int64),
        relevant_Q=np.array(own, np.int64),
        average_precision_Q=np.array(precision, np.float64),
    )


def require_finite_rows(values_ND: NDArray[np.floating], *, what: str) -> None:
    """Raises InputError naming the first row that holds NaN or infinity: rankings with NaN are silently wrong."""
    bad_N = ~np.isfinite(values_ND).reshape(len(values_ND), -1).all(axis=1)
    if bad_N.any():
        raise InputError(
            f"Row {int(bad_N.argmax())} of the {what} holds NaN or infinity ({int(bad_N.sum())} of {len(bad_N)} rows "
            "do). No ranking of such values means anything; find what made them."
        )


def _rank_row(
    sorted_C: NDArray[np.floating], own_R: NDArray[np.floating], tolerance: float
) -> tuple[int, int, int, float]:
    """One query: all similarities from the least up, those of relevant candidates from the greatest down."""
    precisions, before = 0.0, 0
    first: tuple[int, int, int] | None = None
    for high, low, count in _tied_groups(own_R, tolerance):
        # of the array's own type: else searchsorted would copy the whole row to float64
        top, bottom = sorted_C.dtype.type(high + tolerance), sorted_C.dtype.type(low - tolerance)
        above = len(sorted_C) - int(sorted_C.searchsorted(top, side="right"))
        level = len(sorted_C) - int(sorted_C.searchsorted(bottom, side="left")) - above
        first = first or (above, level - count, count)
        precisions += _expected_precisions(above, level, relevant=count, relevant_before=before)
        before += count
    assert first is not None  # every query has something relevant
    return (*first, precisions / len(own_R))


def _tied_groups(own_R: NDArray[np.floating], tolerance: float) -> Iterator[tuple[float, float, int]]:
    """Runs of descending values in which neighbours are tied: greatest, least, length."""
    start = 0
    for end in range(1, len(own_R) + 1):
        if end == len(own_R) or own_R[end - 1] - own_R[end] > tolerance:
            yield float(own_R[start]), float(own_R[end - 1]), end - start
            start = end


def _expected_precisions(above: int, level: int, *, relevant: int, relevant_before: int) -> float:
    """Sum of the precisions at the relevant ones of `level` tied candidates, averaged over their orders.

    McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied
    scores", section 2.4: the candidate at place i is relevant with probability r / n, and of the i - 1 tied ones before
    it (i - 1)(r - 1) / (n - 1) are.
    """
    if level == 1:
        return (relevant_before + 1) / (above + 1)
    place_L = np.arange(1, level + 1)
    relevant_so_far_L = relevant_before + 1 + (place_L - 1) * (relevant - 1) / (level - 1)
    return float((relevant_so_far_L / (above + place_L)).sum() * relevant / level)


def _longest(rows_ND: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(rows_ND, axis=1).max(initial=0.0))

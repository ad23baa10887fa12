"""How a comparison's models and figures are written, in tables of the terminal and of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from sightline.evaluation.agreement_matrix import AgreementMatrix
from sightline.evaluation.comparison import ModelRow

RANDOM = "random weights"
_RATES = ("recall", "acc", "compose")
"""What is shown in percent: metrics whose name has one of these words."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Short names of models: of folders, only as much of the path as tells them apart."""

    short: Mapping[str, str]

    @classmethod
    def of(cls, names: Sequence[str]) -> Labels:
        """Raises nothing: names that no shortening tells apart stay whole."""
        short = {name: _shorten(name, parts=1) for name in names}
        for parts in (2, 3):
            taken = list(short.values())
            short = {name: _shorten(name, parts=parts) if taken.count(own) > 1 else own for name, own in short.items()}
        taken = list(short.values())
        return cls(short={name: name if taken.count(own) > 1 else own for name, own in short.items()})

    def __getitem__(self, name: str) -> str:
        """The short name of a model."""
        return self.short[name]


def cost_headings() -> list[str]:
    """Of the table of speed and size."""
    return ["model", "images/s", "rounds", "queries/s", "memory", "disk", "dim", "input", "weights", "runtime"]


def cost_cells(row: ModelRow, labels: Labels) -> list[str]:
    """One row of the table of speed and size; random weights are named so."""
    low, high = row.images.range_per_s
    return [
        labels[row.model] + (f" ({RANDOM})" if row.random_weights else ""),
        rate(row.images.per_s),
        f"{rate(low)} to {rate(high)}",
        rate(row.texts.per_s),
        megabytes(row.memory_bytes),
        megabytes(row.facts.disk_bytes),
        str(row.facts.dim),
        f"{row.facts.input_px} px",
        RANDOM if row.random_weights else row.facts.precision,
        row.facts.runtime.replace("ExecutionProvider", ""),
    ]


def headline_metrics(measured: Iterable[str]) -> list[str]:
    """The metrics that a table has room for: shares, not ranks."""
    return [name for name in measured if any(word in name for word in _RATES)]


def describe_agreement(name: str, matrix: AgreementMatrix) -> str:
    """What the figures of a matrix are."""
    asked = {"text_to_image": "texts", "image_to_image": "pictures"}.get(name, "queries")
    return (
        f"Agreement, {name.replace('_', ' ')}: share of the first {matrix.k} of {matrix.n_candidates:,} pictures that "
        f"two models have in common, over {matrix.n_queries:,} {asked}; chance {percent(matrix.chance)}"
    )


def figure(metric: str, value: float) -> str:
    """A metric's value: rates in percent, ranks with one decimal."""
    if any(word in metric for word in _RATES):
        return percent(value)
    return f"{value:.1f}" if metric.endswith("_rank") else f"{value:.3f}"


def percent(value: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{value:.1%}"


def rate(per_s: float) -> str:
    """Three digits that count: 4.57, 45.7, 457, 4,570."""
    if per_s >= 100:
        return f"{float(f'{per_s:.3g}'):,.0f}"
    return f"{per_s:.3g}"


def megabytes(size_bytes: int | None) -> str:
    """Millions of bytes; `-` where it isn't known."""
    return (
        "-"
        if size_bytes is None
        else f"{size_bytes / 1e6:,.0f} MB"
        if size_bytes >= 1e7
        else f"{size_bytes / 1e6:.1f} MB"
    )


def standing(row: ModelRow, labels: Labels) -> str:
    """Whether a model is on the Pareto front, or who dominates it."""
    return (
        f"dominated by {', '.join(labels[name] for name in row.dominated_by)}" if row.dominated_by else "on the front"
    )


def distance(row: ModelRow, metric: str) -> str:
    """How far a model is behind the best, with the interval of that."""
    if not row.behind:
        return "best"
    in_percent = any(word in metric for word in _RATES)
    scale, number, unit = (100, "+z.1f", " points") if in_percent else (1, "+z.3f", "")
    text = f"{-scale * row.behind:{number}}{unit}"
    if row.behind_interval is None:
        return text
    low, high = row.behind_interval
    return f"{text} ({-scale * high:{number}} to {-scale * low:{number}})"


def _shorten(name: str, *, parts: int) -> str:
    if not name.startswith("dir:"):
        return name
    return "dir:" + "/".join(PurePath(name.removeprefix("dir:")).parts[-parts:])

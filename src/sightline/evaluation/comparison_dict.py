"""A comparison as plain JSON values: what `sightline compare --json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightline.evaluation.agreement_matrix import AgreementMatrix
from sightline.evaluation.comparison import Comparison, ModelRow, Speed
from sightline.evaluation.measured_model import SPEED_BATCH
from sightline.evaluation.published import load_published, pull_commands

_DECIMALS = 6


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """Metrics by CLIP_benchmark's names; what wasn't measured is left out of a model, never zero."""
    published = load_published()
    values: dict[str, Any] = {
        "data": comparison.data.dataset.name,
        "split": comparison.data.split,
        "n_images": comparison.n_images,
        "n_queries": len(comparison.data.queries),
        "machine": comparison.machine,
        "speed_batch": SPEED_BATCH,
        "quality": comparison.metric,
        "models": [_row_to_dict(row) for row in comparison.rows],
        "agreement": {name: _matrix_to_dict(matrix) for name, matrix in comparison.agreement.items()},
        "pareto": pareto_front(comparison),
    }
    if (table := comparison.similarities) is not None:
        values["similarities"] = {
            "texts": list(table.texts),
            "images": list(table.ids),
            "models": {name: _rounded(rows) for name, rows in table.models.items()},
        }
    values["published"] = {table.key: table.to_dict() for table in published}
    values["pull"] = pull_commands(published)
    if comparison.problems:
        values["left_out"] = [{"id": problem.id, "reason": problem.reason} for problem in comparison.problems]
    values["took_s"] = round(comparison.took_s, 2)
    return values


def pareto_front(comparison: Comparison) -> list[str]:
    """Models that no other dominates, of those whose quality was measured, best first."""
    metric = comparison.metric
    if metric is None:
        return []
    front = [row for row in comparison.rows if row.quality is not None and not row.dominated_by]
    return [row.model for row in sorted(front, key=lambda row: -row.quality.metrics[metric] if row.quality else 0.0)]


def _row_to_dict(row: ModelRow) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": row.model,
        "random_weights": row.random_weights,
        "runtime": row.facts.runtime,
        "precision": row.facts.precision,
        "dim": row.facts.dim,
        "input_px": row.facts.input_px,
        "weights_hash": row.facts.weights_hash,
        "images_per_s": _speed_to_dict(row.images),
        "text_queries_per_s": _speed_to_dict(row.texts),
        "memory_bytes": row.memory_bytes,
        "disk_bytes": row.facts.disk_bytes,
    }
    if row.quality is None or not row.quality.metrics:
        return values
    values["metrics"] = {name: round(value, _DECIMALS) for name, value in row.quality.metrics.items()}
    values["intervals"] = {name: _rounded([ends])[0] for name, ends in row.quality.intervals.items()}
    if row.behind is not None:
        values["behind"] = round(row.behind, _DECIMALS)
        values["behind_interval"] = _rounded([row.behind_interval])[0] if row.behind_interval else None
        values["dominated_by"] = list(row.dominated_by)
    return values


def _speed_to_dict(speed: Speed) -> dict[str, Any]:
    return {"median": round(speed.per_s, 1), "range": [round(end, 1) for end in speed.range_per_s]}


def _matrix_to_dict(matrix: AgreementMatrix) -> dict[str, Any]:
    return {
        "models": list(matrix.models),
        "k": matrix.k,
        "chance": round(matrix.chance, _DECIMALS),
        "n_queries": matrix.n_queries,
        "n_candidates": matrix.n_candidates,
        "overlap": _rounded(matrix.overlap),
        "correlation": _rounded(matrix.correlation),
    }


def _rounded(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(value, _DECIMALS) for value in row] for row in rows]

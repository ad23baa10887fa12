"""Searching 1,000,000 images by a query vector, and what that takes of memory.

python benchmarks/search_million.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import numpy as np
from report import Row, seconds, show
from search_library import FILTERS, MODEL, TOP, Space, fill

from sightline.core.store.sqlite import SqliteStore, open_store

_RECALL_QUERIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 rows: a smoke run")
    quick = parser.parse_args().quick
    count = 20_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as scratch:
        folder, space = Path(scratch) / "library", Space()
        queries, best = None, {}
        for start, chunk in zip(itertools.count(step=50_000), fill(folder, space.rows(count)), strict=False):
            if queries is None:
                queries = space.queries(chunk, _RECALL_QUERIES)
            best = _keep_best(best, chunk, queries, start)
        rows = _measure(folder, queries, best, count=count)
    show("search_million-quick" if quick else "search_million", rows)


def _keep_best(
    best: dict[int, list[tuple[float, int]]], rows_ND: np.ndarray, queries: np.ndarray, start: int
) -> dict[int, list[tuple[float, int]]]:
    """The exact nearest rows of each query so far, without holding all vectors."""
    cosine_QN = queries @ rows_ND.T
    for number, cosine_N in enumerate(cosine_QN):
        top = np.argpartition(-cosine_N, TOP)[:TOP]
        found = [(-float(cosine_N[row]), start + int(row) + 1) for row in top]
        best[number] = sorted([*best.get(number, []), *found])[:TOP]
    return best


def _measure(folder: Path, queries: np.ndarray, best: dict[int, list[tuple[float, int]]], *, count: int) -> list[Row]:
    size = f"{count:,} x {queries.shape[1]}"
    raw_mb = count * queries.shape[1] * 4 / 1e6
    with open_store(folder) as store:
        store.models()
        before_mb = _resident_mb()
        built_s = seconds(lambda: _build(store, queries[0]))
    with open_store(folder) as store:
        before_mb = _resident_mb()
        opened_ms = 1000 * seconds(lambda: _ask(store, queries[0]))
        rows = [
            Row(journey=f"matrix of {size}", unit="s", ours=built_s),
            Row(journey="first search of a process, file there", unit="ms", ours=opened_ms),
        ]
        recall = statistics.mean(
            len(set(_ask(store, query)) & {row for _, row in best[number]}) / TOP
            for number, query in enumerate(queries)
        )
        for label, where in FILTERS.items():
            _ask(store, queries[0], where)
            times = [seconds(lambda q=q, where=where: _ask(store, q, where)) for q in [*queries, *queries]]
            p50_ms = 1000 * statistics.median(times)
            rows.append(
                Row(
                    journey=f"vector to hits, {size}, {label}",
                    unit="ms",
                    ours=p50_ms,
                    goal="p50 <= 60 ms",
                    reached=p50_ms <= 60,
                )
            )
            if where is None:
                added_mb = _resident_mb() - before_mb
        rows.append(Row(journey="recall@10", unit="%", ours=100 * recall, goal=">= 99%", reached=recall >= 0.99))
        rows.append(
            Row(
                journey="memory that searching adds to the process",
                unit="MB",
                ours=added_mb,
                other=raw_mb,
                alternative="raw float32",
                ratio=raw_mb / added_mb,
                goal=f"<= {raw_mb / 3:.0f} MB",
                reached=added_mb <= raw_mb / 3,
            )
        )
    return rows


def _build(store: SqliteStore, query: np.ndarray) -> None:
    _ask(store, query)
    store._matrices.wait()


def _ask(store: SqliteStore, query: np.ndarray, where: str | None = None) -> list[int]:
    return [row for row, _ in store.query(query, TOP, model=MODEL, where=where)]


def _resident_mb() -> float:
    """Memory of this process, mapped files included, as Linux counts it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1000


if __name__ == "__main__":
    main()

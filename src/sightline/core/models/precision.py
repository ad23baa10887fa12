"""Which precision a model runs in: what was asked for, and what the gate said of its int8 graphs.

int8 graphs that were made here lie in the cache with a verdict for each tower (`image`, `text`) or for the whole model
(`captioner`). `auto` runs them only where the verdict is that they passed, under the thresholds of today.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sightline.core.models.hashes import hash_files
from sightline.kit.config import cache_dir

RECIPE_VERSION = 1
"""Raised when graphs of the same weights come out otherwise: older ones, and what was said of them, no longer count."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate measured of int8 graphs against their fp32 originals, and whether that was enough."""

    passed: bool
    measured: Mapping[str, float]
    """What was measured, by name: `cosine_mean`, `neighbour_overlap`, ..."""
    required: Mapping[str, float]
    """The thresholds in force, by name; a verdict under others is none."""
    n_samples: int
    """Images or texts that were compared."""
    sample: str = ""
    """Where they came from, for the reader."""
    int8_share: float = 1.0
    """Weights of matrix products and convolutions that are int8, as a part of all."""
    kept_fp32: tuple[str, ...] = ()
    """Layers that were left in fp32, the worst first."""
    took_s: float = 0.0
    runtime: str = ""
    """What ran the graphs: its name and version."""
    problem: str = ""
    """Why no int8 graph came about, where that is the reason to fail."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Graphs that were judged and kept: relative path -> SHA-256, where recorded."""
    recipe_version: int = field(default=RECIPE_VERSION)

    def describe(self) -> str:
        """One line: passed or failed, the figures, and what was left in fp32."""
        if self.problem:
            return f"failed: {self.problem}"
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.measured.items())
        line = f"{'passed' if self.passed else 'failed'} on {self.n_samples:,} {self.sample}: {figures}".rstrip()
        if self.kept_fp32 and self.passed:
            line += f"; {len(self.kept_fp32)} layers left in fp32, {self.int8_share:.0%} of the weights are int8"
        return line


def quantised_folder(graphs: Mapping[str, Path]) -> Path:
    """Where the int8 graphs of these fp32 graphs are kept, with their verdicts; it need not be there."""
    return cache_dir() / "int8" / hash_files(sorted(graphs.values()))[:32]


def int8_path(folder: Path, name: str) -> Path:
    """The int8 graph of a tower in such a folder."""
    return folder / "onnx" / f"{name}.int8.onnx"


def read_verdict(folder: Path, name: str, *, required: Mapping[str, float]) -> Verdict | None:
    """What was said of `name`; None where nothing was, or under other thresholds or by an older recipe."""
    try:
        values = json.loads(_verdict_path(folder, name).read_text(encoding="utf-8"))
        verdict = _from_json(values)
    except (OSError, ValueError, TypeError):
        return None  # what is missing or damaged in a cache is made anew
    return verdict if (verdict.recipe_version, verdict.required) == (RECIPE_VERSION, dict(required)) else None


def write_verdict(folder: Path, name: str, verdict: Verdict) -> None:
    """Keep a verdict, whole or not at all. Raises OSError where the cache can't be written."""
    path = _verdict_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(json.dumps(asdict(verdict), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _verdict_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.verdict.json"


def _from_json(values: Any) -> Verdict:
    """Raises TypeError or ValueError where the values are not a verdict's."""
    known = {entry.name for entry in fields(Verdict)}
    if not isinstance(values, dict) or set(values) != known or not isinstance(values["passed"], bool):
        raise ValueError("not a verdict")
    return Verdict(**{**values, "kept_fp32": tuple(values["kept_fp32"])})

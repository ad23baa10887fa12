"""The precision that a model runs in: what was asked for, and what a gate said of its int8 graphs.

int8 graphs that were made here lie in the cache with a verdict for each tower (`image`, `text`) or for the whole model
(`captioner`). `auto` runs them only where the verdict is that they passed, under the thresholds of today. Verdicts are
reached in `quantise.gate`, those of captioners where captions are compared: `sightline.lab.evaluation.captions.gate`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sightline.core.models import files
from sightline.core.models.cards import ENDPOINT_PREFIX, ModelCard
from sightline.core.models.inputs import IMAGES_PER_RUN, TEXTS_PER_RUN
from sightline.core.models.onnx_runtime import CPU, CPU_IMAGES_PER_RUN, available_providers
from sightline.errors import ModelError
from sightline.kit import config
from sightline.kit.config import PrecisionChoice, cache_dir
from sightline.kit.files import replacing, write_json
from sightline.kit.work import usable_cpus

RECIPE_VERSION = 1
"""Raised when graphs of the same weights come out otherwise: older ones, and what was said of them, no longer count."""

VERDICT_NAME = "captioner"
_LOG = logging.getLogger(__name__)
_ONLY_INT8 = "comes in int8 only; fp32 is refused"


@dataclass(frozen=True, kw_only=True)
class EncoderGate:
    """Thresholds for int8 vectors against fp32's, for each tower."""

    cosine_mean: float = 0.99
    """Mean cosine of a row in int8 to itself in fp32."""
    cosine_low: float = 0.98
    """The `low_percentile`-th percentile of these cosines."""
    neighbour_overlap: float = 0.9
    """Mean part of the `neighbours` nearest images that both agree on."""
    min_images: int = 256
    """Fewer say too little: with them the gate is not asked, and fp32 runs."""
    neighbours: int = 10
    low_percentile: float = 5.0
    min_int8_share: float = 0.5
    """Part of the weights that must be int8: with less there is little to gain."""

    @property
    def required(self) -> dict[str, float]:
        """The thresholds by the names of what is measured."""
        names = ("cosine_mean", "cosine_low", "neighbour_overlap")
        return {name: float(getattr(self, name)) for name in names}

    def passes(self, measured: Mapping[str, float]) -> bool:
        """True where all thresholds are reached."""
        return all(measured[name] >= least for name, least in self.required.items())


@dataclass(frozen=True, kw_only=True)
class CaptionerGate:
    """Thresholds for int8 captions against fp32's greedy ones; either of the two is enough."""

    identical: float = 0.95
    """Share of the images whose caption is the same, word for word."""
    cider_ratio: float = 0.9
    """CIDEr of the int8 captions with fp32's as reference, as a part of that of fp32's against themselves."""
    min_images: int = 256
    """Fewer images say too little."""

    @property
    def required(self) -> dict[str, float]:
        """The thresholds by name, as a verdict records them."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Figures of int8 graphs against their fp32 originals, and whether a gate found them enough."""

    passed: bool
    measured: Mapping[str, float]
    """Figures by name: `cosine_mean`, `neighbour_overlap`, ..."""
    required: Mapping[str, float]
    """The thresholds in force, by name; a verdict under others is none."""
    n_samples: int
    """Images or texts that were compared."""
    sample: str = ""
    """Their source, for the reader."""
    int8_share: float = 1.0
    """Weights of matrix products and convolutions that are int8, as a part of all."""
    kept_fp32: tuple[str, ...] = ()
    """Layers that were left in fp32, the worst first."""
    took_s: float = 0.0
    runtime: str = ""
    """Name and version of what ran the graphs."""
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
    """Folder for the int8 graphs of these fp32 graphs, with their verdicts; it need not be there."""
    return cache_dir() / "int8" / files.hash_files(sorted(graphs.values()))[:32]


def int8_path(folder: Path, name: str) -> Path:
    """The int8 graph of a tower in such a folder."""
    return folder / "onnx" / f"{name}.int8.onnx"


def read_verdict(folder: Path, name: str, *, required: Mapping[str, float]) -> Verdict | None:
    """The verdict on `name`; None where there is none, or one under other thresholds or by an older recipe."""
    try:
        values = json.loads(_verdict_path(folder, name).read_text(encoding="utf-8"))
        if set(values) != {entry.name for entry in fields(Verdict)} or not isinstance(values["passed"], bool):
            return None
        verdict = Verdict(**{**values, "kept_fp32": tuple(values["kept_fp32"])})
    except (OSError, ValueError, TypeError):
        return None  # what is missing or damaged in a cache is made anew
    return verdict if (verdict.recipe_version, verdict.required) == (RECIPE_VERSION, dict(required)) else None


def write_verdict(folder: Path, name: str, verdict: Verdict) -> None:
    """Keep a verdict, whole or not at all. Raises OSError where the cache can't be written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(_verdict_path(folder, name), asdict(verdict), indent=1)


def _verdict_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.verdict.json"


def read_verdicts(graphs: Mapping[str, Path], gate: EncoderGate | None = None) -> dict[str, Verdict]:
    """The verdicts on an encoder's towers; none where a graph that was passed is missing or damaged."""
    folder = quantised_folder(graphs)
    required = (gate or EncoderGate()).required
    verdicts = {name: read_verdict(folder, name, required=required) for name in graphs}
    return {
        name: verdict
        for name, verdict in verdicts.items()
        if verdict is not None and (not verdict.passed or _is_whole(int8_path(folder, name), verdict))
    }


def _is_whole(path: Path, verdict: Verdict) -> bool:
    return path.is_file() and files.hash_file(path) == verdict.files.get(f"onnx/{path.name}")


def choose_encoder_graphs(graphs: Mapping[str, Path], precision: PrecisionChoice | None = None) -> dict[str, Path]:
    """The graphs that run: those given, in fp32, or for each tower its int8 twin.

    A twin runs where the gate has passed it; never with `fp32`, with `auto` only on the CPU, and `int8` insists on that
    of the image tower. None is `config.precision()`. Raises ModelError where the gate hasn't passed what `int8` wants.
    """
    wanted = precision or config.precision()
    if wanted == "fp32" or (wanted == "auto" and not runs_on_cpu()):
        return dict(graphs)
    verdicts = read_verdicts(graphs)
    if wanted == "int8":
        advice = f"{EncoderGate().min_images} or more of your pictures: sightline models quantise NAME --images DIR"
        _require_passed(graphs["image"], verdicts.get("image"), advice)
    folder = quantised_folder(graphs)
    return {**graphs, **{name: int8_path(folder, name) for name, verdict in verdicts.items() if verdict.passed}}


def choose_captioner_graphs(graphs: Mapping[str, Path], precision: PrecisionChoice | None = None) -> dict[str, Path]:
    """The graphs that run: those given, in fp32, or their int8 twins where the gate has passed them, made if missing.

    Never with `fp32`; `int8` insists. None is `config.precision()`. Raises ModelError where the gate hasn't passed what
    `int8` wants.
    """
    wanted = precision or config.precision()
    verdict = None if wanted == "fp32" else _read_captioner_verdict(graphs)
    if wanted == "int8":
        advice = "your pictures: sightline.lab.evaluation.captions.gate.gate_captioner"
        _require_passed(graphs["decoder"], verdict, advice)
    if verdict is None or not verdict.passed:
        return dict(graphs)
    return make_int8(graphs)


def make_int8(graphs: Mapping[str, Path]) -> dict[str, Path]:
    """The int8 twins of a captioner's fp32 graphs, from the cache, or made now and kept there.

    Raises ModelError where that fails.
    """
    folder = quantised_folder(graphs)
    made = {name: int8_path(folder, name) for name in graphs}
    missing = [name for name, path in made.items() if not path.is_file()]
    if missing:
        _LOG.warning("Making int8 graphs of %s; this is done once.", " and ".join(missing))
        (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name in missing:
        with replacing(made[name]) as partial:
            write_int8(graphs[name], partial)
    return made


def write_int8(graph: Path, path: Path) -> None:
    """Write the int8 twin of a graph, in which no row of a batch changes another's result. Needs `onnx`."""
    import onnx

    from sightline.core.models.quantise.products import quantise_products
    from sightline.core.models.quantise.towers import usable_levels

    made, _ = quantise_products(onnx.load(graph), levels=usable_levels())
    onnx.save(made, path)


def _read_captioner_verdict(graphs: Mapping[str, Path]) -> Verdict | None:
    return read_verdict(quantised_folder(graphs), VERDICT_NAME, required=CaptionerGate().required)


def _require_passed(graph: Path, verdict: Verdict | None, judge_by: str) -> None:
    if verdict is None or not verdict.passed:
        said = verdict.describe() if verdict else "it has not been asked yet"
        raise ModelError(
            f"The gate has not passed int8 of {graph}: {said}. Use the precision auto or fp32, or let it judge by "
            f"{judge_by}"
        )


def runs_on_cpu() -> bool:
    """True where the CPU is the best that ONNX Runtime has here."""
    return available_providers()[0] == CPU


def describe_runtime(card: ModelCard) -> dict[str, Any]:
    """Facts about how a model runs here, without loading it: provider, threads, rows a run, precision, verdicts.

    The precision is what `config.precision()` leads to. Empty where the model is not on this machine. Raises ModelError
    where `int8` is asked for and was not passed.
    """
    folder = None if card.name.startswith(ENDPOINT_PREFIX) else files.find_local_folder(card)
    if folder is None:
        return {}
    if card.kind == "matcher":
        return {"runtime": "torch", "precision": "fp32", "gate": "not asked: it runs in PyTorch only"}
    facts: dict[str, Any] = {"provider": available_providers()[0], "threads": usable_cpus()}
    if card.kind == "encoder":
        facts["images_per_run"] = CPU_IMAGES_PER_RUN if runs_on_cpu() else IMAGES_PER_RUN
        facts["texts_per_run"] = TEXTS_PER_RUN
    graphs = files.find_graphs(folder, card)
    if graphs is None and files.find_weights(folder) and (files.exports_dir(folder) / files.CARD_FILE).is_file():
        graphs = files.find_graphs(files.exports_dir(folder), card)
    if graphs is None:
        return {**facts, "precision": "fp32", "gate": "exported to ONNX when it is first used"}
    return {**facts, **(_describe_encoder(graphs) if card.kind == "encoder" else _describe_captioner(graphs))}


def _describe_encoder(graphs: Mapping[str, Path]) -> dict[str, Any]:
    if files.only_int8(graphs):
        return {"precision": dict.fromkeys(graphs, "int8"), "gate": _ONLY_INT8}
    chosen = choose_encoder_graphs(graphs)
    precision = {name: "fp32" if path == graphs[name] else "int8" for name, path in chosen.items()}
    return {"precision": precision, "gate": _describe_verdicts(read_verdicts(graphs), EncoderGate().min_images)}


def _describe_captioner(graphs: Mapping[str, Path]) -> dict[str, Any]:
    if files.only_int8(graphs):
        return {"precision": "int8", "gate": _ONLY_INT8}
    verdict, wanted = _read_captioner_verdict(graphs), config.precision()
    precision = "int8" if wanted == "int8" or (wanted == "auto" and verdict is not None and verdict.passed) else "fp32"
    verdicts = {} if verdict is None else {VERDICT_NAME: verdict}
    return {"precision": precision, "gate": _describe_verdicts(verdicts, CaptionerGate().min_images)}


def _describe_verdicts(verdicts: Mapping[str, Verdict], min_images: int) -> Any:
    if not verdicts:
        return f"not asked yet; it needs {min_images} pictures: sightline models quantise NAME --images DIR"
    return {name: {"verdict": verdict.describe(), **asdict(verdict)} for name, verdict in verdicts.items()}

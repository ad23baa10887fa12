"""How a model runs on this machine, told without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sightline.core.models import captioner_precision, encoder_precision
from sightline.core.models.base import ModelCard
from sightline.core.models.cards import CARD_FILE
from sightline.core.models.gate import EncoderGate
from sightline.core.models.layout import find_graphs, find_weights
from sightline.core.models.onnx_encoder import CPU_IMAGES_PER_RUN, IMAGES_PER_RUN, TEXTS_PER_RUN
from sightline.core.models.onnx_session import available_providers
from sightline.core.models.precision import Verdict, quantised_folder, read_verdict
from sightline.core.models.registry import ENDPOINT_PREFIX
from sightline.core.models.resolve import exports_dir, find_local_folder
from sightline.kit import config
from sightline.kit.work import usable_cpus

_ONLY_INT8 = "comes in int8 only; fp32 is refused"


def describe_runtime(card: ModelCard) -> dict[str, Any]:
    """Provider, threads, rows a run, the precision that `config.precision()` leads to, and the gate's verdicts.

    Empty where the model is not on this machine. Raises ModelError where `int8` is asked for and was not passed.
    """
    folder = None if card.name.startswith(ENDPOINT_PREFIX) else find_local_folder(card)
    if folder is None:
        return {}
    provider = available_providers()[0]
    facts: dict[str, Any] = {"provider": provider, "threads": usable_cpus()}
    if card.kind == "encoder":
        facts["images_per_run"] = CPU_IMAGES_PER_RUN if provider == "CPUExecutionProvider" else IMAGES_PER_RUN
        facts["texts_per_run"] = TEXTS_PER_RUN
    graphs = _graphs(card, folder)
    if graphs is None:
        return {**facts, "precision": "fp32", "gate": "exported to ONNX when it is first used"}
    return {**facts, **(_of_encoder(graphs) if card.kind == "encoder" else _of_captioner(graphs))}


def _graphs(card: ModelCard, folder: Path) -> Mapping[str, Path] | None:
    """A model's own graphs, or those exported of its weights; None where that hasn't been done yet."""
    if (graphs := find_graphs(folder, card)) is not None or not find_weights(folder):
        return graphs
    exported = exports_dir(folder)
    return find_graphs(exported, card) if (exported / CARD_FILE).is_file() else None


def _of_encoder(graphs: Mapping[str, Path]) -> dict[str, Any]:
    if encoder_precision.only_int8(graphs):
        return {"precision": dict.fromkeys(graphs, "int8"), "gate": _ONLY_INT8}
    chosen = encoder_precision.choose_graphs(graphs)
    precision = {name: "fp32" if path == graphs[name] else "int8" for name, path in chosen.items()}
    return {"precision": precision, "gate": _told(encoder_precision.read_verdicts(graphs), EncoderGate().min_images)}


def _of_captioner(graphs: Mapping[str, Path]) -> dict[str, Any]:
    if encoder_precision.only_int8(graphs):
        return {"precision": "int8", "gate": _ONLY_INT8}
    gate = captioner_precision.CaptionerGate()
    verdict = read_verdict(quantised_folder(graphs), captioner_precision.VERDICT_NAME, required=gate.required)
    wanted = config.precision()
    passed = verdict is not None and verdict.passed
    precision = "int8" if wanted == "int8" or (wanted == "auto" and passed) else "fp32"
    verdicts = {} if verdict is None else {captioner_precision.VERDICT_NAME: verdict}
    return {"precision": precision, "gate": _told(verdicts, gate.min_images)}


def _told(verdicts: Mapping[str, Verdict], min_images: int) -> Any:
    if not verdicts:
        return f"not asked yet; it needs {min_images} pictures: sightline models quantise NAME --images DIR"
    return {name: {"verdict": verdict.describe(), **asdict(verdict)} for name, verdict in verdicts.items()}

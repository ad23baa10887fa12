"""int8 graphs of the benchmarks' models, without the gate: it judges values, and these are random. Kept in the cache.

Needs the extra `torch`.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import find_card
from sightline.core.models.files import weights_hash
from sightline.core.models.loading import fp32_graphs
from sightline.core.models.onnx_runtime import OnnxEncoder
from sightline.core.models.quantise.towers import Transformer


def int8_encoder(folder: Path) -> OnnxEncoder:
    """The encoder of a folder with fp32 graphs, both towers in int8."""
    card, folder, graphs = fp32_graphs(find_card(f"dir:{folder}"), folder)
    made = {name: folder / "int8" / f"{name}.int8.onnx" for name in graphs}
    for name, path in made.items():
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            _write(graphs[name], path, card.preprocessing if name == "image" else None)
    return OnnxEncoder(card, folder, weights_hash=weights_hash(card, folder), graphs=made)


def _write(graph: Path, path: Path, preprocessing: Preprocessing | None) -> None:
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    Transformer(onnx.load(graph), [], preprocessing=preprocessing).write(partial, keep=())
    partial.replace(path)

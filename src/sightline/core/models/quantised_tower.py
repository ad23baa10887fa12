"""One tower of an encoder on its way to int8: which recipe fits it, its layers by how much int8 costs them, the graph.

Needs `onnx`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.onnx_session import run_in_memory
from sightline.core.models.patches import take_pixels
from sightline.core.models.products import LEVELS, find_products, integer_product, quantise_products, rank_inputs
from sightline.core.models.quantise import CONVOLUTION_OPS, quantise_static

Batches = Sequence[Mapping[str, NDArray[Any]]]
"""Inputs of a graph by name."""

_SEVEN_BIT_LEVELS = 63
_RANKED_BATCHES = 1
"""Of transformers: many tensors of a batch are held at once, and rank inputs alike in every batch."""
_CONVOLUTION_GROUPS = 8


class Tower(Protocol):
    """What an fp32 graph can become."""

    def layers(self) -> list[tuple[str, ...]]:
        """Groups of layers that stay in fp32 together, the one that suffers most from int8 first."""
        ...

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        """Write the int8 graph with the layers `keep` in fp32; the part of the weights that is int8."""
        ...


def open_tower(path: Path, batches: Batches, *, preprocessing: Preprocessing | None = None) -> Tower:
    """The tower of an fp32 graph, by what holds most of its weights.

    `batches` are inputs to calibrate and rank with; `preprocessing` is that of an image tower.
    """
    model = onnx.load(path)
    in_products = sum(product.weight_KN.size for product in find_products(model).values())
    in_convolutions = sum(_convolution_sizes(model).values())
    if in_products >= in_convolutions:
        return Transformer(model, batches, preprocessing=preprocessing)
    return Convolutional(path, batches)


class Transformer:
    """int8 row by row; its layers are the inputs of its products. An image tower takes uint8 pixels where it can."""

    def __init__(self, model: Any, batches: Batches, *, preprocessing: Preprocessing | None) -> None:
        self._model = model
        self._batches = batches
        self._preprocessing = preprocessing

    def layers(self) -> list[tuple[str, ...]]:
        """See `Tower`."""
        return [(name,) for name in rank_inputs(self._model, self._batches[:_RANKED_BATCHES])]

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        """See `Tower`."""
        levels = usable_levels()
        made, share = quantise_products(self._model, keep=keep, levels=levels)
        if self._preprocessing is not None:
            take_pixels(made, self._preprocessing, levels=levels)
        onnx.save(made, path)
        return share


class Convolutional:
    """int8 with fixed ranges, found on the batches; its layers are stretches of nodes."""

    def __init__(self, path: Path, batches: Batches) -> None:
        self._path = path
        self._batches = batches
        model = onnx.load(path)
        self._outputs = [model.graph.output[0].name]
        self._sizes = _convolution_sizes(model)
        self._names = [node.name for node in model.graph.node if node.op_type in CONVOLUTION_OPS and node.name]

    def layers(self) -> list[tuple[str, ...]]:
        """See `Tower`: each group alone is made int8, and the cosine lost at the end of the tower decides."""
        groups = [tuple(part) for part in np.array_split(self._names, min(_CONVOLUTION_GROUPS, len(self._names)))]
        losses = {group: self._loss(set(self._names) - set(group)) for group in groups}
        return sorted(groups, key=lambda group: -losses[group])

    def write(self, path: Path, *, keep: Collection[str]) -> float:
        """See `Tower`."""
        reduce_range = usable_levels() != LEVELS
        quantise_static(self._path, path, self._batches, reduce_range=reduce_range, keep_fp32=keep)
        kept = sum(size for name, size in self._sizes.items() if name in keep)
        return 1 - kept / sum(self._sizes.values())

    def _loss(self, keep: Collection[str]) -> float:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            self.write(path, keep=keep)
            rough_BD = self._run(onnx.load(path))
        norms_B = np.linalg.norm(rough_BD, axis=1) * np.linalg.norm(self._exact_BD, axis=1)
        return float(1 - np.mean((rough_BD * self._exact_BD).sum(axis=1) / np.maximum(norms_B, 1e-12)))

    @cached_property
    def _exact_BD(self) -> NDArray[np.float32]:
        return self._run(onnx.load(self._path))

    def _run(self, model: Any) -> NDArray[np.float32]:
        (name,) = self._outputs
        return np.concatenate([values[name] for values in run_in_memory(model, self._batches, [name])])


@cache
def usable_levels() -> int:
    """Largest int8 weight that this processor multiplies exactly: without VNNI, sums of two products saturate."""
    made: list[Any] = [numpy_helper.from_array(np.array(value, kind), name) for name, value, kind in _PROBE]
    size = 64
    weight = np.full((size, size), LEVELS, np.float32)
    node = integer_product(("x", "one", "zero"), weight, output="y", made=made)
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", size])]
    graph = helper.make_graph([node], "probe", inputs, [helper.make_empty_tensor_value_info("y")], made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (values,) = run_in_memory(model, [{"x": np.full((size, size), 255, np.uint8)}], ["y"])
    return LEVELS if np.all(values["y"] == 255 * LEVELS * size) else _SEVEN_BIT_LEVELS


_PROBE = (("one", 1.0, np.float32), ("zero", 0, np.uint8))


def _convolution_sizes(model: Any) -> dict[str, int]:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    return {node.name: sizes.get(node.input[1], 0) for node in model.graph.node if node.op_type == "Conv"}

"""The captioner's int8 decoder, made small enough to ship: nothing twice, nor in four bytes where one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

LEVELS = 127
_SMALLEST = 2**14
"""Weights below are left as they are."""


def shrink(path: Path) -> None:
    """Rewrite a graph of `write_int8` in its place; its results change by rounding alone."""
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [new for node in model.graph.node for new in _rewritten(node, constants)]
    used = {name for node in nodes for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _rewritten(node: Any, constants: dict[str, Any]) -> list[Any]:
    if node.op_type == "MatMul" and constants.get(node.input[1], np.empty(0)).ndim == 3:
        return _with_int8_weight(node, constants)
    if node.op_type == "Gather" and constants.get(node.input[0], np.empty(0)).dtype == np.int8:
        return _from_the_output_layer(node, constants)
    return [node]


def _with_int8_weight(node: Any, constants: dict[str, Any]) -> list[Any]:
    """A weight for each head (K, A, B), which no integer product takes: int8 by row, turned back before its product."""
    name = node.input[1]
    weight_KAB = constants[name]
    if weight_KAB.size < _SMALLEST:
        return [node]
    rows_RB = weight_KAB.reshape(-1, weight_KAB.shape[-1])
    scale_R = (np.abs(rows_RB).max(axis=1) / LEVELS).astype(np.float32)
    constants[f"{name}/rows"] = np.rint(rows_RB / scale_R[:, None]).astype(np.int8)
    constants[f"{name}/scale"] = scale_R
    constants[f"{name}/shape"] = np.array(weight_KAB.shape, np.int64)
    product = helper.make_node("MatMul", [node.input[0], f"{name}/whole"], list(node.output), node.name)
    return [
        helper.make_node("DequantizeLinear", [f"{name}/rows", f"{name}/scale"], [f"{name}/float"], axis=0),
        helper.make_node("Reshape", [f"{name}/float", f"{name}/shape"], [f"{name}/whole"]),
        product,
    ]


def _from_the_output_layer(node: Any, constants: dict[str, Any]) -> list[Any]:
    """Embeddings and output layer are one table, tied in training: the embedding's rows are the other's columns."""
    table_VE = constants[node.input[0]]
    tied = next((name for name, value in constants.items() if np.array_equal(value, table_VE.T)), None)
    if tied is None:
        return [node]
    columns = f"{node.output[0]}/columns"
    ids_rank = 3
    return [
        helper.make_node("Gather", [tied, node.input[1]], [columns], axis=1),
        helper.make_node("Transpose", [columns], list(node.output), perm=[*range(1, ids_rank + 1), 0]),
    ]

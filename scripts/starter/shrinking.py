"""Weights that no integer product takes, in int8 all the same: a graph small enough to ship, computed in fp32.

Shape suffixes: K heads, A, B sides of a weight, R rows, V vocabulary, E width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

LEVELS = 127
_SMALLEST = 2**14
"""Weights below are left as they are."""
_WEIGHT_PLACE = {"MatMul": 1, "Gemm": 1, "Gather": 0}
_TIED_RANK = 3


def shrink(path: Path) -> None:
    """Rewrite a graph in its place: large fp32 weights of products and tables become int8 with a scale for each row."""
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
    place = _WEIGHT_PLACE.get(node.op_type)
    weight = constants.get(node.input[place], np.empty(0)) if place is not None else np.empty(0)
    if node.op_type == "Gather" and weight.dtype == np.int8:
        return _from_the_output_layer(node, constants)
    if weight.dtype == np.float32 and weight.size >= _SMALLEST and weight.ndim > 1:
        return _with_int8_weight(node, int(place or 0), constants)
    return [node]


def _with_int8_weight(node: Any, place: int, constants: dict[str, Any]) -> list[Any]:
    """The node with its weight in int8, a scale for each output where it is a matrix, turned back before its use."""
    name = node.input[place]
    weight = constants[name]
    columns = node.op_type == "MatMul" and weight.ndim == 2
    rows_RB = weight.T if columns else weight.reshape(-1, weight.shape[-1])
    scale_R = (np.maximum(np.abs(rows_RB).max(axis=1), 1e-12) / LEVELS).astype(np.float32)
    whole_RB = np.rint(rows_RB / scale_R[:, None]).astype(np.int8)
    constants[f"{name}/int8"] = np.ascontiguousarray(whole_RB.T) if columns else whole_RB
    constants[f"{name}/scale"] = scale_R
    floats = f"{node.output[0]}/weight"
    made = [helper.make_node("DequantizeLinear", [f"{name}/int8", f"{name}/scale"], [floats], axis=1 if columns else 0)]
    if not columns and weight.ndim > 2:
        constants[f"{name}/shape"] = np.array(weight.shape, np.int64)
        made.append(helper.make_node("Reshape", [floats, f"{name}/shape"], [f"{floats}/whole"]))
        floats = f"{floats}/whole"
    rewritten = onnx.NodeProto()
    rewritten.CopyFrom(node)
    rewritten.input[place] = floats
    return [*made, rewritten]


def _from_the_output_layer(node: Any, constants: dict[str, Any]) -> list[Any]:
    """Embeddings and output layer are one table, tied in training: the embedding's rows are the other's columns."""
    table_VE = constants[node.input[0]]
    tied = next((name for name, value in constants.items() if np.array_equal(value, table_VE.T)), None)
    if tied is None:
        return [node]
    columns = f"{node.output[0]}/columns"
    return [
        helper.make_node("Gather", [tied, node.input[1]], [columns], axis=1),
        helper.make_node("Transpose", [columns], list(node.output), perm=[*range(1, _TIED_RANK + 1), 0]),
    ]

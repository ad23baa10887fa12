"""Quantising: the int8 graphs run, stay near fp32 and hold int8 weights. Graphs of a few nodes, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from sightline.core.models.quantise.towers import quantise_static  # noqa: E402
from sightline.errors import ModelError  # noqa: E402

FLOAT = 1  # onnx.TensorProto.FLOAT


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """conv -> ReLU -> conv -> mean, (N, 3, 16, 16) -> (N, 8, 1, 1)."""
    rng = np.random.default_rng(0)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = [rng.standard_normal((8, width, 3, 3)).astype(np.float32) / 5 for width in (3, 8)]
    nodes = [
        helper.make_node("Conv", ["pixels", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", FLOAT, ["n", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("out", FLOAT, ["n", 8, 1, 1])]
    initialisers = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    return _saved(helper.make_graph(nodes, "convolution", inputs, outputs, initialisers), tmp_path / "conv.onnx")


@pytest.fixture
def multiplication(tmp_path: Path) -> Path:
    """A matrix product whose recorded shapes are wrong, as torch's exporter can leave them."""
    rng = np.random.default_rng(0)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = [rng.standard_normal((16, 16)).astype(np.float32) for _ in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("MatMul", ["a", "w1"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "multiplication",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("out", FLOAT, ["n", 16])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
        value_info=[helper.make_tensor_value_info("a", FLOAT, [3, 99])],
    )
    return _saved(graph, tmp_path / "matmul.onnx")


def test_static_quantisation_stays_near_fp32(convolution: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).standard_normal((20, 3, 16, 16)).astype(np.float32)
    quantise_static(convolution, tmp_path / "int8.onnx", ({"pixels": pixels[i : i + 5]} for i in range(0, 20, 5)))
    assert onnx.TensorProto.INT8 in _weight_types(tmp_path / "int8.onnx")
    assert _cosine(convolution, tmp_path / "int8.onnx", {"pixels": pixels}) > 0.99


def test_reduced_range_takes_seven_bits(convolution: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    quantise_static(convolution, tmp_path / "int8.onnx", [{"pixels": pixels}], reduce_range=True)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert weights
    assert max(int(np.abs(weight).max()) for weight in weights) <= 64


def test_static_quantisation_needs_images(convolution: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="at least one calibration batch"):
        quantise_static(convolution, tmp_path / "int8.onnx", [])


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no ONNX graph at .*none\.onnx"):
        quantise_static(tmp_path / "none.onnx", tmp_path / "int8.onnx", [{"x": np.zeros(1)}])


def _saved(graph: object, path: Path) -> Path:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def _weight_types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def _cosine(one: Path, other: Path, inputs: dict[str, NDArray[np.float32]]) -> float:
    """The lowest cosine of the two graphs' rows."""
    rows = []
    for path in (one, other):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        out = session.run(None, inputs)[0]
        out = out.reshape(len(out), -1)
        rows.append(out / np.linalg.norm(out, axis=1, keepdims=True))
    return float((rows[0] * rows[1]).sum(1).min())

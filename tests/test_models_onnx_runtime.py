"""Graphs: inputs are cast and checked, errors are ModelErrors, the provider is the best that works."""

import os

import numpy as np
import onnxruntime as ort
import pytest

from sightline.core.models import onnx_runtime
from sightline.core.models.onnx_runtime import available_providers, open_session
from sightline.errors import ModelError
from sightline.kit.work import usable_cpus

onnx = pytest.importorskip("onnx")


@pytest.fixture
def graph_path(tmp_path):
    """y = cast(ids) + x; z = -y."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["ids"], ["f"], to=types.FLOAT),
        helper.make_node("Add", ["f", "x"], ["y"]),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", types.INT64, ["batch", 2]),
        helper.make_tensor_value_info("x", types.FLOAT, ["batch", 2]),
    ]
    outputs = [helper.make_tensor_value_info(name, types.FLOAT, ["batch", 2]) for name in "yz"]
    model = helper.make_model(
        helper.make_graph(nodes, "add", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    path = tmp_path / "add.onnx"
    onnx.save(model, path)
    return path


def test_names_shapes_and_results(graph_path):
    graph = open_session(graph_path)
    assert (graph.inputs, graph.outputs) == (("ids", "x"), ("y", "z"))
    assert graph.shapes["y"] == ("batch", 2)
    results = graph.run({"ids": np.array([[1, 2]]), "x": np.array([[0.5, 0.5]], np.float32)})
    assert results["y"].tolist() == [[1.5, 2.5]]
    assert results["z"].tolist() == [[-1.5, -2.5]]


def test_inputs_are_cast_and_others_left_out(graph_path):
    feeds = {"ids": np.array([[1, 2]], np.int32), "x": np.ones((2, 1)).T, "mask": np.ones(1)}
    assert open_session(graph_path).run(feeds, ["z"]) == {"z": pytest.approx(np.array([[-2.0, -3.0]]))}  # type: ignore[arg-type]


def test_a_missing_input_and_a_failing_run_are_model_errors(graph_path):
    graph = open_session(graph_path)
    with pytest.raises(ModelError, match=r"needs the inputs ids, x; missing: x"):
        graph.run({"ids": np.array([[1, 2]])})
    with pytest.raises(ModelError, match="failed in ONNX Runtime"):
        graph.run({"ids": np.array([[1, 2]]), "x": np.ones((3, 3), np.float32)})


def test_missing_and_broken_graphs_are_model_errors(tmp_path):
    with pytest.raises(ModelError, match="There is no ONNX graph"):
        open_session(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="can't be loaded by ONNX Runtime"):
        open_session(tmp_path / "broken.onnx")


def test_the_best_installed_provider_comes_first(monkeypatch):
    installed = ["CPUExecutionProvider", "AzureExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: installed)
    assert available_providers() == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_does_not_start_leaves_the_cpu(graph_path, monkeypatch):
    real = ort.InferenceSession

    def start(path, sess_options, providers):
        if providers != ["CPUExecutionProvider"]:
            raise RuntimeError("no driver")
        return real(path, sess_options=sess_options, providers=providers)

    providers = ["DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx_runtime, "available_providers", lambda: providers)
    monkeypatch.setattr(ort, "InferenceSession", start)
    assert open_session(graph_path).provider == "CPUExecutionProvider"
    with pytest.raises(ModelError, match="no driver"):
        open_session(graph_path, providers=providers)


def test_threads_follow_the_cpus_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cpus() == 3
    assert onnx_runtime._session_options(2, []).intra_op_num_threads == 2

"""Products of a graph in int8: near fp32, row by row, and what is left in fp32 really is. Graphs of a few nodes."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sightline.core.images.preprocess import Preprocessing  # noqa: E402
from sightline.core.models.onnx_runtime import run_in_memory  # noqa: E402
from sightline.core.models.quantise.products import (  # noqa: E402
    LEVELS,
    find_products,
    quantise_products,
    rank_inputs,
    take_pixels,
)
from sightline.core.models.quantise.towers import usable_levels  # noqa: E402


def make_model(nodes, constants, *, inputs, outputs, opset=18):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    graph = helper.make_graph(
        nodes,
        "small",
        values,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def make_block(rng, *, opset=18, spread=1.0):
    """Two products of one transposed constant, after a product with a bias; and x through a Gemm.

    `spread` makes a channel of `c` that much larger, and the weights that take it smaller: the function is the same.
    """
    constants = {
        "w0": rng.standard_normal((16, 24)).astype(np.float32),
        "b0": rng.standard_normal(24).astype(np.float32),
        "w1": rng.standard_normal((8, 24)).astype(np.float32),
        "w2": rng.standard_normal((8, 16)).astype(np.float32),
        "b2": rng.standard_normal(8).astype(np.float32),
        "scale": (np.where(np.arange(24) == 3, spread, 1)).astype(np.float32),
    }
    constants["w3"] = constants["w1"].T / constants["scale"][:, None]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Add", ["a", "b0"], ["b"]),
        helper.make_node("Relu", ["b"], ["relu"]),
        helper.make_node("Mul", ["relu", "scale"], ["c"]),
        helper.make_node("Transpose", ["w1"], ["w1t"], perm=[1, 0]),
        helper.make_node("MatMul", ["c", "w1t" if spread == 1 else "w3"], ["y"]),
        helper.make_node("MatMul", ["b", "w1t"], ["z"]),
        helper.make_node("Gemm", ["x", "w2", "b2"], ["g"], transB=1),
    ]
    return make_model(
        nodes, constants, inputs=[("x", TensorProto.FLOAT, ["rows", 16])], outputs=["y", "z", "g"], opset=opset
    )


def run(model, feeds, outputs):
    (values,) = run_in_memory(model, [feeds], outputs)
    return values


def cosines(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@pytest.mark.parametrize("opset", [17, 18])
def test_all_products_become_int8_and_stay_near(rng, opset):
    x = rng.standard_normal((64, 16)).astype(np.float32)
    made, share = quantise_products(make_block(np.random.default_rng(0), opset=opset))
    exact = run(make_block(np.random.default_rng(0), opset=opset), {"x": x}, ["y", "z", "g"])
    assert share == 1
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 4
    assert not {"MatMul", "Gemm"} & set(kinds)
    assert kinds.count("QuantizeLinear") == 3  # x, c and b: one for each tensor that is multiplied
    assert {tensor.name for tensor in made.graph.initializer}.isdisjoint({"w0", "w1", "w1t", "w2"})
    for name, rough in run(made, {"x": x}, ["y", "z", "g"]).items():
        assert cosines(rough, exact[name]).min() > 0.999


def test_a_row_never_depends_on_its_neighbours(rng):
    made, _ = quantise_products(make_block(rng))
    x = rng.standard_normal((6, 16)).astype(np.float32)
    x[3] *= 1000  # a neighbour that would take the whole range
    together = run(made, {"x": x}, ["y", "g"])
    for row in range(6):
        alone = run(made, {"x": x[row : row + 1]}, ["y", "g"])
        for name in ("y", "g"):
            np.testing.assert_array_equal(alone[name][0], together[name][row])


def test_rows_of_zeros_give_the_bias(rng):
    model = make_block(rng)
    made, _ = quantise_products(model)
    zeros = {"x": np.zeros((2, 16), np.float32)}
    np.testing.assert_allclose(run(made, zeros, ["g"])["g"], run(model, zeros, ["g"])["g"], atol=1e-6)


def test_what_is_kept_is_bit_for_bit_fp32(rng):
    x = rng.standard_normal((8, 16)).astype(np.float32)
    made, share = quantise_products(make_block(np.random.default_rng(1)), keep=["x"])
    exact = run(make_block(np.random.default_rng(1)), {"x": x}, ["y", "g"])
    rough = run(made, {"x": x}, ["y", "g"])
    assert share == pytest.approx((24 * 8 * 2) / (24 * 8 * 2 + 16 * 24 + 16 * 8))
    np.testing.assert_array_equal(rough["g"], exact["g"])
    assert 0 < np.abs(rough["y"] - exact["y"]).max() < 1


def test_the_input_with_an_outlying_channel_ranks_first(rng):
    batch = {"x": rng.standard_normal((64, 16)).astype(np.float32)}
    inputs = [product.input for product in find_products(make_block(rng)).values()]
    assert list(dict.fromkeys(inputs)) == ["x", "c", "b"]
    assert rank_inputs(make_block(np.random.default_rng(1), spread=3000.0), [batch])[0] == "c"
    assert rank_inputs(make_block(np.random.default_rng(1)), [batch, batch])[0] != "c"


def test_large_tables_become_int8_rows(rng):
    table = rng.standard_normal((20_000, 64)).astype(np.float32) * np.exp(rng.standard_normal((20_000, 1)))
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    model = make_model(
        nodes,
        {"table": table.astype(np.float32)},
        inputs=[("ids", TensorProto.INT64, ["rows", "length"])],
        outputs=["y"],
    )
    made, _ = quantise_products(model)
    ids = np.array([[0, 19_999, 7], [3, 3, 3]])
    rough = run(made, {"ids": ids}, ["y"])["y"]
    assert rough.shape == (2, 3, 64)
    assert cosines(rough, table[ids]).min() > 0.9999
    assert len(made.SerializeToString()) < len(model.SerializeToString()) / 3


def patch_model(weight, bias, *, side, patch, **options):
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["planes"], kernel_shape=[patch] * 2, **options),
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        helper.make_node("Shape", ["image"], ["sizes"]),
    ]
    shape = ["batch", 3, side, side]
    return make_model(
        nodes,
        {"w": weight, "b": bias},
        inputs=[("image", TensorProto.FLOAT, shape)],
        outputs=["planes", "batch", "sizes"],
    )


def test_patches_of_pixels_equal_the_convolution_of_normalised_ones(rng):
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((10, 3, 4, 4), (10,)))
    preprocessing = Preprocessing(size_px=12, resize_mode="squash")
    model = patch_model(weight, bias, side=12, patch=4, strides=[4, 4])
    pixels = rng.integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    exact = run(model, {"image": preprocessing.normalise(pixels)}, ["planes", "batch", "sizes"])
    assert take_pixels(model, preprocessing)
    assert [entry.name for entry in model.graph.input] == ["pixels"]
    rough = run(model, {"pixels": pixels}, ["planes", "batch", "sizes"])
    assert rough["batch"].tolist() == [5]
    assert rough["sizes"].tolist() == [5, 3, 12, 12]
    assert rough["planes"].shape == exact["planes"].shape
    assert np.abs(rough["planes"] - exact["planes"]).max() < 0.01 * np.abs(exact["planes"]).max()


@pytest.mark.parametrize(
    "options",
    [{"strides": [2, 2]}, {"strides": [4, 4], "pads": [2] * 4}, {"strides": [4, 4], "auto_pad": "SAME_UPPER"}],
)
def test_other_first_layers_keep_their_input(rng, options):
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((10, 3, 4, 4), (10,)))
    model = patch_model(weight, bias, side=12, patch=4, **options)
    before = model.SerializeToString()
    assert not take_pixels(model, Preprocessing(size_px=12, resize_mode="squash"))
    assert model.SerializeToString() == before


def test_the_processor_multiplies_what_it_is_asked_to():
    assert usable_levels() in (LEVELS, 63)

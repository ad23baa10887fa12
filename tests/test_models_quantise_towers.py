"""The recipe follows what a tower is made of, convolutions keep stretches in fp32, the starter passes its gate."""

import numpy as np
import pytest

from conftest import SHARED_DATA
from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.cards import find_card, read_card
from sightline.core.models.files import PACKAGE_FOLDERS
from sightline.core.models.loading import load_encoder
from sightline.core.models.onnx_runtime import run_in_memory
from sightline.core.models.precision import EncoderGate
from sightline.core.models.quantise.gate import compare_vectors
from sightline.lab.data.addressing import load_dataset

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sightline.core.models.quantise.towers import Convolutional, Transformer, open_tower  # noqa: E402


def write_convolutional(path, rng, layers=4):
    """conv -> ReLU, a few times, -> mean over the picture -> a product."""
    widths = [3, *([8] * layers)]
    constants, nodes, last = {}, [], "pixel_values"
    for index in range(layers):
        constants[f"w{index}"] = rng.standard_normal((8, widths[index], 3, 3)).astype(np.float32) / 5
        nodes.append(
            helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], name=f"conv_{index}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu_{index}"))
        last = f"r{index}"
    constants |= {"w": rng.standard_normal((8, 6)).astype(np.float32), "axes": np.array([2, 3])}
    nodes.append(helper.make_node("ReduceMean", [last, "axes"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "w"], ["image_embeds"]))
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", 6])]
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "convolutional", inputs, outputs, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def batches(rng):
    return [{"pixel_values": rng.standard_normal((8, 3, 16, 16)).astype(np.float32)} for _ in range(2)]


def embed(path, batches):
    return np.concatenate(
        [values["image_embeds"] for values in run_in_memory(onnx.load(path), batches, ["image_embeds"])]
    )


def cosines(a, b):
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def test_convolutions_get_fixed_ranges(tmp_path, rng, batches):
    path = write_convolutional(tmp_path / "image.onnx", rng)
    preprocessing = Preprocessing(size_px=16, resize_mode="squash")
    tower = open_tower(path, batches, preprocessing=preprocessing)
    assert isinstance(tower, Convolutional)
    assert tower.write(tmp_path / "int8.onnx", keep=()) == 1
    made = onnx.load(tmp_path / "int8.onnx")
    assert "QuantizeLinear" in {node.op_type for node in made.graph.node}
    assert made.graph.input[0].name == "pixel_values"
    assert cosines(embed(path, batches), embed(tmp_path / "int8.onnx", batches)).min() > 0.99


def test_convolutions_rank_by_what_the_tower_loses_and_stay_in_fp32(tmp_path, rng, batches):
    path = write_convolutional(tmp_path / "image.onnx", rng)
    model = onnx.load(path)
    # a channel of the second layer a thousand times larger, and its readers' weights smaller: one scale for the whole
    # tensor leaves nothing of the others
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    second, third = (numpy_helper.to_array(weights[name]).copy() for name in ("w1", "w2"))
    second[5] *= 1000
    third[:, 5] /= 1000
    weights["w1"].CopyFrom(numpy_helper.from_array(second, "w1"))
    weights["w2"].CopyFrom(numpy_helper.from_array(third, "w2"))
    onnx.save(model, path)
    tower = open_tower(path, batches)
    exact = embed(path, batches)
    tower.write(tmp_path / "int8.onnx", keep=())
    assert cosines(exact, embed(tmp_path / "int8.onnx", batches)).mean() < 0.99
    ranked = tower.layers()
    assert sorted(name for group in ranked for name in group) == sorted(
        f"{kind}_{index}" for kind in ("conv", "relu") for index in range(4)
    )
    bad = {"conv_1", "relu_1", "conv_2"}
    assert set(ranked[0]) <= bad
    share = tower.write(tmp_path / "mixed.onnx", keep=bad)
    sizes = [3 * 72, 8 * 72, 8 * 72, 8 * 72]
    assert share == pytest.approx((sizes[0] + sizes[3]) / sum(sizes))
    assert cosines(exact, embed(tmp_path / "mixed.onnx", batches)).min() > 0.99


def test_a_tower_of_products_is_a_transformer(tmp_path, rng):
    weight = numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [weight],
    )
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    tower = open_tower(path, [{"x": np.ones((2, 4), np.float32)}])
    assert isinstance(tower, Transformer)
    assert tower.layers() == [("x",)]
    assert tower.write(tmp_path / "int8.onnx", keep=("x",)) == 0


def undo_fixed_ranges(model):
    """The starter's image tower with float activations: its ReLU6s had become the ends of a range."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    nodes = []
    for node in model.graph.node:
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear":
            ends = ["", ""] if constants[before.input[2]] else ["twin/lowest", "twin/highest"]
            nodes.append(helper.make_node("Clip", [before.input[0], *ends], [node.output[0]]))
        elif node.op_type != "QuantizeLinear":
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, end in (("twin/lowest", 0), ("twin/highest", 6)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(end), name))  # type: ignore[arg-type]
    return model


@pytest.mark.shared
def test_the_starter_passes_its_gate_on_real_photos():
    """The starter ships in int8 alone, so its fp32 twin is made of the rounded weights, with float activations."""
    card = find_card("starter")
    pairs = load_dataset(f"flickr8k:{SHARED_DATA / 'flickr8k'}", split="val")
    gate = EncoderGate()
    pixels = np.stack(
        [
            card.preprocessing.resize(pairs[row].image.read(min_side_px=card.preprocessing.size_px))
            for row in range(0, 3 * gate.min_images, 3)
        ]
    )
    folder = PACKAGE_FOLDERS["encoder"]
    assert read_card(folder).dim == card.dim
    twin = undo_fixed_ranges(onnx.load(folder / "onnx" / "image.int8.onnx"))
    batches = [
        {"pixel_values": card.preprocessing.normalise(pixels[start : start + 32])} for start in range(0, 256, 32)
    ]
    fp32 = np.concatenate([values["image_embeds"] for values in run_in_memory(twin, batches, ["image_embeds"])])
    fp32 /= np.linalg.norm(fp32, axis=1, keepdims=True)
    measured = compare_vectors(load_encoder("starter").encode_images(pixels), fp32, gate=gate)
    assert gate.passes(measured), measured
    assert measured["cosine_mean"] < 0.99999  # the twin is none of the same

"""The first layer of a vision transformer, taken to uint8 pixels: normalisation and patches become one int8 product.

A convolution whose patches don't overlap is a product with each patch, and `(x / 255 - mean) / std` is linear too.
Pixels are uint8 as they come, so nothing is lost on their side, and no float copy of a batch is made. Needs `onnx`.

Shape suffixes: S side in pixels, P side of a patch, G patches along a side, D width of the tower, K = P * P * 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sightline.core.images.preprocess import Preprocessing
from sightline.core.models.products import LEVELS, integer_product, quantise_weights

PIXELS_INPUT = "pixels"
"""Name of the input (B, S, S, 3) uint8."""


def take_pixels(model: Any, preprocessing: Preprocessing, *, levels: int = LEVELS) -> bool:
    """Make a model take uint8 pixels (B, S, S, 3), in place; False, and nothing done, where it can't be."""
    source = model.graph.input[0].name
    readers = [node for node in model.graph.node if source in node.input]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    conv = next((node for node in readers if node.op_type == "Conv"), None)
    if conv is None or not _cuts_patches(conv, constants, side=preprocessing.size_px):
        return False
    if any(node.op_type != "Shape" for node in readers if node is not conv):
        return False
    made: list[Any] = []
    nodes: list[Any] = []
    for node in model.graph.node:
        if node is conv:
            nodes += _patch_product(conv, constants, preprocessing, made, levels=levels)
        else:
            nodes += _shape_of_planes(node, made) if node in readers else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(made)
    _declare_pixels(model.graph.input[0], preprocessing.size_px)
    return True


def _cuts_patches(conv: Any, constants: Mapping[str, Any], *, side: int) -> bool:
    """Whether a convolution sees each pixel of a square picture once."""
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    weight = constants.get(conv.input[1])
    if weight is None or len(weight.dims) != 4 or any(name not in constants for name in conv.input[1:]):
        return False
    _, channels, height, width = weight.dims
    plain = (
        options.get("group", 1) == 1 and not any(options.get("pads", [])) and set(options.get("dilations", [1])) == {1}
    )
    square = height == width == options.get("strides", [1])[0] and options["strides"][0] == options["strides"][1]
    return bool(
        plain and square and channels == 3 and side % height == 0 and not options.get("auto_pad", b"").startswith(b"S")
    )


def _patch_product(
    conv: Any, constants: Mapping[str, Any], preprocessing: Preprocessing, made: list[Any], *, levels: int
) -> list[Any]:
    """Pixels -> patches (B, G * G, K) uint8 -> their product with the int8 weights -> what the convolution gave."""
    weight_DCPP = numpy_helper.to_array(constants[conv.input[1]]).astype(np.float64)
    bias_D = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else 0.0
    std_C11 = np.array(preprocessing.std)[:, None, None]
    patch_DPPC = (weight_DCPP / (255 * std_C11)).transpose(0, 2, 3, 1)
    width, patch = weight_DCPP.shape[0], weight_DCPP.shape[2]
    grid = preprocessing.size_px // patch
    weight_KD = patch_DPPC.reshape(width, -1).T.astype(np.float32)
    # The mean is taken off by the weights as they were rounded: what rounding changed meets centred pixels only.
    rounded_KD, scale_D = quantise_weights(weight_KD, levels=levels)
    mean_K = np.tile(255 * np.array(preprocessing.mean), patch * patch)
    shift_D = bias_D - mean_K @ (rounded_KD * scale_D)
    out = conv.output[0]
    shapes = {
        "cut": [-1, grid, patch, grid, patch, 3],
        "rows": [-1, grid * grid, patch * patch * 3],
        "planes": [-1, width, grid, grid],
    }
    made += [numpy_helper.from_array(np.array(shape, np.int64), f"{out}/{name}") for name, shape in shapes.items()]
    made += [
        numpy_helper.from_array(np.array(1, np.float32), f"{out}/one"),
        numpy_helper.from_array(np.array(0, np.uint8), f"{out}/zero"),
    ]
    made.append(numpy_helper.from_array(shift_D.astype(np.float32), f"{out}/shift"))
    scaled = f"{out}/patches", f"{out}/one", f"{out}/zero"
    return [
        helper.make_node("Reshape", [PIXELS_INPUT, f"{out}/cut"], [f"{out}/six"]),
        helper.make_node("Transpose", [f"{out}/six"], [f"{out}/turned"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", [f"{out}/turned", f"{out}/rows"], [scaled[0]]),
        integer_product(scaled, weight_KD, output=f"{out}/product", made=made, levels=levels),
        helper.make_node("Add", [f"{out}/product", f"{out}/shift"], [f"{out}/embedded"]),
        helper.make_node("Transpose", [f"{out}/embedded"], [f"{out}/channels_first"], perm=[0, 2, 1]),
        helper.make_node("Reshape", [f"{out}/channels_first", f"{out}/planes"], [out]),
    ]


def _shape_of_planes(node: Any, made: list[Any]) -> list[Any]:
    """What a Shape node said of (B, 3, S, S), told from (B, S, S, 3)."""
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    order, sizes = f"{node.output[0]}/order", f"{node.output[0]}/sizes"
    wanted = [0, 3, 1, 2][options.get("start", 0) : options.get("end")]
    made.append(numpy_helper.from_array(np.array(wanted, np.int64), order))
    return [
        helper.make_node("Shape", [PIXELS_INPUT], [sizes]),
        helper.make_node("Gather", [sizes, order], [node.output[0]]),
    ]


def _declare_pixels(declared: Any, side: int) -> None:
    batch = declared.type.tensor_type.shape.dim[0]
    shape = [batch.dim_param or batch.dim_value or "batch", side, side, 3]
    declared.CopyFrom(helper.make_tensor_value_info(PIXELS_INPUT, TensorProto.UINT8, shape))
